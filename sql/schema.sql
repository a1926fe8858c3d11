-- Migration 1: create outbox
begin;
set local lock_timeout = 2000;
select pg_advisory_xact_lock(-2083768610946093116);

-- The outbox: tables, sequence, publication, functions and views.
--
-- Everything is created through search_path, so that the names below stay
-- readable whatever the schema is called. By hand:
--   psql -1 -v schema=outbox -v publication=pgcdc_outbox -f 0001_create_outbox.sql

create schema if not exists "outbox";
set local search_path to "outbox", pg_catalog;

comment on schema "outbox" is 'Transactional outbox of pgcdc-outbox';

-- One sequence for every table: an id never names two jobs.
create sequence job_id as bigint;

-- Jobs that are ready to run, in the order of their commits in the log.
-- Fixed-width columns first: the reader finds them at fixed offsets.
create table immediate (
    id           bigint      not null default nextval('job_id'),
    created_at   timestamptz not null default clock_timestamp(),
    attempt      integer,
    topic        text        not null default 'default',
    payload      bytea       not null,
    key          text,
    headers      jsonb,
    content_type text,
    consumer     text,
    history      jsonb,
    xid          xid8        not null default pg_current_xact_id(),
    constraint immediate_attempt_check check (attempt >= 1),
    constraint immediate_created_at_check check (isfinite(created_at)),
    constraint immediate_topic_check   check (topic <> '' and octet_length(topic) <= 255),
    constraint immediate_key_check     check (octet_length(key) <= 1024),
    constraint immediate_headers_check check (jsonb_typeof(headers) = 'object'),
    constraint immediate_payload_check check (octet_length(payload) <= 268435456)
) partition by range (created_at);

-- The only index: each further one costs every producer.
create index immediate_xid_id_idx on immediate (xid, id);

-- A producer never fails for lack of a partition.
create table immediate_default partition of immediate default;

comment on table immediate is
    'Jobs ready to run, append-only. Read through the write-ahead log; never updated or deleted, space is freed a partition at a time';
comment on column immediate.id is 'Identity of the job in every table; give it to other systems as the idempotency key';
comment on column immediate.created_at is 'Decides the partition. clock_timestamp(), because a transaction may be open for days';
comment on column immediate.attempt is 'Which attempt this row asks for; null means the first';
comment on column immediate.payload is 'The body as bytes; JSON in UTF-8 unless content_type says otherwise';
comment on column immediate.key is 'Ordering key; null means no order is asked for';
comment on column immediate.headers is 'A JSON object; null means none';
comment on column immediate.content_type is 'Media type of the payload; null means application/json';
comment on column immediate.consumer is 'The one consumer this row is for (a retry); null means every consumer';
comment on column immediate.history is 'What happened to the job before this row: first creation, earlier attempts and their errors; null for a fresh job';
comment on column immediate.xid is 'The transaction that wrote the row; recovery and the dropping of partitions compare it with snapshots';

-- Jobs for later. Promoted to immediate, same id, when they fall due.
create table scheduled (
    id           bigint      not null default nextval('job_id'),
    due_at       timestamptz not null,
    created_at   timestamptz not null default clock_timestamp(),
    topic        text        not null default 'default',
    payload      bytea       not null,
    key          text,
    headers      jsonb,
    content_type text,
    constraint scheduled_pkey primary key (id),
    constraint scheduled_due_at_check  check (isfinite(due_at)),
    constraint scheduled_topic_check   check (topic <> '' and octet_length(topic) <= 255),
    constraint scheduled_key_check     check (octet_length(key) <= 1024),
    constraint scheduled_headers_check check (jsonb_typeof(headers) = 'object'),
    constraint scheduled_payload_check check (octet_length(payload) <= 268435456)
);
create index scheduled_due_at_idx on scheduled (due_at);
comment on table scheduled is 'Jobs that wait for due_at (by the clock of the server)';

-- Who reads this outbox.
create table consumer (
    name       text        not null,
    slot       text,
    epoch      bigint      not null default 0,
    instance   text,
    taken_at   timestamptz,
    created_at timestamptz not null default clock_timestamp(),
    constraint consumer_pkey primary key (name),
    constraint consumer_name_check check (name <> '' and octet_length(name) <= 255)
);
comment on table consumer is 'One row for each named consumer';
comment on column consumer.slot is
    'The replication slot that continues the checkpoint without a gap; null while there is none';
