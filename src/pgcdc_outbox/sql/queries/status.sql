-- name: job_counts
-- Exact up to a limit; immediate may be far too large to be counted.
select (
           select count(*) from (select from :"schema".immediate limit %(limit)s) as counted
       ) as immediate,
       (
           select coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint
           from pg_catalog.pg_inherits as i
           join pg_catalog.pg_class as c on c.oid = i.inhrelid
           where i.inhparent = %(root)s::regclass
       ) as immediate_estimate,
       (select count(*) from :"schema".scheduled where due_at > clock_timestamp()) as scheduled,
       (select count(*) from :"schema".scheduled where due_at <= clock_timestamp()) as scheduled_due,
       (select count(*) from :"schema".failed where due_at > clock_timestamp()) as failed,
       (select count(*) from :"schema".failed where due_at <= clock_timestamp()) as failed_due,
       (select count(*) from :"schema".parked) as parked,
       (select count(*) from :"schema".held_key) as held_keys

-- name: dead_by_reason
select reason, count(*) as jobs
from :"schema".dead_letter
group by reason
order by jobs desc, reason

-- name: consumer_states
select c.name, c.mode, c.slot, c.epoch, c.instance, c.taken_at, c.crashes,
       k.flushed::text as flushed, k.saved_at as checkpoint_at,
       extract(epoch from clock_timestamp() - k.saved_at)::float8 as checkpoint_age_seconds,
       k.target is not null as rereading
from :"schema".consumer as c
left join :"schema".checkpoint as k on k.consumer = c.name
order by c.name

-- name: default_rows
select count(*) as rows from (select from :"schema".:"partition" limit %(limit)s) as counted
