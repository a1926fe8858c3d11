-- name: job_waiting
-- Where a job is put aside, for whom, and what is kept with it. Without its payload,
-- which is the same everywhere.
select 'scheduled' as place, null as consumer, null::integer as attempt, due_at, created_at,
       null::timestamptz as since, topic, key, headers, content_type,
       octet_length(payload) as payload_bytes, :"schema".readable(payload, content_type) as body,
       null as reason, '[]'::jsonb as errors, null::bigint as behind, expires_at
from :"schema".scheduled
where id = %(id)s
union all
select 'failed', consumer, attempt, due_at, created_at, failed_at, topic, key, headers, content_type,
       octet_length(payload), :"schema".readable(payload, content_type), null, errors, null, expires_at
from :"schema".failed
where id = %(id)s and consumer = any(%(consumers)s)
union all
select 'parked', p.consumer, p.attempt, null, p.created_at, p.parked_at, p.topic, p.key, p.headers,
       p.content_type, octet_length(p.payload), :"schema".readable(p.payload, p.content_type), null,
       p.errors, h.id, p.expires_at
from :"schema".parked as p
left join :"schema".held_key as h on h.consumer = p.consumer and h.key = p.key
where p.id = %(id)s and p.consumer = any(%(consumers)s)
union all
select 'dead', consumer, attempt, null, created_at, died_at, topic, key, headers, content_type,
       octet_length(payload), :"schema".readable(payload, content_type), reason, errors, null, expires_at
from :"schema".dead_letter
where id = %(id)s and consumer = any(%(consumers)s)

-- name: job_consumers
-- Who has, or had, to do with jobs: registered names, and those that left rows behind.
-- Each name is found with one look at the index. Whether a slot has reached the end of
-- the log is asked after the snapshot of this transaction was taken.
with recursive failing as (
    (select consumer from :"schema".failed order by consumer limit 1)
    union all
    select (select f.consumer from :"schema".failed as f where f.consumer > n.consumer order by f.consumer limit 1)
    from failing as n
    where n.consumer is not null
), dying as (
    (select consumer from :"schema".dead_letter order by consumer limit 1)
    union all
    select (select d.consumer from :"schema".dead_letter as d where d.consumer > n.consumer order by d.consumer limit 1)
    from dying as n
    where n.consumer is not null
), parking as (
    (select consumer from :"schema".parked order by consumer limit 1)
    union all
    select (select p.consumer from :"schema".parked as p where p.consumer > n.consumer order by p.consumer limit 1)
    from parking as n
    where n.consumer is not null
), named as (
    select name from :"schema".consumer
    union
    select consumer from failing where consumer is not null
    union
    select consumer from dying where consumer is not null
    union
    select consumer from parking where consumer is not null
)
select n.name, c.name is not null as registered, c.instance, c.released_at, k.saved_at as checkpoint_at,
       s.confirmed_flush_lsn::text as confirmed,
       coalesce(s.confirmed_flush_lsn >= w.position, false) as at_the_end
from named as n
left join :"schema".consumer as c on c.name = n.name
left join :"schema".checkpoint as k on k.consumer = n.name
left join pg_catalog.pg_replication_slots as s on s.slot_name = c.slot
cross join (
    select case when pg_is_in_recovery() then null else pg_current_wal_insert_lsn() end as position
) as w
where %(consumer)s::text is null or n.name = %(consumer)s
order by n.name

-- name: job_started
select consumer, attempt, instance, started_at
from :"schema".started
where id = %(id)s and consumer = any(%(consumers)s)

-- name: job_traces
select consumer, max(attempt) as attempt
from :"schema".trace
where id = %(id)s and consumer = any(%(consumers)s)
group by consumer

-- name: job_attempts
-- Distinct, because who does not know whether its rows were written writes them again.
select distinct consumer, attempt, topic, key, outcome, started_at, seconds, instance, jobs, error, text
from :"schema".attempt
where id = %(id)s
order by started_at, attempt

-- name: job_rows
-- The rows of a job in one partition: of the root by its bounds, because the root is what
-- roles have rights on; of DEFAULT by its name. And which consumers have settled them: what a
-- checkpoint sees, and was taken in this cluster.
select c.relname as partition, i.created_at, coalesce(i.attempt, 1) as attempt, i.consumer,
       i.topic, i.key, i.headers, i.content_type, octet_length(i.payload) as payload_bytes,
       :"schema".readable(i.payload, i.content_type) as body, i.expires_at,
       coalesce(i.history -> 'errors', '[]') as errors,
       timestamptz 'epoch' + (i.history ->> 'created_us')::bigint * interval '1 microsecond' as first_created_at,
       array(
           select k.consumer
           from :"schema".checkpoint as k
           cross join pg_control_system() as s
           where k.system_id = s.system_identifier::text and pg_visible_in_snapshot(i.xid, k.snapshot)
       ) as passed
