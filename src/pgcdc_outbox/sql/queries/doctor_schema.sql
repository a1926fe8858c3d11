-- name: doctor_columns
-- To be read with nothing but pg_catalog in the path, so that our own names are qualified.
select c.relname as table, a.attname as name, format_type(a.atttypid, a.atttypmod) as type,
       a.attnotnull as required, pg_get_expr(d.adbin, d.adrelid) as default
from pg_catalog.pg_attribute as a
join pg_catalog.pg_class as c on c.oid = a.attrelid
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
left join pg_catalog.pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
where n.nspname = %(schema)s
  and c.relkind in ('r', 'p')
  and not c.relispartition
  and a.attnum > 0
  and not a.attisdropped
order by c.relname, a.attnum

-- name: doctor_definitions
-- Partitions are left out: they have what their root has. So are the constraints for
-- NOT NULL that version 18 keeps: the columns tell.
with ours as (
    select c.oid, c.relname, c.relkind
    from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where n.nspname = %(schema)s
      and not c.relispartition
)
select 'table' as kind, ''::text as table, relname::text as name,
       case relkind when 'p' then 'partition by ' || pg_get_partkeydef(oid) else '' end as text
from ours
where relkind in ('r', 'p')
union all
select 'constraint', o.relname, k.conname, pg_get_constraintdef(k.oid)
from pg_catalog.pg_constraint as k
join ours as o on o.oid = k.conrelid
where k.contype in ('c', 'p', 'u', 'f', 'x')
union all
select 'index', o.relname, i.relname,
       pg_get_indexdef(x.indexrelid) || case when x.indisvalid then '' else ' (invalid)' end
from pg_catalog.pg_index as x
join ours as o on o.oid = x.indrelid
join pg_catalog.pg_class as i on i.oid = x.indexrelid
where not exists (
    select
    from pg_catalog.pg_constraint as k
    where k.conindid = x.indexrelid and k.contype in ('p', 'u', 'x')
)
union all
select 'sequence', '', o.relname,
       'as ' || format_type(s.seqtypid, null) || case when s.seqcycle then ' cycle' else ' no cycle' end
from ours as o
join pg_catalog.pg_sequence as s on s.seqrelid = o.oid
union all
select 'function', '', p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')',
       pg_get_functiondef(p.oid)
from pg_catalog.pg_proc as p
join pg_catalog.pg_namespace as n on n.oid = p.pronamespace
where n.nspname = %(schema)s
  and p.prokind in ('f', 'p')
union all
select 'view', '', relname, pg_get_viewdef(oid)
from ours
where relkind = 'v'
union all
select 'trigger', o.relname, t.tgname,
       pg_get_triggerdef(t.oid) || case when t.tgenabled = 'D' then ' (disabled)' else '' end
from pg_catalog.pg_trigger as t
join ours as o on o.oid = t.tgrelid
where not t.tgisinternal
order by kind, "table", name

-- name: doctor_storage
-- Where rows are kept from the log, or from who asks for them.
select c.relname as name, c.relpersistence = 'u' as unlogged, c.relrowsecurity as guarded
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where n.nspname = %(schema)s
  and c.relkind in ('r', 'p')
  and (c.relname = any(%(tables)s) or c.relispartition)
  and (c.relpersistence = 'u' or c.relrowsecurity)
order by c.relname

-- name: doctor_publication
select pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot, puballtables
from pg_catalog.pg_publication
where pubname = %(publication)s

-- name: doctor_published
-- The view as JSON: columns and filters can be told since version 15.
select t.schemaname as schema, t.tablename as table,
       to_jsonb(t) -> 'attnames' as columns, to_jsonb(t) ->> 'rowfilter' as filter
from pg_catalog.pg_publication_tables as t
where t.pubname = %(publication)s
order by t.schemaname, t.tablename

-- name: doctor_consumer_grants
-- What sql/roles.sql lets a consumer do, as it is once that has run.
select c.relname as name, array_agg(a.privilege_type order by a.privilege_type) as privileges
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
cross join lateral aclexplode(c.relacl) as a
where n.nspname = %(schema)s
  and a.grantee = 'pgcdc_outbox_consumer'::regrole
group by c.relname
order by c.relname
