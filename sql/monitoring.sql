-- Questions to ask an outbox from your monitoring, each statement by itself.
--   psql -v schema=outbox -f sql/monitoring.sql
-- Who asks needs the role pgcdc_outbox_operator (roles.sql) and, to see other
-- people's transactions, pg_read_all_stats.

-- Slots: how many bytes the consumer is behind, how many the server keeps for it, and
-- how many may be written before the slot is in danger (null: no limit is set, so a
-- dead consumer fills the disk; see max_slot_wal_keep_size). Alert on a missing slot,
-- on wal_status other than reserved and extended, and on lag_bytes.
select c.name as consumer, c.slot, s.slot_name is not null as present, coalesce(s.active, false) as active,
       s.wal_status, s.safe_wal_size,
       pg_wal_lsn_diff(pg_current_wal_lsn(), s.confirmed_flush_lsn)::bigint as lag_bytes,
       pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::bigint as retained_bytes
from :"schema".consumer as c
left join pg_replication_slots as s on s.slot_name = c.slot
order by c.name;

-- The oldest job of each consumer that no checkpoint knows to be settled. A checkpoint
-- is saved every few seconds, so that a job seconds old is nothing to worry about.
select c.name as consumer, o.id, o.topic, clock_timestamp() - o.created_at as age
from :"schema".consumer as c
left join :"schema".checkpoint as k on k.consumer = c.name
cross join lateral (
    select f.id, f.topic, f.created_at
    from (
        select i.*
        from pg_snapshot_xip(k.snapshot) as open (xid)
        cross join lateral (
            select n.xid, n.id, n.topic, n.created_at
            from :"schema".immediate as n
            where n.xid = open.xid
              and (n.consumer is null or n.consumer = c.name)
            order by n.id
            limit 1
        ) as i
        union all
        (
            select i.xid, i.id, i.topic, i.created_at
            from :"schema".immediate as i
            where i.xid >= coalesce(pg_snapshot_xmax(k.snapshot), '0')
              and (i.consumer is null or i.consumer = c.name)
            order by i.xid, i.id
            limit 1
        )
    ) as f
    order by f.xid, f.id
    limit 1
) as o
order by c.name;

-- Jobs that failed, and jobs that will not be tried again by themselves.
select consumer, count(*) as failed, min(due_at) as next_due from :"schema".failed group by consumer;
select consumer, reason, count(*) as dead, max(died_at) as last_died
from :"schema".dead_letter
group by consumer, reason;

-- Scheduled jobs that should have been promoted: not zero for long means no consumer runs.
select count(*) as overdue, min(due_at) as since
from :"schema".scheduled
where due_at < clock_timestamp() - interval '1 minute';

-- Partitions. Rows in DEFAULT, or nothing ahead of today, mean that maintenance does not run.
select c.relname as partition, pg_get_expr(c.relpartbound, c.oid) as bounds,
       greatest(c.reltuples, 0)::bigint as rows_estimate, pg_total_relation_size(c.oid) as bytes
from pg_inherits as i
join pg_class as c on c.oid = i.inhrelid
join pg_class as r on r.oid = i.inhparent
join pg_namespace as n on n.oid = r.relnamespace
where n.nspname = :'schema'
  and r.relname = 'immediate'
order by c.relname;

-- Transactions that have written and are still open hold the log for every slot, in
-- whatever database they run, although nothing is wrong with the consumer.
select pid, datname, usename, state, clock_timestamp() - xact_start as age, left(query, 60) as query
from pg_stat_activity
where backend_xid is not null
order by xact_start
limit 5;

-- Prepared transactions do so too, and no process is left to end them.
select gid, database, owner, clock_timestamp() - prepared as age
from pg_prepared_xacts
order by prepared
limit 5;
