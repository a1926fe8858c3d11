-- Enqueue whenever a row changes, whoever changes it.
--   psql -v schema=outbox -f trigger.sql
--
-- The role that writes the table needs what any producer needs; or make the
-- function `security definer`, owned by a role that has it.

create table if not exists invoice (
    id    bigint  primary key,
    state text    not null,
    total numeric not null
);

-- The body is bound when it is created: no search_path can lead it elsewhere.
create or replace function invoice_enqueue(id bigint, state text, total numeric) returns bigint
language sql
begin atomic
    select :"schema".enqueue(
        topic   => 'invoice.' || state,
        payload => jsonb_build_object('id', id, 'state', state, 'total', total),
        key     => 'invoice-' || id
    );
end;

create or replace function invoice_changed() returns trigger
language plpgsql
as $$
begin
    perform invoice_enqueue(new.id, new.state, new.total);
    return null;
end
$$;

create or replace trigger invoice_inserted
    after insert on invoice
    for each row
    execute function invoice_changed();

create or replace trigger invoice_changed
    after update on invoice
    for each row
    when (old.state is distinct from new.state)
    execute function invoice_changed();

-- Try it.
insert into invoice (id, state, total) values (1, 'open', 12.50);
update invoice set state = 'paid' where id = 1;
