-- name: promote
-- Put what is due back in line, each row by at most one caller. The CTEs with
-- the limit are materialized, because a subquery may be run more than once.
-- A trace of a failed job outlives its row: the log may still bring the row
-- that the failed attempt came from.
with due_failed as materialized (
    select consumer, id
    from :"schema".failed
    where consumer = %(consumer)s and due_at <= clock_timestamp()
    order by due_at
    limit %(limit)s
    for update skip locked
), taken_failed as (
    delete from :"schema".failed as f
    using due_failed as d
    where f.consumer = d.consumer and f.id = d.id
    returning f.*
), traced as (
    insert into :"schema".trace (consumer, id, attempt)
    select consumer, id, attempt from taken_failed
    on conflict (consumer, id, attempt) do update set parked = null, xid = excluded.xid
), put_failed as (
    insert into :"schema".immediate (
        id, attempt, topic, payload, key, headers, content_type, consumer, expires_at, history
    )
    select id, attempt + 1, topic, payload, key, headers, content_type, consumer, expires_at,
           jsonb_build_object(
               'created_us', (extract(epoch from created_at) * 1000000)::bigint,
               'prior_attempts', prior_attempts,
               'errors', errors
           )
    from taken_failed
    order by due_at, id
    returning 1
), due_scheduled as materialized (
    select id
    from :"schema".scheduled
    where due_at <= clock_timestamp()
    order by due_at
    limit %(limit)s
    for update skip locked
), taken_scheduled as (
    delete from :"schema".scheduled as s
    using due_scheduled as d
    where s.id = d.id
    returning s.*
), put_scheduled as (
    insert into :"schema".immediate (
        id, topic, payload, key, headers, content_type, expires_at, history
    )
    select id, topic, payload, key, headers, content_type, expires_at,
           jsonb_build_object('created_us', (extract(epoch from created_at) * 1000000)::bigint)
    from taken_scheduled
    order by due_at, id
    returning 1
)
select (select count(*) from put_scheduled), (select count(*) from put_failed),
       (extract(epoch from clock_timestamp()) * 1000000)::bigint;
