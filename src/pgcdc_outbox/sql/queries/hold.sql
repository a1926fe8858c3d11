-- name: try_lock
select pg_try_advisory_lock(%(key)s);

-- name: try_transaction_lock
select pg_try_advisory_xact_lock(%(key)s);

-- name: end_when_silent
-- Whichever of the two applies; a limit for a whole transaction would end ours too early.
select set_config(name, case when name like 'idle%%' then %(seconds)s else '0' end, %(local)s)
from pg_settings
where name in ('idle_session_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout');

-- name: schema_number
select max(number) from :"schema".migration;

-- name: take_over
-- Every hold has an epoch of its own; writes of earlier ones do nothing from here on.
-- A hold that was neither released nor ours ended with its process.
with before as materialized (
    select released_at is not null as released, instance is not distinct from %(instance)s as ours
    from :"schema".consumer
    where name = %(consumer)s
), taken as (
    insert into :"schema".consumer as c (name, epoch, instance, taken_at)
    values (%(consumer)s, 1, %(instance)s, clock_timestamp())
    on conflict (name) do update set
        epoch = c.epoch + 1,
        instance = excluded.instance,
        taken_at = excluded.taken_at,
        released_at = null,
        crashes = c.crashes + case
            when c.released_at is null and c.instance is distinct from excluded.instance then 1
            else 0
        end
    returning c.epoch, c.slot, c.crashes
)
select taken.epoch, taken.slot, taken.crashes,
       case
           when before.released is null then 'none'
           when before.released then 'released'
           when before.ours then 'ours'
           else 'crashed'
       end
from taken
left join before on true;

-- name: current_epoch
select max(epoch) from :"schema".consumer where name = %(consumer)s;

-- name: note_mode
update :"schema".consumer
set mode = %(mode)s
where name = %(consumer)s and epoch = %(epoch)s
returning 1;

-- name: release
-- The position is saved, and nobody of ours will report another. Nothing of ours
-- runs either: what we noted has ended, or was abandoned, and did no harm. What is
-- not to be repeated stays.
with released as (
    update :"schema".consumer
    set released_at = clock_timestamp(), crashes = 0
    where name = %(consumer)s and epoch = %(epoch)s
    returning name, instance
), ended as (
    delete from :"schema".started as s
    using released as r
    where s.consumer = r.name and s.instance = r.instance and not s.once
)
select count(*) from released;

-- name: whereabouts
select d.oid::bigint, d.datname, pg_is_in_recovery(), current_setting('server_version_num')::int,
       current_setting('wal_level'),
       case when pg_is_in_recovery() then null else pg_current_wal_flush_lsn()::text end,
       (select system_identifier::text from pg_control_system()),
       case
           when pg_is_in_recovery() then null
           else ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer
       end
from pg_database as d
where d.datname = current_database();

-- name: confirmed
-- How far the server knows that we are; nothing if the slot is gone.
select confirmed_flush_lsn::text
from pg_replication_slots
where slot_name = %(slot)s and confirmed_flush_lsn is not null;

-- name: load_traces
-- What was settled since the checkpoint, and the log may bring again: attempts, and
-- deliveries of jobs that were parked. A null stands for all deliveries of the attempt.
select id, attempt, parked
from (
    select id, attempt, null::integer as parked, xid
    from :"schema".failed where consumer = %(consumer)s
    union all
    select id, attempt, null, xid from :"schema".dead_letter where consumer = %(consumer)s
    union all
    select id, attempt, parked, xid from :"schema".trace where consumer = %(consumer)s
    union all
    select id, attempt, times - 1, xid from :"schema".parked where consumer = %(consumer)s
) as recorded
where xid >= pg_snapshot_xmin(%(since)s::pg_snapshot)
  and not pg_visible_in_snapshot(xid, %(since)s::pg_snapshot);

-- name: may_replicate
-- Some providers grant it by membership of a role of theirs.
select quote_ident(r.rolname), r.rolreplication or r.rolsuper or exists (
    select
    from pg_roles as provider
    where provider.rolname in ('rds_replication', 'azure_pg_admin', 'cloudsqlsuperuser')
      and pg_has_role(r.oid, provider.oid, 'member')
)
from pg_roles as r
where r.rolname = current_user;

-- name: retained
-- What the server keeps for a slot, in bytes of log; null for one that is lost.
select pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint
from pg_replication_slots
where slot_name = %(slot)s;
