-- name: lag
-- The view of slots as JSON, because its columns differ between versions. A job
-- counts as unsettled until a checkpoint says otherwise, and checkpoints are saved
-- every few seconds: unless the slot has reached the end of the log. The oldest
-- job is looked up among what the snapshot does not see: transactions that were open
-- then, and those after it. However old the oldest open one is, that costs no more.
-- Who polls has no slot: it is active if its process is connected, and behind by the
-- log since its position, if there is a job that it has not settled.
select c.name as consumer, c.mode, c.slot, c.instance,
       s.slot_name is not null as slot_exists,
       coalesce(s.active, p.polls and exists (
           select from pg_catalog.pg_stat_activity as a where a.application_name = c.instance
       )) as active,
       j.slot ->> 'wal_status' as wal_status,
       (j.slot ->> 'safe_wal_size')::bigint as safe_wal_bytes,
       case
           when coalesce(j.slot ->> 'invalidation_reason', '') <> '' then j.slot ->> 'invalidation_reason'
           when j.slot ->> 'wal_status' = 'lost' then 'lost'
       end as invalid,
       case
           when not p.polls then pg_wal_lsn_diff(w.position, s.confirmed_flush_lsn)
           when o.id is null then 0
           else pg_wal_lsn_diff(w.position, coalesce(k.lsn, '0/0'))
       end::bigint as lag_bytes,
       pg_wal_lsn_diff(w.position, s.restart_lsn)::bigint as retained_bytes,
       extract(epoch from clock_timestamp() - k.saved_at)::float8 as checkpoint_age_seconds,
       k.target is not null as rereading,
       o.id as oldest_id,
       case
           when s.confirmed_flush_lsn >= w.position or o.id is null then 0
           else greatest(extract(epoch from clock_timestamp() - o.created_at), 0)
       end::float8 as behind_seconds,
       (select count(*) from :"schema".failed as f where f.consumer = c.name) as failed,
       (select count(*) from :"schema".parked as p where p.consumer = c.name) as parked,
       (select count(*) from :"schema".dead_letter as d where d.consumer = c.name) as dead
from :"schema".consumer as c
left join :"schema".checkpoint as k on k.consumer = c.name
left join pg_catalog.pg_replication_slots as s on s.slot_name = c.slot
cross join lateral (select to_jsonb(s) as slot) as j
cross join lateral (
    select c.slot is null and coalesce(c.mode = 'polling', false) as polls
) as p
cross join (
    select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end as position
) as w
left join lateral (
    select f.id, f.created_at
    from (
        select i.xid, i.id, i.created_at
        from pg_snapshot_xip(k.snapshot) as open (xid)
        cross join lateral (
            select n.xid, n.id, n.created_at
            from :"schema".immediate as n
            where n.xid = open.xid
              and (n.consumer is null or n.consumer = c.name)
            order by n.id
            limit 1
        ) as i
        union all
        (
            select i.xid, i.id, i.created_at
            from :"schema".immediate as i
            where i.xid >= coalesce(pg_snapshot_xmax(k.snapshot), '0')
              and (i.consumer is null or i.consumer = c.name)
            order by i.xid, i.id
            limit 1
        )
    ) as f
    order by f.xid, f.id
    limit 1
) as o on true
where %(consumer)s::text is null or c.name = %(consumer)s
order by c.name

-- name: oldest_writer
-- A transaction that has written holds the log from where it began, in whatever
-- database it runs; so does a prepared one, which has no pid.
select pid, age_seconds, what
from (
    select pid, extract(epoch from clock_timestamp() - xact_start)::float8 as age_seconds,
           concat_ws(' ', state, 'in', datname, 'by', usename) as what
    from pg_catalog.pg_stat_activity
    where backend_xid is not null and xact_start is not null and pid <> pg_backend_pid()
    union all
    select null, extract(epoch from clock_timestamp() - prepared)::float8,
           concat_ws(' ', 'prepared', gid, 'in', database, 'by', owner)
    from pg_catalog.pg_prepared_xacts
) as writers
order by age_seconds desc
limit 1
