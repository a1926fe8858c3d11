-- name: take_position
-- The order matters: whatever is visible in the snapshot wrote its commit
-- before the position that is read after it.
select pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text;

-- name: take_position_held
-- The same for whoever still holds the consumer; nothing for anybody else.
select pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text
from :"schema".consumer
where name = %(consumer)s and epoch = %(epoch)s;

-- name: save_flushed
-- The place alone, before the server is told of it.
with fence as materialized (
    select name, set_config('synchronous_commit', 'off', true)
    from :"schema".consumer
    where name = %(consumer)s and epoch = %(epoch)s
    for share
), moved as (
    update :"schema".checkpoint as c
    set flushed = %(flushed)s::pg_lsn, saved_at = clock_timestamp()
    from fence
    where c.consumer = fence.name
)
select count(*) from fence;

-- name: load_checkpoint
select system_id, timeline, snapshot::text, lsn::text, flushed::text,
       target::text, target_lsn::text, cursor_xid::text, cursor_id
from :"schema".checkpoint
where consumer = %(consumer)s;

-- name: save_checkpoint
-- Writes nothing for an old epoch. The traces that the log cannot bring any
-- more go with it.
with fence as materialized (
    select name
    from :"schema".consumer
    where name = %(consumer)s and epoch = %(epoch)s
    for share
), pruned as (
    delete from :"schema".trace as t
    using fence
    where t.consumer = fence.name
      and t.xid < pg_snapshot_xmax(%(snapshot)s::pg_snapshot)
      and pg_visible_in_snapshot(t.xid, %(snapshot)s::pg_snapshot)
), saved as (
    insert into :"schema".checkpoint (consumer, system_id, timeline, snapshot, lsn, flushed)
    select name, %(system_id)s, %(timeline)s, %(snapshot)s::pg_snapshot, %(lsn)s::pg_lsn, %(flushed)s::pg_lsn
    from fence
    on conflict (consumer) do update set
        system_id = excluded.system_id,
        timeline = excluded.timeline,
        snapshot = excluded.snapshot,
        lsn = excluded.lsn,
        flushed = excluded.flushed,
        target = null,
        target_lsn = null,
        cursor_xid = null,
        cursor_id = null,
        saved_at = clock_timestamp()
)
select count(*) from fence;

-- name: forget_slot
-- Before a slot is made: from here until plan_reconcile no slot continues the
-- checkpoint, whatever a crash leaves behind.
update :"schema".consumer
set slot = null
where name = %(consumer)s and epoch = %(epoch)s
returning 1;

-- name: plan_reconcile
-- The new slot takes over where target ends; what is visible in it, and not in
-- the checkpoint's snapshot, is to be read from the table.
with fence as materialized (
    update :"schema".consumer
    set slot = %(slot)s,
        slots_lost = case
            when %(lost)s::boolean then array(
                select lost
                from unnest(slots_lost || clock_timestamp()) as lost
                order by lost desc
                limit %(keep)s
            )
            else slots_lost
        end
    where name = %(consumer)s and epoch = %(epoch)s
    returning name
), planned as (
    insert into :"schema".checkpoint (
        consumer, system_id, timeline, snapshot, lsn, flushed, target, target_lsn
    )
    select name, %(system_id)s, %(timeline)s, '1:1:'::pg_snapshot, '0/0', '0/0',
           %(target)s::pg_snapshot, %(target_lsn)s::pg_lsn
    from fence
    on conflict (consumer) do update set
        system_id = excluded.system_id,
        timeline = excluded.timeline,
        lsn = excluded.lsn,
        flushed = excluded.flushed,
        target = excluded.target,
        target_lsn = excluded.target_lsn,
        cursor_xid = null,
        cursor_id = null,
        saved_at = clock_timestamp()
)
select count(*) from fence;
