-- The schema in which `bench` measures, and which it takes away again.

-- name: bench_mark
-- By this, and by its name, a later run knows what one that was killed has left.
comment on schema :"schema" is 'Benchmark of pgcdc-outbox: made to be dropped';

-- name: bench_left
select nspname as schema
from pg_catalog.pg_namespace
where nspname ~ '^pgcdc_bench_[0-9a-f]{8}$'
  and obj_description(oid, 'pg_namespace') = 'Benchmark of pgcdc-outbox: made to be dropped'
order by nspname;

-- name: bench_lock
-- Held as long as somebody measures there.
select pg_try_advisory_lock(%(key)s) as taken;

-- name: bench_end_reader
-- A walsender may outlive its reader by a moment, and keeps the slot meanwhile.
select pg_terminate_backend(active_pid)
from pg_catalog.pg_replication_slots
where slot_name = %(slot)s and active;

-- name: bench_clear
drop publication if exists :"publication";
drop schema if exists :"schema" cascade;

-- name: bench_settings
select current_setting('server_version') as version,
       current_setting('fsync') as fsync,
       current_setting('synchronous_commit') as synchronous_commit,
       current_setting('wal_level') as wal_level;
