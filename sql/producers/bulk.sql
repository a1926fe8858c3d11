-- Enqueue one job for each row of a query, in one statement.
--   psql -v schema=outbox -f bulk.sql

insert into :"schema".immediate (topic, key, payload)
select 'customer.greet',
       'customer-' || customer.id,
       convert_to(to_jsonb(customer)::text, 'UTF8')
from (
    select id, 'customer ' || id as name
    from generate_series(1, 1000) as id
) as customer
order by customer.id;