from :"schema".:"parent" as i
join pg_catalog.pg_class as c on c.oid = i.tableoid
where i.id = %(id)s
  and i.created_at >= %(lower)s::timestamptz
  and i.created_at < %(upper)s::timestamptz

-- name: highest_id
-- The highest that was given out, to a transaction that may have been rolled back.
select case when is_called then last_value else last_value - 1 end as id
from :"schema".job_id

-- name: list_immediate
-- The newest rows first, by the index; how many were looked at, and how far back.
with looked as materialized (
    select i.id, i.consumer, i.topic, i.key, coalesce(i.attempt, 1) as attempt, i.created_at, i.xid
    from :"schema".immediate as i
    where i.created_at >= %(since)s
    order by i.xid desc, i.id desc
    limit %(looks)s
), needed as materialized (
    select c.name,
           case when k.system_id = s.system_identifier::text then k.snapshot end as snapshot
    from :"schema".consumer as c
    cross join pg_control_system() as s
    left join :"schema".checkpoint as k on k.consumer = c.name
    where %(consumer)s::text is null or c.name = %(consumer)s
), judged as (
    select l.*, exists (
        select
        from needed as n
        where (l.consumer is null or l.consumer = n.name)
          and not coalesce(pg_visible_in_snapshot(l.xid, n.snapshot), false)
    ) or not exists (
        select from :"schema".consumer as c where l.consumer is null or l.consumer = c.name
    ) as in_line
    from looked as l
    where (%(topic)s::text is null or l.topic = %(topic)s)
      and (%(key)s::text is null or l.key = %(key)s)
      and (%(consumer)s::text is null or l.consumer is null or l.consumer = %(consumer)s)
), chosen as (
    select *
    from judged
    where %(state)s = case when in_line then 'in_line' else 'settled' end or %(state)s is null
    order by xid desc, id desc
    limit %(limit)s
)
select a.looked, a.back_to, c.id, case when c.in_line then 'in_line' else 'settled' end as state,
       c.consumer, c.topic, c.key, c.attempt, c.created_at, null::timestamptz as due_at,
       null as reason, null as last_error
from (select count(*) as looked, min(created_at) as back_to from looked) as a
left join chosen as c on true

-- name: list_scheduled
with looked as materialized (
    select id, topic, key, created_at, due_at
    from :"schema".scheduled
    order by id desc
    limit %(looks)s
), chosen as (
    select *
    from looked
    where created_at >= %(since)s
      and (%(topic)s::text is null or topic = %(topic)s)
      and (%(key)s::text is null or key = %(key)s)
    order by id desc
    limit %(limit)s
)
select a.looked, a.back_to, c.id, 'scheduled' as state, null as consumer, c.topic, c.key, 1 as attempt,
       c.created_at, c.due_at, null as reason, null as last_error
from (select count(*) as looked, min(created_at) as back_to from looked) as a
left join chosen as c on true

-- name: list_failed
-- Of one consumer, as the index is.
with looked as materialized (
    select id, consumer, topic, key, attempt, created_at, due_at, errors
    from :"schema".failed
    where consumer = %(consumer)s
    order by id desc
    limit %(looks)s
), chosen as (
    select *
    from looked
    where created_at >= %(since)s
      and (%(topic)s::text is null or topic = %(topic)s)
      and (%(key)s::text is null or key = %(key)s)
    order by id desc
    limit %(limit)s
)
select a.looked, a.back_to, c.id, 'failed' as state, c.consumer, c.topic, c.key, c.attempt,
       c.created_at, c.due_at, null as reason,
       concat_ws(': ', c.errors -> -1 ->> 'error', c.errors -> -1 ->> 'text') as last_error
from (select count(*) as looked, min(created_at) as back_to from looked) as a
left join chosen as c on true

-- name: list_parked
with looked as materialized (
    select id, consumer, topic, key, attempt, created_at, errors
    from :"schema".parked
    where consumer = %(consumer)s
    order by id desc
    limit %(looks)s
), chosen as (
    select *
    from looked
    where created_at >= %(since)s
      and (%(topic)s::text is null or topic = %(topic)s)
      and (%(key)s::text is null or key = %(key)s)
    order by id desc
    limit %(limit)s
)
select a.looked, a.back_to, c.id, 'parked' as state, c.consumer, c.topic, c.key, c.attempt,
       c.created_at, null::timestamptz as due_at, null as reason,
       concat_ws(': ', c.errors -> -1 ->> 'error', c.errors -> -1 ->> 'text') as last_error
from (select count(*) as looked, min(created_at) as back_to from looked) as a
left join chosen as c on true