comment on column consumer.epoch is 'Raised by each take-over; a write that names an older epoch does nothing';
comment on column consumer.instance is 'The process that holds, or last held, this consumer';

-- How far each consumer is: everything visible in snapshot is settled.
create table checkpoint (
    consumer   text        not null,
    system_id  text        not null,
    timeline   integer     not null,
    snapshot   pg_snapshot not null,
    lsn        pg_lsn      not null,
    flushed    pg_lsn      not null,
    saved_at   timestamptz not null default clock_timestamp(),
    target     pg_snapshot,
    target_lsn pg_lsn,
    cursor_xid xid8,
    cursor_id  bigint,
    constraint checkpoint_pkey primary key (consumer),
    constraint checkpoint_consumer_fkey foreign key (consumer) references consumer (name) on delete cascade,
    constraint checkpoint_target_check check ((target is null) = (target_lsn is null)),
    constraint checkpoint_cursor_check check (target is not null or (cursor_xid is null and cursor_id is null))
) with (fillfactor = 50);
comment on table checkpoint is 'The durable position of each consumer';
comment on column checkpoint.snapshot is 'Every job visible in it is settled';
comment on column checkpoint.lsn is 'Taken after snapshot: the log up to here is settled';
comment on column checkpoint.flushed is 'Settled without a gap up to here; at least lsn';
comment on column checkpoint.target is 'While jobs are re-read from the table: the snapshot of the new slot, where the log takes over';
comment on column checkpoint.cursor_xid is 'How far the re-reading came, with cursor_id';

-- Jobs that failed and will be tried again.
create table failed (
    consumer       text        not null,
    id             bigint      not null,
    due_at         timestamptz not null,
    attempt        integer     not null,
    prior_attempts integer     not null default 0,
    created_at     timestamptz not null,
    failed_at      timestamptz not null default clock_timestamp(),
    topic          text        not null,
    payload        bytea       not null,
    key            text,
    headers        jsonb,
    content_type   text,
    errors         jsonb       not null,
    xid            xid8        not null default pg_current_xact_id(),
    constraint failed_pkey primary key (consumer, id),
    constraint failed_attempt_check check (attempt >= 1),
    constraint failed_prior_attempts_check check (prior_attempts between 0 and attempt),
    constraint failed_errors_check check (jsonb_typeof(errors) = 'array')
);
create index failed_due_at_idx on failed (consumer, due_at);
create index failed_xid_idx on failed (xid);
comment on table failed is 'Jobs whose last attempt failed; promoted back to immediate when due';
comment on column failed.attempt is 'The attempt that failed last; the next one is one more';
comment on column failed.prior_attempts is 'Attempts made before a person last retried the job; they do not count towards the limit';
comment on column failed.errors is 'Class, text and time of the failed attempts, bounded';

-- Jobs that will not be tried again unless a person says so.
create table dead_letter (
    consumer       text        not null,
    id             bigint      not null,
    reason         text        not null,
    attempt        integer     not null,
    prior_attempts integer     not null default 0,
    created_at     timestamptz not null,
    died_at        timestamptz not null default clock_timestamp(),
    topic          text        not null,
    payload        bytea       not null,
    key            text,
    headers        jsonb,
    content_type   text,
    errors         jsonb       not null,
    xid            xid8        not null default pg_current_xact_id(),
    constraint dead_letter_pkey primary key (consumer, id),
    constraint dead_letter_attempt_check check (attempt >= 0),
    constraint dead_letter_errors_check check (jsonb_typeof(errors) = 'array')
);
create index dead_letter_died_at_idx on dead_letter (died_at);
create index dead_letter_xid_idx on dead_letter (xid);
comment on table dead_letter is 'Jobs that no consumer will try again by itself; never deleted by default';
comment on column dead_letter.reason is 'Why: exhausted, undecodable, or what the handler gave';

