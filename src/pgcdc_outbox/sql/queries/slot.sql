-- name: find_slot
-- As JSON, because the columns of the view differ between versions.
select to_jsonb(s) as slot, a.application_name, a.client_addr::text, a.backend_start::text
from pg_catalog.pg_replication_slots as s
left join pg_catalog.pg_stat_activity as a on a.pid = s.active_pid
where s.slot_name = %(slot)s;

-- name: end_reader
-- Looks again whether that process still reads the slot: its pid may be another's by now.
select pg_terminate_backend(active_pid)
from pg_catalog.pg_replication_slots
where slot_name = %(slot)s and active_pid = %(pid)s;

-- name: end_creator
-- The process that makes a slot waits for a lock, and hears of a closed connection
-- only afterwards.
select pg_terminate_backend(pid)
from pg_catalog.pg_stat_activity
where pid = %(pid)s and backend_type = 'walsender';

-- name: writers
-- Whom the making of a slot waits for: whoever has written, in any database.
select coalesce('pid ' || pid, 'a prepared transaction') || ' (' || concat_ws(', ', who, state, since) || ')'
from (
    select pid, concat_ws(' in ', quote_ident(usename), quote_ident(datname)) as who, state,
           'since ' || date_trunc('second', xact_start) as since, xact_start as began
    from pg_catalog.pg_stat_activity
    where backend_xid is not null and pid <> pg_backend_pid()
    union all
    select null, concat_ws(' in ', quote_ident(owner), quote_ident(database)), quote_literal(gid),
           'since ' || date_trunc('second', prepared), prepared
    from pg_catalog.pg_prepared_xacts
) as writing
order by began
limit 5;

-- name: slots_lost
-- How many were made anew within the hour.
select count(*)
from :"schema".consumer as c
cross join unnest(c.slots_lost) as lost
where c.name = %(consumer)s and lost > clock_timestamp() - interval '1 hour';

-- name: consumer_known
select exists (select from :"schema".consumer where name = %(consumer)s);

-- name: hand_back
-- The hold moved no position, and handed out no job. Unlike release this says nothing
-- about the jobs, so crashes stay counted. What was lost is forgiven if a person saw to it.
update :"schema".consumer
set released_at = clock_timestamp(),
    slots_lost = case when %(forgive)s::boolean then '{}' else slots_lost end
where name = %(consumer)s and epoch = %(epoch)s
returning 1;

-- name: forget_settled
-- Transaction ids of another life mean nothing here: nothing is known to be settled.
with fence as materialized (
    select name
    from :"schema".consumer
    where name = %(consumer)s and epoch = %(epoch)s
    for share
), forgotten as (
    update :"schema".checkpoint as c
    set snapshot = '1:1:', target = null, target_lsn = null, cursor_xid = null, cursor_id = null
    from fence
    where c.consumer = fence.name
)
select count(*) from fence;

-- name: adopt_rows
-- Rows that we see although their transaction is not over, or has not begun: it ran in
-- the cluster that they were restored from. They become this transaction's.
with adopted as (
    update :"schema".immediate
    set xid = pg_current_xact_id()
    where xid >= pg_snapshot_xmin(pg_current_snapshot())
      and not pg_visible_in_snapshot(xid, pg_current_snapshot())
    returning 1
)
select count(*) from adopted;

-- name: slot_status
select d.consumer, c.slot, to_jsonb(s) as server,
       a.application_name as reader, a.client_addr::text as reader_address,
       pg_wal_lsn_diff(w.position, s.confirmed_flush_lsn)::bigint as lag_bytes,
       pg_wal_lsn_diff(w.position, s.restart_lsn)::bigint as retained_bytes,
       (
           select count(*)
           from unnest(c.slots_lost) as lost
           where lost > clock_timestamp() - interval '1 hour'
       ) as lost_within_an_hour,
       k.target is not null as rereading
from (select %(consumer)s::text as consumer, %(slot)s::text as slot) as d
left join :"schema".consumer as c on c.name = d.consumer
left join :"schema".checkpoint as k on k.consumer = d.consumer
left join pg_catalog.pg_replication_slots as s on s.slot_name = d.slot
left join pg_catalog.pg_stat_activity as a on a.pid = s.active_pid
cross join (
    select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end as position
) as w;

-- name: whereabouts_now
select oid::bigint as oid, datname from pg_catalog.pg_database where datname = current_database();

-- name: drop_slot
select pg_drop_replication_slot(slot_name)
from pg_catalog.pg_replication_slots
where slot_name = %(slot)s;