-- name: list_dead_jobs
with looked as materialized (
    select id, consumer, topic, key, attempt, created_at, reason, errors
    from :"schema".dead_letter
    where consumer = %(consumer)s
    order by id desc
    limit %(looks)s
), chosen as (
    select *
    from looked
    where created_at >= %(since)s
      and (%(topic)s::text is null or topic = %(topic)s)
      and (%(key)s::text is null or key = %(key)s)
    order by id desc
    limit %(limit)s
)
select a.looked, a.back_to, c.id, 'dead' as state, c.consumer, c.topic, c.key, c.attempt,
       c.created_at, null::timestamptz as due_at, c.reason,
       concat_ws(': ', c.errors -> -1 ->> 'error', c.errors -> -1 ->> 'text') as last_error
from (select count(*) as looked, min(created_at) as back_to from looked) as a
left join chosen as c on true

-- name: cancel
-- Takes a job out of where it waits. Promoting takes the same rows, and so does the
-- release of parked ones: whoever comes second waits for the first, and finds nothing.
-- What failed or was parked leaves a trace, because the log may bring it again. If it
-- held its key, the key is free.
with scheduled as (
    delete from :"schema".scheduled
    where id = %(id)s and %(everybody)s
    returning id
), failed as (
    delete from :"schema".failed
    where consumer = any(%(consumers)s) and id = %(id)s
    returning consumer, id, attempt
), parked as (
    delete from :"schema".parked
    where consumer = any(%(consumers)s) and id = %(id)s
    returning consumer, id, attempt
), traced as (
    insert into :"schema".trace (consumer, id, attempt)
    select consumer, id, max(attempt)
    from (select * from failed union all select * from parked) as put_aside
    group by consumer, id
    on conflict (consumer, id, attempt) do update set parked = null, xid = excluded.xid
), freed as (
    update :"schema".held_key as h
    set id = null
    from failed as f
    where h.consumer = f.consumer and h.id = f.id
)
select 'scheduled' as place, null as consumer from scheduled
union all
select 'failed', consumer from failed
union all
select 'parked', consumer from parked
order by 1, 2

-- name: replay_preview
-- First rows only: a retry is no job of its own, and neither is a copy. Those of a run
-- that is under way are copies too.
select topic, count(*) as jobs, min(created_at) as first, max(created_at) as last
from :"schema".immediate
where created_at >= %(since)s
  and created_at < %(until)s
  and consumer is null
  and (topic = %(topic)s or %(topic)s::text is null)
  and (key = %(key)s or %(key)s::text is null)
  and (headers is null or not headers ? 'pgcdc-replay-of')
group by topic
order by topic

-- name: replay
-- One batch, in the order of transactions and, in each, of ids. Ids are given out in
-- that order too, as the rows come sorted.
with originals as materialized (
    select i.xid, i.id, i.created_at, i.topic, i.payload, i.key, i.headers, i.content_type
    from :"schema".immediate as i
    where i.created_at >= %(since)s
      and i.created_at < %(until)s
      and (i.xid, i.id) > (%(after_xid)s::xid8, %(after_id)s)
      and i.consumer is null
      and (i.topic = %(topic)s or %(topic)s::text is null)
      and (i.key = %(key)s or %(key)s::text is null)
      and (i.headers is null or not i.headers ? 'pgcdc-replay-of')
    order by i.xid, i.id
    limit %(limit)s
), copies as (
    insert into :"schema".immediate (topic, payload, key, headers, content_type, consumer)
    select topic, payload, key,
           coalesce(headers, '{}') || jsonb_build_object(
               'pgcdc-replay-of', id::text,
               'pgcdc-replayed-at',
               to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
           ),
           content_type, %(consumer)s
    from originals
    order by xid, id
    returning 1
)
select (select count(*) from copies) as jobs, o.xid::text as xid, o.id, o.created_at
from originals as o
order by o.xid desc, o.id desc
limit 1

-- name: horizon
-- The partitions that may have rows, and when the outbox was made. One that is empty and
-- has another file than at first was emptied to be dropped.
select m.applied_at as made_at, clock_timestamp() as now,
       (regexp_match(b.bound, 'FROM \(''([^'']+)''\) TO'))[1]::timestamptz as lower,
       (regexp_match(b.bound, ' TO \(''([^'']+)''\)'))[1]::timestamptz as upper,
       coalesce(pg_relation_size(b.oid) = 0 and pg_relation_filenode(b.oid) <> b.oid, false) as emptied
from (select min(applied_at) as applied_at from :"schema".migration) as m
left join lateral (
    select c.oid, pg_get_expr(c.relpartbound, c.oid) as bound
    from pg_catalog.pg_inherits as i
    join pg_catalog.pg_class as c on c.oid = i.inhrelid
    where i.inhparent = %(root)s::regclass
      and pg_get_expr(c.relpartbound, c.oid) <> 'DEFAULT'
) as b on true
order by lower desc nulls last
