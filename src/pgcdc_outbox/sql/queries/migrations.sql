-- name: migration_table
-- Asked of the catalog, so that it needs no privilege on the schema.
select exists (
    select
    from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where n.nspname = %(schema)s
      and c.relname = 'migration'
) as present

-- name: applied_migrations
select number, name, checksum, applied_at
from :"schema".migration
order by number

-- name: record_migration
insert into :"schema".migration (number, name, checksum)
values (%(number)s, %(name)s, %(checksum)s)