-- What left failed or dead_letter while the log may still bring its first row again.
create table trace (
    consumer text    not null,
    id       bigint  not null,
    attempt  integer not null,
    xid      xid8    not null default pg_current_xact_id(),
    constraint trace_pkey primary key (consumer, id, attempt)
);
create index trace_xid_idx on trace (xid);
comment on table trace is
    'Attempts that are settled although their row left failed or dead_letter; pruned once the checkpoint has passed xid';

create table migration (
    number     integer     not null,
    name       text        not null,
    checksum   text        not null,
    applied_at timestamptz not null default clock_timestamp(),
    constraint migration_pkey primary key (number)
);
comment on table migration is 'Migrations applied to this schema, with the SHA-256 of their text';

-- Insert only, and through the root: a partition made later is published at once,
-- and neither TRUNCATE nor DROP reaches a consumer. The column list (15 and later)
-- leaves out what the reader does not need.
select set_config('pgcdc_outbox.publication', 'pgcdc_outbox', true);
do $$
begin
    execute format(
        'create publication %I for table immediate %s with (publish = ''insert'', publish_via_partition_root = true)',
        current_setting('pgcdc_outbox.publication'),
        case
            when current_setting('server_version_num')::int >= 150000
            then '(id, created_at, attempt, topic, payload, key, headers, content_type, consumer, history)'
            else ''
        end
    );
end
$$;

-- For triggers, psql and other languages. The body is bound to these tables
-- when it is created, whatever search_path the caller has.
create function enqueue(
    topic   text,
    payload jsonb,
    key     text     default null,
    headers jsonb    default null,
    delay   interval default null
) returns bigint
language sql
volatile
begin atomic
    with job as (
        select nextval('job_id') as id
    ), later as (
        insert into scheduled (id, due_at, topic, payload, key, headers)
        select job.id, clock_timestamp() + enqueue.delay, enqueue.topic,
               convert_to(enqueue.payload::text, 'UTF8'), enqueue.key, enqueue.headers
        from job
        where enqueue.delay > interval '0'
    ), now as (
        insert into immediate (id, topic, payload, key, headers)
        select job.id, enqueue.topic,
               convert_to(enqueue.payload::text, 'UTF8'), enqueue.key, enqueue.headers
        from job
        where enqueue.delay is null or enqueue.delay <= interval '0'
    )
    select id from job;
end;
comment on function enqueue(text, jsonb, text, jsonb, interval) is
    'Enqueue a JSON job in the transaction of the caller; returns its id';

-- What a person reads in psql: JSON as text, other bytes as hex.
create function readable(payload bytea, content_type text) returns text
language plpgsql
stable
as $$
begin
    if payload is null or coalesce(content_type, 'application/json') not like '%json%' then
        return encode(payload, 'hex');
    end if;
    return convert_from(payload, 'UTF8');
exception when others then
    return encode(payload, 'hex');
end
$$;
comment on function readable(bytea, text) is 'A payload as text: JSON as it is, anything else in hex';

create view job as
select id, 'immediate' as state, consumer, topic, key, headers, readable(payload, content_type) as body,
       coalesce(attempt, 1) as attempt, created_at, created_at as due_at, null::text as reason, null::text as last_error
from immediate
union all
select id, 'scheduled', null, topic, key, headers, readable(payload, content_type),
       1, created_at, due_at, null, null
from scheduled
union all
select id, 'failed', consumer, topic, key, headers, readable(payload, content_type),
       attempt, created_at, due_at, null, errors -> -1 ->> 'text'
from failed
union all
select id, 'dead', consumer, topic, key, headers, readable(payload, content_type),
       attempt, created_at, died_at, reason, errors -> -1 ->> 'text'
from dead_letter;
comment on view job is
    'Every row of the outbox for a person. A row in state immediate may be handled already: success leaves no trace in the tables';

insert into "outbox".migration (number, name, checksum)
values (1, 'create_outbox', 'e600ec095fd5dcadf2cc07ba61717cef3588437172c54482132114a81929e6c1');
commit;

-- Migration 2: survive crashes
begin;
set local lock_timeout = 2000;
select pg_advisory_xact_lock(-2083768610946093116);

