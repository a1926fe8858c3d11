-- What the testing kit asks of the outbox of a test. Nothing else runs these.

-- name: testing_jobs
-- Each job as it was enqueued, as one JSON document, which every driver reads alike: no
-- parameters, no per cent sign, no colon but in casts. A row for one consumer is a retry.
select cast(coalesce(json_agg(to_json(job) order by job.id), '[]') as text)
from (
    select distinct on (id) id, topic, encode(payload, 'hex') as payload, key, headers, content_type,
           cast(extract(epoch from created_at) * 1000000 as bigint) as created_us, due_at
    from (
        select id, topic, payload, key, headers, content_type, created_at,
               cast(null as timestamptz) as due_at
        from :"schema".immediate
        where consumer is null
        union all
        select id, topic, payload, key, headers, content_type, created_at, due_at
        from :"schema".scheduled
    ) as entry
    order by id
) as job

-- name: testing_failed
-- The jobs of one consumer whose last execution failed, and those that died.
select id, attempt, topic, key, due_at, null as reason,
       errors -> -1 ->> 'error' as error, errors -> -1 ->> 'text' as text
from :"schema".failed
where consumer = %(consumer)s
union all
select id, attempt, topic, key, null, reason,
       errors -> -1 ->> 'error', errors -> -1 ->> 'text'
from :"schema".dead_letter
where consumer = %(consumer)s
order by id

-- name: testing_pending
-- How many rows a consumer has to look at now: not passed by its position, or due. A row is
-- due when all the time that it was to wait was travelled: real time does not count. (But for
-- a millisecond: both of its times were read from the clock, one after the other.)
select (
    select count(*)
    from :"schema".immediate as i
    left join :"schema".checkpoint as k on k.consumer = %(consumer)s
    where (i.consumer is null or i.consumer = %(consumer)s)
      and not pg_visible_in_snapshot(i.xid, coalesce(k.snapshot, '1:1:'))
) + (
    select count(*) from :"schema".scheduled where due_at <= created_at + interval '1 ms'
) + (
    select count(*) from :"schema".failed where consumer = %(consumer)s and due_at <= failed_at + interval '1 ms'
) as jobs

-- name: testing_next_due
-- How much time is to be travelled until something is due; null if nothing will be.
select min(wait) as wait
from (
    select due_at - created_at as wait from :"schema".scheduled
    union all
    select due_at - failed_at from :"schema".failed where consumer = %(consumer)s
    union all
    select next_at - clock_timestamp() from :"schema".recurring where not paused
) as later

-- name: testing_hold_still
-- Before a consumer starts, which puts in line what is due by the real clock: what would be
-- so soon, and is not for the test, is moved out of its way, with the time that it began to wait.
with scheduled as (
    update :"schema".scheduled
    set due_at = due_at + interval '1 day', created_at = created_at + interval '1 day'
    where due_at > created_at + interval '1 ms' and due_at < clock_timestamp() + interval '1 hour'
)
update :"schema".failed
set due_at = due_at + interval '1 day', failed_at = failed_at + interval '1 day'
where due_at > failed_at + interval '1 ms' and due_at < clock_timestamp() + interval '1 hour'

-- name: testing_let_go
-- Afterwards: nothing else began to wait in the future.
with scheduled as (
    update :"schema".scheduled
    set due_at = due_at - interval '1 day', created_at = created_at - interval '1 day'
    where created_at > clock_timestamp()
)
update :"schema".failed
set due_at = due_at - interval '1 day', failed_at = failed_at - interval '1 day'
where failed_at > clock_timestamp()

-- name: testing_travel
-- Time passes by moving what waits for it: there is no other clock than the server's.
with scheduled as (
    update :"schema".scheduled
    set due_at = due_at - %(by)s, expires_at = expires_at - %(by)s
), immediate as (
    update :"schema".immediate set expires_at = expires_at - %(by)s where expires_at is not null
), failed as (
    update :"schema".failed
    set due_at = due_at - %(by)s, expires_at = expires_at - %(by)s
), parked as (
    update :"schema".parked set expires_at = expires_at - %(by)s where expires_at is not null
), dedup as (
    update :"schema".dedup set until = until - %(by)s
)
update :"schema".recurring set next_at = next_at - %(by)s, last_at = last_at - %(by)s

-- name: testing_now
select clock_timestamp() as now

-- name: testing_tables
select quote_ident(n.nspname) || '.' || quote_ident(c.relname) as name
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
where n.nspname = %(schema)s
  and c.relkind in ('r', 'p')
  and not c.relispartition
  and c.relname <> 'migration'

-- name: testing_consumers
-- Consumers that are still connected to this database.
select pid, application_name as name
from pg_stat_activity
where datname = current_database() and application_name like 'pgcdc-outbox/%%'

-- name: testing_blockers
-- Who has something open in this database.
select pid, application_name as name, state, left(query, 200) as query
from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() and xact_start is not null

-- name: testing_drop_slots
select pg_drop_replication_slot(slot_name)
from pg_replication_slots
where database = current_database() and not active
  and slot_name in (select slot from :"schema".consumer)
