-- name: count_unsettled
select count(*)
from :"schema".immediate
where xid >= pg_snapshot_xmin(%(since)s::pg_snapshot)
  and xid < pg_snapshot_xmax(%(target)s::pg_snapshot)
  and (xid, id) > (%(xid)s::xid8, %(id)s)
  and not pg_visible_in_snapshot(xid, %(since)s::pg_snapshot)
  and pg_visible_in_snapshot(xid, %(target)s::pg_snapshot)
  and (consumer is null or consumer = %(consumer)s);

-- name: read_unsettled
-- Rows committed before target and not visible in since, a page at a time in
-- the order of the index. A page ends with the row that exceeds the bytes.
select i.id, (extract(epoch from i.created_at) * 1000000)::bigint as created_us,
       i.attempt, i.topic, i.payload, i.key, i.headers::text, i.content_type, i.history::text,
       i.xid::text,
       exists (
           select from :"schema".failed as f
           where f.consumer = %(consumer)s and f.id = i.id and f.attempt >= coalesce(i.attempt, 1)
       ) or exists (
           select from :"schema".dead_letter as d
           where d.consumer = %(consumer)s and d.id = i.id and d.attempt >= coalesce(i.attempt, 1)
       ) or exists (
           select from :"schema".trace as t
           where t.consumer = %(consumer)s and t.id = i.id and t.attempt >= coalesce(i.attempt, 1)
       ) as recorded
from (
    select *, sum(octet_length(payload)) over (
        order by xid, id rows between unbounded preceding and 1 preceding
    ) as bytes_before
    from :"schema".immediate
    where xid >= pg_snapshot_xmin(%(since)s::pg_snapshot)
      and xid < pg_snapshot_xmax(%(target)s::pg_snapshot)
      and (xid, id) > (%(xid)s::xid8, %(id)s)
      and not pg_visible_in_snapshot(xid, %(since)s::pg_snapshot)
      and pg_visible_in_snapshot(xid, %(target)s::pg_snapshot)
      and (consumer is null or consumer = %(consumer)s)
    order by xid, id
    limit %(limit)s
) as i
where coalesce(i.bytes_before, 0) < %(bytes)s
order by i.xid, i.id;
