-- Roles with no more than they need. Run it as the owner of the outbox:
--   psql -v schema=outbox -f sql/roles.sql
-- and grant the roles to those who log in:
--   grant pgcdc_outbox_producer to shop;
-- Running it again does no harm.

do $$
declare
    role text;
begin
    foreach role in array array[
        'pgcdc_outbox_producer', 'pgcdc_outbox_consumer', 'pgcdc_outbox_operator'
    ] loop
        begin
            execute format('create role %I nologin', role);
        exception when duplicate_object or unique_violation then
            null;
        end;
    end loop;
end
$$;

grant usage on schema :"schema"
    to pgcdc_outbox_producer, pgcdc_outbox_consumer, pgcdc_outbox_operator;

-- A producer puts jobs in, and learns their ids. It reads nobody's job.
grant insert, select (id) on :"schema".immediate, :"schema".scheduled to pgcdc_outbox_producer;
grant usage on sequence :"schema".job_id to pgcdc_outbox_producer;
-- A dedup key is looked up and taken; replacing a job that still waits removes it.
grant select, insert, update on :"schema".dedup to pgcdc_outbox_producer;
grant delete on :"schema".scheduled to pgcdc_outbox_producer;
grant execute on function :"schema".enqueue(text, jsonb, text, jsonb, interval)
    to pgcdc_outbox_producer;

-- A consumer reads jobs and records what became of them. Whoever logs in as one also
-- needs the attribute REPLICATION, which no role can pass on:
--   alter role worker replication;
-- (on RDS: grant rds_replication to worker). It needs a line for its database in
-- pg_hba.conf, as any other role; one for "replication" is not asked for.
grant select on :"schema".migration to pgcdc_outbox_consumer;
grant select, insert, update on :"schema".consumer, :"schema".checkpoint, :"schema".dead_letter
    to pgcdc_outbox_consumer;
grant select, insert on :"schema".immediate to pgcdc_outbox_consumer;
grant select, insert, update, delete on :"schema".failed to pgcdc_outbox_consumer;
grant select, update, delete on :"schema".scheduled to pgcdc_outbox_consumer;
grant select, insert, update, delete on :"schema".trace to pgcdc_outbox_consumer;
grant select, insert, update, delete on :"schema".started to pgcdc_outbox_consumer;
grant select, insert, update, delete on :"schema".parked, :"schema".held_key to pgcdc_outbox_consumer;
grant select, insert on :"schema".attempt to pgcdc_outbox_consumer;
-- It fires schedules, and puts those that it was given.
grant select, insert, update on :"schema".recurring to pgcdc_outbox_consumer;

-- An operator looks at everything, retries, resolves or discards dead letters, cancels jobs that
-- wait, and replays those that are past. To see whose transaction holds the log:
--   grant pg_read_all_stats to somebody;
grant select on all tables in schema :"schema" to pgcdc_outbox_operator;
grant delete on :"schema".dead_letter, :"schema".scheduled, :"schema".failed, :"schema".parked
    to pgcdc_outbox_operator;
grant insert on :"schema".immediate, :"schema".attempt to pgcdc_outbox_operator;
grant insert, update on :"schema".trace to pgcdc_outbox_operator;
grant update on :"schema".held_key to pgcdc_outbox_operator;
grant usage, select on sequence :"schema".job_id to pgcdc_outbox_operator;
grant insert, update, delete on :"schema".recurring to pgcdc_outbox_operator;

-- Migrations and the maintenance of partitions create and drop tables: that is the
-- owner's. A consumer that maintains partitions itself has to be a member of it:
--   grant outbox_owner to worker;
