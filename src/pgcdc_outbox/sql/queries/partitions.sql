-- name: partition_bounds
-- Null where a bound is MINVALUE or MAXVALUE. The text of a bound is written and
-- read by the same session, so its settings do not matter.
select c.relname as name, c.oid::bigint as oid,
       (regexp_match(b.bound, 'FROM \(''([^'']+)''\) TO'))[1]::timestamptz at time zone 'UTC' as lower,
       (regexp_match(b.bound, ' TO \(''([^'']+)''\)'))[1]::timestamptz at time zone 'UTC' as upper,
       b.bound = 'DEFAULT' as is_default,
       pg_total_relation_size(c.oid) as bytes,
       greatest(c.reltuples, 0)::bigint as estimate
from pg_catalog.pg_inherits as i
join pg_catalog.pg_class as c on c.oid = i.inhrelid
cross join lateral (select pg_get_expr(c.relpartbound, c.oid) as bound) as b
where i.inhparent = %(root)s::regclass
order by lower nulls first, name

-- name: server_now
select clock_timestamp() at time zone 'UTC' as now

-- name: take_turn
-- Until the end of the transaction, so that a pooler may share connections between them.
select pg_try_advisory_xact_lock(%(key)s) as taken

-- name: default_days
-- The days on which rows fell into DEFAULT, and from when to when.
select min(:"moment") at time zone 'UTC' as first, max(:"moment") at time zone 'UTC' as last
from :"schema".:"partition"
group by date_bin(interval '1 day', :"moment", %(origin)s)
order by first
limit %(limit)s

-- name: vacuum_partition
-- The rows that were moved still take space, and time whenever the table is checked.
vacuum :"schema".:"partition"

-- name: stray_tables
-- What looks like a partition of ours and is none: left by a crash, or kept by a person.
select c.relname as name
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where n.nspname = %(schema)s
  and c.relkind = 'r'
  and not c.relispartition
  and c.relname ~ ('^' || %(parent_name)s || '_[0-9]{8}t[0-9]{4}z$')
order by c.relname

-- name: table_present
select to_regclass(%(table)s) is not null as present

-- name: create_partition
-- With the index of the root, so that attaching builds none while others wait; and
-- with its own bounds as a CHECK, so that attaching does not read the table again.
create table :"schema".:"partition" (
    like :"schema".:"parent"
        including defaults including constraints including indexes including storage,
    constraint within_bounds
        check (:"moment" is not null and :"moment" >= %(lower)s and :"moment" < %(upper)s)
)

-- name: give_partition
-- To the owner of the root, so that any member of that role can drop it later.
select format('alter table %%s owner to %%I', %(table)s, r.rolname) as statement
from pg_catalog.pg_class as c
join pg_catalog.pg_roles as r on r.oid = c.relowner
where c.oid = %(root)s::regclass
  and r.rolname <> current_user

-- name: move_rows
-- Out of DEFAULT, which is the only partition this range can be in; everything as it was.
with moved as (
    delete from :"schema".:"parent"
    where :"moment" >= %(lower)s and :"moment" < %(upper)s
    returning *
)
insert into :"schema".:"partition"
select * from moved

-- name: lock_root_for_attaching
-- What ATTACH takes anyhow; it conflicts with no producer and no reader.
lock table only :"schema".:"parent" in share update exclusive mode

-- name: stop_producers
-- Who waits here has not been routed to a partition yet, and will see the new one.
-- Readers go on.
lock table only :"schema".:"parent" in share row exclusive mode

-- name: lock_partition
lock table only :"schema".:"partition" in access exclusive mode

-- name: attach_partition
alter table :"schema".:"parent"
    attach partition :"schema".:"partition" for values from (%(lower)s) to (%(upper)s)

-- name: drop_bounds_check
alter table :"schema".:"partition" drop constraint within_bounds

-- name: make_readers_forget
-- A publication that comes and goes tells every reader of the log to look again what is
-- published. Ours stays as it is: a consumer that sees it changed gives its slot up.
do $do$
declare
    passing text := 'pgcdc_forget_' || pg_current_xact_id()::text;
begin
    execute format('create publication %%I', passing);
    execute format('drop publication %%I', passing);
end
$do$

-- name: has_rows
select exists (select from :"schema".:"partition") as present

-- name: unsettled_by_consumer
-- For each consumer the rows of one partition that it may still need, counted up to a
-- limit. Without a checkpoint, while it re-reads, or when its checkpoint was taken in
-- another cluster (whose transaction ids mean nothing here), it has settled nothing.
-- A snapshot does not see what began after it was taken, nor what was open then: both
-- are found in the index, however old the oldest open transaction is.
select c.name as consumer, u.rows, u.since, k.saved_at,
       case
           when k.consumer is null then 'unstarted'
           when k.target is not null then 'rereading'
           when k.system_id <> s.system_identifier::text then 'foreign'
           else 'behind'
       end as why
from :"schema".consumer as c
cross join pg_control_system() as s
left join :"schema".checkpoint as k on k.consumer = c.name
cross join lateral (
    select case
        when k.consumer is not null
            and k.target is null
            and k.system_id = s.system_identifier::text
        then k.snapshot
        else '1:1:'::pg_snapshot
    end as seen
) as e
cross join lateral (
    select count(*) as rows, min(needed.created_at) as since
    from (
        select i.created_at
        from pg_snapshot_xip(e.seen) as open (xid)
        cross join lateral (
            select n.created_at
            from :"schema".:"partition" as n
            where n.xid = open.xid
              and (n.consumer is null or n.consumer = c.name)
            order by n.id
            limit %(limit)s
        ) as i
        union all
        (
            select i.created_at
            from :"schema".:"partition" as i
            where i.xid >= pg_snapshot_xmax(e.seen)
              and (i.consumer is null or i.consumer = c.name)
            order by i.xid, i.id
            limit %(limit)s
        )
        limit %(limit)s
    ) as needed
) as u
where u.rows > 0
order by c.name

-- name: any_consumer
select exists (select from :"schema".consumer) as present

-- name: truncate_partition
truncate table only :"schema".:"partition"

-- name: detach_partition
alter table :"schema".:"parent" detach partition :"schema".:"partition"

-- name: drop_table
drop table :"schema".:"partition"

-- name: forget_keys
-- Dedup keys whose time is over, a batch of them. One that is being taken again is left.
with due as materialized (
    select topic, dedup_key
    from :"schema".dedup
    where until <= clock_timestamp()
    order by until
    limit %(limit)s
    for update skip locked
), forgotten as (
    delete from :"schema".dedup as d
    using due
    where d.topic = due.topic and d.dedup_key = due.dedup_key
    returning 1
)
select count(*) as keys
from forgotten;