-- What a consumer has to know of the holds before its own: how it read, whether
-- it ended in good order, how often its slot was lost, which jobs were running.

set local search_path to "outbox", pg_catalog;

alter table consumer
    add column mode        text,
    add column released_at timestamptz,
    add column crashes     integer not null default 0,
    add column slots_lost  timestamptz[] not null default '{}',
    add constraint consumer_mode_check check (mode in ('logical', 'polling')),
    add constraint consumer_crashes_check check (crashes >= 0);
comment on column consumer.mode is 'How the last hold read: through the log, or by polling the table';
comment on column consumer.released_at is
    'When the last hold ended in good order; null while the consumer is held, and after a crash';
comment on column consumer.crashes is
    'Holds in a row that ended with the death of their process, without progress in between';
comment on column consumer.slots_lost is 'When the slot was last made anew because it was lost: the newest few';

-- Jobs that run right now, kept only while a consumer is careful, because it crashed.
create table started (
    consumer   text        not null,
    id         bigint      not null,
    attempt    integer     not null,
    instance   text        not null,
    started_at timestamptz not null default clock_timestamp(),
    constraint started_pkey primary key (consumer, id),
    constraint started_attempt_check check (attempt >= 1)
);
comment on table started is
    'Executions that began and are not known to have ended. One that a dead process left is judged as a failure';

insert into "outbox".migration (number, name, checksum)
values (2, 'survive_crashes', '06a95b91237d098632954840b04653ecf97b4ac7e5cb7fb561a65ca93be93009');
commit;

-- Migration 3: know each job
begin;
set local lock_timeout = 2000;
select pg_advisory_xact_lock(-2083768610946093116);

-- Jobs that expire, that are enqueued once, that wait for others of their key, that
-- recur; and what became of each attempt.

set local search_path to "outbox", pg_catalog;

-- After this moment a job is not started any more.
alter table immediate   add column expires_at timestamptz;
alter table scheduled   add column expires_at timestamptz;
alter table failed      add column expires_at timestamptz;
alter table dead_letter add column expires_at timestamptz;
comment on column immediate.expires_at is
    'Not started after it, by the clock of the server, but put into the dead letters as expired; null means never';

-- Jobs that wait behind another of their key, in the order in which they came.
create table parked (
    consumer       text        not null,
    key            text        not null,
    position       bigint      not null generated by default as identity,
    id             bigint      not null,
    attempt        integer     not null,
    times          integer     not null,
    prior_attempts integer     not null default 0,
    created_at     timestamptz not null,
    parked_at      timestamptz not null default clock_timestamp(),
    topic          text        not null,
    payload        bytea       not null,
    headers        jsonb,
    content_type   text,
    errors         jsonb       not null,
    expires_at     timestamptz,
    xid            xid8        not null default pg_current_xact_id(),
    constraint parked_pkey primary key (consumer, key, position),
    constraint parked_id_key unique (consumer, id),
    constraint parked_attempt_check check (attempt >= 1),
    constraint parked_times_check check (times >= 1)
);
create index parked_xid_idx on parked (xid);
comment on table parked is
    'Jobs that were not executed, because an earlier one of their key is not finished (ordering strict_key)';
comment on column parked.attempt is 'The attempt that the job is at: parking is none';
comment on column parked.times is 'How often it was parked; tells its next delivery from the earlier ones';

-- Which job, or which run of released ones, the parked jobs of a key wait for.
create table held_key (
    consumer text        not null,
    key      text        not null,
    id       bigint,
    until    bigint,
    held_at  timestamptz not null default clock_timestamp(),
    constraint held_key_pkey primary key (consumer, key)
);
comment on table held_key is 'Keys whose later jobs are parked (ordering strict_key)';
comment on column held_key.id is 'The job that failed and is to be finished first';
comment on column held_key.until is 'Parked jobs up to this position were released and are on their way';

alter table trace add column parked integer;
comment on column trace.parked is
    'For a job that was parked and released: only deliveries that were parked up to so often are settled; null means all';

-- An execution that must not be repeated is noted before it begins, whatever happens to it.
alter table started add column once boolean not null default false;
comment on column started.once is
    'Delivered at most once: what is not known to have ended is in doubt, and not repeated';

