-- name: lock_holders
-- Who may keep others from a lock on our tables: transactions that hold one for
-- longer than we waited. What another role's session does is hidden from some.
select distinct l.pid
from pg_catalog.pg_locks as l
join pg_catalog.pg_class as c on c.oid = l.relation
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
left join pg_catalog.pg_stat_activity as a on a.pid = l.pid
where n.nspname = %(schema)s
  and l.locktype = 'relation'
  and l.database = (select oid from pg_catalog.pg_database where datname = current_database())
  and l.granted
  and l.pid <> pg_backend_pid()
  and (a.xact_start is null or a.xact_start < clock_timestamp() - %(waited)s)
order by l.pid
