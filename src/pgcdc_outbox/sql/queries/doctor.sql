-- name: doctor_server
-- The schema as the server writes it into definitions, where nothing else is in the path.
select current_database() as database, d.oid::bigint as database_oid, current_user as role,
       current_setting('server_version') as version,
       current_setting('server_version_num')::int as number,
       pg_is_in_recovery() as standby,
       pg_encoding_to_char(d.encoding) as encoding,
       quote_ident(%(schema)s) as schema
from pg_catalog.pg_database as d
where d.datname = current_database()

-- name: doctor_now
select clock_timestamp() at time zone 'UTC' as now

-- name: doctor_settings
select name, setting, unit, source, context, pending_restart
from pg_catalog.pg_settings
where name in (
    'wal_level', 'max_replication_slots', 'max_wal_senders', 'wal_sender_timeout',
    'max_slot_wal_keep_size', 'max_wal_size', 'idle_replication_slot_timeout',
    'output_plugin_libraries', 'logical_decoding_work_mem', 'idle_session_timeout',
    'synchronous_commit', 'synchronized_standby_slots', 'sync_replication_slots',
    'hot_standby_feedback', 'primary_conninfo'
)

-- name: doctor_capacity
select (select count(*) from pg_catalog.pg_replication_slots) as slots,
       (select count(*) from pg_catalog.pg_stat_replication) as senders

-- name: doctor_grants
-- Those of the given privileges that the current role does not have.
select w.name, array_agg(w.privilege order by w.privilege) as privileges
from unnest(%(tables)s::text[], %(privileges)s::text[]) as w (name, privilege)
join pg_catalog.pg_class as c on c.relname = w.name
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where n.nspname = %(schema)s
  and not has_table_privilege(c.oid, w.privilege)
group by w.name
order by w.name

-- name: doctor_schema_rights
select has_schema_privilege(n.oid, 'usage') as may_use,
       has_schema_privilege(n.oid, 'create') as may_create,
       c.relowner::regrole::text as owner,
       pg_has_role(c.relowner, 'usage') as is_owner
from pg_catalog.pg_namespace as n
join pg_catalog.pg_class as c on c.relnamespace = n.oid
where n.nspname = %(schema)s
  and c.relname = 'immediate'

-- name: doctor_sees_everybody
select pg_has_role('pg_read_all_stats', 'usage') as sees

-- name: doctor_consumers
-- Columns of later migrations as JSON, so that an older schema can be looked at too.
select c.name, c.slot, coalesce(to_jsonb(c) ->> 'mode' = 'polling', false) as polls,
       extract(epoch from clock_timestamp() - coalesce(k.saved_at, c.taken_at, c.created_at))::float8 as idle_seconds,
       k.system_id as checkpoint_system
from :"schema".consumer as c
left join :"schema".checkpoint as k on k.consumer = c.name
order by c.name

-- name: doctor_cluster
select system_identifier::text as system_id from pg_control_system()

-- name: doctor_slots
-- The view as JSON, because its columns differ between versions.
select s.slot_name as name, to_jsonb(s) as seen,
       pg_wal_lsn_diff(w.position, s.confirmed_flush_lsn)::bigint as lag_bytes,
       pg_wal_lsn_diff(w.position, s.restart_lsn)::bigint as retained_bytes,
       a.application_name as reader, a.wait_event
from pg_catalog.pg_replication_slots as s
left join pg_catalog.pg_stat_activity as a on a.pid = s.active_pid
cross join (
    select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end as position
) as w
order by s.slot_name

-- name: doctor_outboxes
-- Every schema of this database that has an outbox, and whether we may read who reads it.
select n.nspname as schema, has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select') as readable
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where c.relname = 'consumer'
  and c.relkind = 'r'
  and exists (select from pg_catalog.pg_class as m where m.relnamespace = n.oid and m.relname = 'migration')
order by n.nspname

-- name: doctor_names
select name, slot from :"schema".consumer

-- name: doctor_writers
-- Who has written and is still open holds the log; a prepared transaction has no pid.
select pid, extract(epoch from clock_timestamp() - xact_start)::float8 as age_seconds,
       state, datname as database, usename as role, application_name as application,
       backend_xid is not null as writes
from pg_catalog.pg_stat_activity
where xact_start is not null
  and (backend_xid is not null or backend_xmin is not null)
  and pid <> pg_backend_pid()
  and backend_type <> 'walsender'
order by xact_start

-- name: doctor_prepared
select gid, extract(epoch from clock_timestamp() - prepared)::float8 as age_seconds,
       database, owner as role
from pg_catalog.pg_prepared_xacts
order by prepared

-- name: doctor_standbys
-- Physical replication that is connected right now.
select a.application_name as name, s.slot_name as slot
from pg_catalog.pg_stat_replication as a
left join pg_catalog.pg_replication_slots as s on s.active_pid = a.pid
where s.slot_type is distinct from 'logical'
  and a.state = 'streaming'
order by a.application_name

-- name: doctor_listed
-- By itself: through its schema it would be published too, but with whatever is in there.
select exists (
    select
    from pg_catalog.pg_publication_rel as r
    join pg_catalog.pg_publication as p on p.oid = r.prpubid
    join pg_catalog.pg_class as c on c.oid = r.prrelid
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where p.pubname = %(publication)s and n.nspname = %(schema)s and c.relname = 'immediate'
) as direct;