-- What became of each attempt, as far as a consumer was told to keep it.
create table attempt (
    consumer   text             not null,
    id         bigint           not null,
    attempt    integer          not null,
    topic      text             not null,
    key        text,
    outcome    text             not null,
    started_at timestamptz      not null,
    seconds    double precision not null,
    instance   text             not null,
    jobs       integer          not null default 1,
    error      text,
    text       text
) partition by range (started_at);
create index attempt_id_idx on attempt (id);
create table attempt_default partition of attempt default;
comment on table attempt is 'The audit of executions, append-only; space is freed a partition at a time';
comment on column attempt.outcome is 'done, retry, snooze, dead, or in_doubt';
comment on column attempt.jobs is 'How many jobs shared the call';

-- Keys that were enqueued lately: a second job of the same key is judged by its policy.
create table dedup (
    topic     text        not null,
    dedup_key text        not null,
    id        bigint      not null,
    until     timestamptz not null,
    constraint dedup_pkey primary key (topic, dedup_key),
    constraint dedup_key_check check (dedup_key <> '' and octet_length(dedup_key) <= 1024)
);
create index dedup_until_idx on dedup (until);
comment on table dedup is 'Which job has a dedup key of a topic, and until when';

-- Jobs that come again and again.
create table recurring (
    name         text        not null,
    cron         text        not null,
    time_zone    text        not null default 'UTC',
    missed       text        not null default 'once',
    topic        text        not null default 'default',
    payload      bytea       not null,
    key          text,
    headers      jsonb,
    content_type text,
    time_to_live interval,
    paused       boolean     not null default false,
    next_at      timestamptz not null,
    last_at      timestamptz,
    last_id      bigint,
    created_at   timestamptz not null default clock_timestamp(),
    constraint recurring_pkey primary key (name),
    constraint recurring_name_check    check (name <> '' and octet_length(name) <= 255),
    constraint recurring_missed_check  check (missed in ('skip', 'once', 'all')),
    constraint recurring_topic_check   check (topic <> '' and octet_length(topic) <= 255),
    constraint recurring_key_check     check (octet_length(key) <= 1024),
    constraint recurring_headers_check check (jsonb_typeof(headers) = 'object')
);
create index recurring_next_at_idx on recurring (next_at);
comment on table recurring is 'Schedules: a job is enqueued at each time that cron names';
comment on column recurring.missed is
    'What to do about times that passed while nothing ran: skip them, enqueue one job for all, or all of them';
comment on column recurring.time_to_live is 'How long after its time a job may still be started; null means for ever';

create or replace view job as
select id, 'immediate' as state, consumer, topic, key, headers, readable(payload, content_type) as body,
       coalesce(attempt, 1) as attempt, created_at, created_at as due_at, null::text as reason,
       null::text as last_error, expires_at
from immediate
union all
select id, 'scheduled', null, topic, key, headers, readable(payload, content_type),
       1, created_at, due_at, null, null, expires_at
from scheduled
union all
select id, 'failed', consumer, topic, key, headers, readable(payload, content_type),
       attempt, created_at, due_at, null, errors -> -1 ->> 'text', expires_at
from failed
union all
select id, 'parked', consumer, topic, key, headers, readable(payload, content_type),
       attempt, created_at, null, null, errors -> -1 ->> 'text', expires_at
from parked
union all
select id, 'dead', consumer, topic, key, headers, readable(payload, content_type),
       attempt, created_at, died_at, reason, errors -> -1 ->> 'text', expires_at
from dead_letter;

-- The reader needs to know when a job expires.
select set_config('pgcdc_outbox.publication', 'pgcdc_outbox', true);
do $$
begin
    if current_setting('server_version_num')::int >= 150000 then
        execute format(
            'alter publication %I set table immediate (id, created_at, attempt, topic, payload, key, headers, content_type, consumer, history, expires_at)',
            current_setting('pgcdc_outbox.publication')
        );
    end if;
end
$$;

insert into "outbox".migration (number, name, checksum)
values (3, 'know_each_job', '81a38f6687e020f91f0cb62c9b9c6bc8bf8476df7be5bb91b86c6d251a88b847');
commit;
