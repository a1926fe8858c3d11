-- name: count_unsettled
-- Up to a limit: it is told to people before the reading begins, which must not wait for it.
select count(*)
from (
    select
    from :"schema".immediate
    where (xid, id) > (%(xid)s::xid8, %(id)s)
      and xid < pg_snapshot_xmax(%(target)s::pg_snapshot)
      and not pg_visible_in_snapshot(xid, %(since)s::pg_snapshot)
      and pg_visible_in_snapshot(xid, %(target)s::pg_snapshot)
      and (consumer is null or consumer = %(consumer)s)
    limit %(limit)s
) as unsettled;

-- name: stay_in_partitions
-- While rows move from DEFAULT to a partition of their own, a reader that has begun to plan
-- would wait for DEFAULT, and then find them neither there nor in the partition, which it
-- does not know yet. So every partition is locked first, and the statement planned behind that.
lock table :"schema".immediate in access share mode;

-- name: read_later
-- Rows behind the cursor that are visible in target, a page at a time in the order of
-- the index. The cursor stands behind every transaction that since has seen begin; it
-- is the only lower bound, because of two the index would use the worse one.
-- A page ends with the row that exceeds the bytes.
select i.id, i.created_at, i.attempt, i.topic, i.payload, i.key,
       i.headers::text, i.content_type, i.history::text, i.xid,
       timestamptz_send(i.expires_at)
from (
    select *, sum(octet_length(payload)) over (
        order by xid, id rows between unbounded preceding and 1 preceding
    ) as bytes_before
    from :"schema".immediate
    where (xid, id) > (%(xid)s::xid8, %(id)s)
      and xid < pg_snapshot_xmax(%(target)s::pg_snapshot)
      and pg_visible_in_snapshot(xid, %(target)s::pg_snapshot)
      and (consumer is null or consumer = %(consumer)s)
    order by xid, id
    limit %(limit)s
) as i
where coalesce(i.bytes_before, 0) < %(bytes)s
order by i.xid, i.id;

-- name: read_small
-- The same, where payloads are small: to add up their bytes row by row costs the server more
-- than all the rest. A payload that is not small comes as null, for the page ends before
-- it; so the bytes of a page are bounded by the limit alone.
select id, created_at, attempt, topic,
       case when octet_length(payload) <= %(small)s then payload end as payload, key,
       headers::text, content_type, history::text, xid, timestamptz_send(expires_at)
from :"schema".immediate
where (xid, id) > (%(xid)s::xid8, %(id)s)
  and xid < pg_snapshot_xmax(%(target)s::pg_snapshot)
  and pg_visible_in_snapshot(xid, %(target)s::pg_snapshot)
  and (consumer is null or consumer = %(consumer)s)
order by xid, id
limit %(limit)s;

-- name: read_running
-- The same as read_later for transactions that were running when since was taken.
select i.id, i.created_at, i.attempt, i.topic, i.payload, i.key,
       i.headers::text, i.content_type, i.history::text, i.xid,
       timestamptz_send(i.expires_at)
from (
    select *, sum(octet_length(payload)) over (
        order by xid, id rows between unbounded preceding and 1 preceding
    ) as bytes_before
    from :"schema".immediate
    where xid = any (%(running)s::xid8[])
      and (xid, id) > (%(xid)s::xid8, %(id)s)
      and pg_visible_in_snapshot(xid, %(target)s::pg_snapshot)
      and (consumer is null or consumer = %(consumer)s)
    order by xid, id
    limit %(limit)s
) as i
where coalesce(i.bytes_before, 0) < %(bytes)s
order by i.xid, i.id;

-- name: save_reading
-- How far the table was read and settled, between two snapshots or at the end of
-- one. Waited for to reach the disk: what is saved is forgotten here, and a crash of
-- the server must not take it back from a consumer that lives on.
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
    insert into :"schema".checkpoint (
        consumer, system_id, timeline, snapshot, lsn, flushed,
        target, target_lsn, cursor_xid, cursor_id
    )
    select name, %(system_id)s, %(timeline)s, %(snapshot)s::pg_snapshot, %(lsn)s::pg_lsn,
           %(flushed)s::pg_lsn, %(target)s::pg_snapshot, %(target_lsn)s::pg_lsn,
           %(xid)s::xid8, %(id)s::bigint
    from fence
    on conflict (consumer) do update set
        system_id = excluded.system_id,
        timeline = excluded.timeline,
        snapshot = excluded.snapshot,
        lsn = excluded.lsn,
        flushed = excluded.flushed,
        target = excluded.target,
        target_lsn = excluded.target_lsn,
        cursor_xid = excluded.cursor_xid,
        cursor_id = excluded.cursor_id,
        saved_at = clock_timestamp()
)
select count(*) from fence;
