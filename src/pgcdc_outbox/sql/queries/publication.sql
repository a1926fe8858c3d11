-- name: find_publication
-- What decides which rows are sent: two rows of the catalog. Any change of them, also one
-- that is taken back, leaves them with another xmin. A change that is under way, or whose
-- commit nobody sees yet, shows in xmax: the server may decode by it already.
--
-- An xid of 32 bits is the last one that was given out and ends like it; the rows are
-- older than four billion transactions seldom, and then a slot is made anew for nothing.
with now as materialized (
    select pg_snapshot_xmin(s)::text::bigint as oldest, pg_snapshot_xmax(s)::text::bigint as next
    from pg_current_snapshot() as s
), found as materialized (
    select p.oid, p.xmin, p.xmax, p.pubinsert, p.pubviaroot, p.puballtables,
           r.oid as listed, r.xmin as listed_xmin, r.xmax as listed_xmax,
           -- Since 15: which rows, which columns.
           to_jsonb(r) ->> 'prqual' is not null as filtered,
           exists (
               select
               from pg_catalog.pg_attribute as a
               where a.attrelid = c.oid
                 and a.attname = any (%(columns)s)
                 and not nullif(to_jsonb(r) -> 'prattrs', 'null') @> to_jsonb(a.attnum)
           ) as narrowed
    from pg_catalog.pg_publication as p
    left join (
        pg_catalog.pg_publication_rel as r
        join pg_catalog.pg_class as c on c.oid = r.prrelid
        join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    ) on r.prpubid = p.oid and n.nspname = %(schema)s and c.relname = 'immediate'
    where p.pubname = %(publication)s
)
select found.pubinsert, found.pubviaroot, found.listed is not null or found.puballtables,
       found.filtered, found.narrowed,
       concat_ws(' ', found.oid, found.xmin, found.listed, found.listed_xmin) as state,
       marks.written >= pg_snapshot_xmin(%(since)s::pg_snapshot)::text::bigint as changed,
       marks.unsettled
from found
cross join lateral (
    select max(case when born < 3 then born else now.next - back end) as written,
           bool_or(
               case
                   when ending = 0 or last < now.oldest then false
                   when last >= now.next then true
                   else coalesce(pg_xact_status(last::text::xid8), 'aborted') <> 'aborted'
               end
           ) as unsettled
    from now
    cross join (
        values (found.xmin::text::bigint, found.xmax::text::bigint),
               (found.listed_xmin::text::bigint, found.listed_xmax::text::bigint)
    ) as mark (born, ending)
    cross join lateral (
        select ((now.next - born) %% 4294967296 + 4294967296) %% 4294967296 as back,
               ((now.next - ending) %% 4294967296 + 4294967296) %% 4294967296 as ago
    ) as distance
    cross join lateral (
        select now.next - ago + case when ago > 2147483648 then 4294967296 else 0 end as last
    ) as ended
    where born is not null
) as marks;
