-- name: record
-- All failures of one batch: due again, or dead. What expires before it is due again
-- comes back when it expires, to be found dead. Without an error it was put off: it
-- did not fail. Writes nothing for an old
-- epoch, and nothing twice: an attempt that is known already is passed over.
-- Whoever was noted as running is not any more; the note knows best who ran it, and when.
-- Where the order of a key is strict, the others of it wait from here on for one that is
-- due again.
with fence as materialized (
    select name
    from :"schema".consumer
    where name = %(consumer)s and epoch = %(epoch)s
    for share
), given as materialized (
    select distinct on (id) *
    from unnest(
        %(ids)s::bigint[], %(attempts)s::integer[], %(prior_attempts)s::integer[],
        %(created_us)s::bigint[], %(topics)s::text[], %(payloads)s::bytea[], %(keys)s::text[],
        %(headers)s::text[], %(content_types)s::text[], %(delays)s::double precision[],
        %(reasons)s::text[], %(errors)s::text[], %(texts)s::text[], %(jobs)s::integer[],
        %(histories)s::text[], %(due_us)s::bigint[], %(expires_us)s::bigint[],
        %(parked)s::integer[], %(outcomes)s::text[], %(ages)s::double precision[],
        %(seconds)s::double precision[]
    ) as t (
        id, attempt, prior_attempts, created_us, topic, payload, key, headers, content_type,
        delay, reason, error, text, jobs, history, due_us, expires_us, parked, outcome, age, seconds
    )
    order by id, attempt desc
), fresh as materialized (
    select fence.name as consumer, given.id, given.attempt, given.prior_attempts,
           timestamptz 'epoch' + given.created_us * interval '1 microsecond' as created_at,
           given.topic, given.payload, given.key, given.headers::jsonb as headers,
           given.content_type, given.delay, given.reason, given.error, given.text, given.jobs,
           given.outcome, given.age, given.seconds,
           timestamptz 'epoch' + given.due_us * interval '1 microsecond' as due_at,
           timestamptz 'epoch' + given.expires_us * interval '1 microsecond' as expires_at,
           case
               when given.error is null then given.history::jsonb
               else given.history::jsonb || jsonb_build_array(jsonb_strip_nulls(jsonb_build_object(
                   'attempt', given.attempt,
                   'at', to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                   'error', given.error,
                   'text', given.text,
                   'jobs', nullif(given.jobs, 1)
               )))
           end as errors
    from given
    cross join fence
    where not exists (
        select from :"schema".failed as f
        where f.consumer = fence.name and f.id = given.id and f.attempt >= given.attempt
    ) and not exists (
        select from :"schema".dead_letter as d
        where d.consumer = fence.name and d.id = given.id and d.attempt >= given.attempt
    ) and not exists (
        select from :"schema".trace as t
        where t.consumer = fence.name and t.id = given.id and (
            t.attempt > given.attempt
            or t.attempt = given.attempt and coalesce(t.parked >= given.parked, true)
        )
    )
), retried as (
    insert into :"schema".failed (
        consumer, id, due_at, attempt, prior_attempts, created_at,
        topic, payload, key, headers, content_type, errors, expires_at
    )
    select consumer, id,
           least(coalesce(due_at, clock_timestamp() + delay * interval '1 second'), expires_at),
           attempt, prior_attempts, created_at, topic, payload, key, headers, content_type,
           errors, expires_at
    from fresh
    where reason is null
    on conflict (consumer, id) do update set
        due_at = excluded.due_at,
        attempt = excluded.attempt,
        prior_attempts = excluded.prior_attempts,
        errors = excluded.errors,
        failed_at = excluded.failed_at,
        xid = excluded.xid
), died as (
    insert into :"schema".dead_letter (
        consumer, id, reason, attempt, prior_attempts, created_at,
        topic, payload, key, headers, content_type, errors, expires_at
    )
    select consumer, id, reason, attempt, prior_attempts, created_at,
           topic, payload, key, headers, content_type, errors, expires_at
    from fresh
    where reason is not null
    on conflict (consumer, id) do update set
        reason = excluded.reason,
        attempt = excluded.attempt,
        errors = excluded.errors,
        died_at = excluded.died_at,
        xid = excluded.xid
), held as (
    insert into :"schema".held_key (consumer, key, id)
    select distinct on (key) consumer, key, id
    from fresh
    where %(holds)s and reason is null and key is not null
    on conflict (consumer, key) do update set
        id = excluded.id,
        until = null,
        held_at = excluded.held_at
), left_failed as (
    delete from :"schema".failed as f
    using fresh
    where fresh.reason is not null and f.consumer = fresh.consumer and f.id = fresh.id
), audited as (
    insert into :"schema".attempt (
        consumer, id, attempt, topic, key, outcome, started_at, seconds, instance, jobs, error, text
    )
    select f.consumer, f.id, f.attempt, f.topic, f.key, f.outcome,
           coalesce(s.started_at, clock_timestamp() - f.age * interval '1 second'), f.seconds,
           coalesce(s.instance, %(instance)s), f.jobs, f.error, nullif(f.text, '')
    from fresh as f
    left join :"schema".started as s
        on s.consumer = f.consumer and s.id = f.id and s.attempt = f.attempt
    where f.seconds is not null
), ended as (
    delete from :"schema".started as s
    using fence, given
    where s.consumer = fence.name and s.id = given.id and s.attempt <= given.attempt
)
select count(*) from fence;

-- name: add_traces
-- Deliveries that are settled, although the position could not pass them yet.
with fence as materialized (
    select name
    from :"schema".consumer
    where name = %(consumer)s and epoch = %(epoch)s
    for share
), added as (
    insert into :"schema".trace as known (consumer, id, attempt, parked)
    select fence.name, t.id, t.attempt, t.parked
    from fence
    cross join unnest(
        %(ids)s::bigint[], %(attempts)s::integer[], %(parked)s::integer[]
    ) as t (id, attempt, parked)
    on conflict (consumer, id, attempt) do update set
        parked = greatest(known.parked, excluded.parked),
        xid = excluded.xid
    where known.parked is not null
)
select count(*) from fence;

-- name: copy_attempts
copy :"schema".attempt (
    id, attempt, topic, key, started_at, seconds, jobs, consumer, outcome, instance
) from stdin (format binary);

-- name: record_attempts
-- The same for the few of one call that are written in the transaction of what they did.
with written as (
    insert into :"schema".attempt (
        consumer, id, attempt, topic, key, outcome, started_at, seconds, instance, jobs
    )
    select %(consumer)s, t.id, t.attempt, t.topic, t.key, 'done',
           clock_timestamp() - %(age)s * interval '1 second', %(seconds)s, %(instance)s, %(jobs)s
    from unnest(%(ids)s::bigint[], %(attempts)s::integer[], %(topics)s::text[], %(keys)s::text[])
        as t (id, attempt, topic, key)
    returning 1
)
select count(*) from written;

-- name: record_done
-- Attempts that succeeded, written together with what they did, or before they are
-- settled otherwise. Durable when it is committed, whatever the database is used to:
-- this process will believe it. Should the process stop between this and its commit,
-- whoever takes over waits for the lock, though not for long.
-- The parked deliveries of an attempt are settled with it.
with fence as materialized (
    select name,
           set_config('synchronous_commit', case current_setting('synchronous_commit') when 'off' then 'on' else current_setting('synchronous_commit') end, true),
           set_config('idle_in_transaction_session_timeout', '10s', true)
    from :"schema".consumer
    where name = %(consumer)s and epoch = %(epoch)s
    for share
), done as (
    insert into :"schema".trace as known (consumer, id, attempt)
    select fence.name, t.id, t.attempt
    from fence
    cross join unnest(%(ids)s::bigint[], %(attempts)s::integer[]) as t (id, attempt)
    on conflict (consumer, id, attempt) do update set parked = null, xid = excluded.xid
    where known.parked is not null
    returning 1
), ended as (
    delete from :"schema".started as s
    using fence, unnest(%(ids)s::bigint[], %(attempts)s::integer[]) as t (id, attempt)
    where s.consumer = fence.name and s.id = t.id and s.attempt <= t.attempt
)
select (select count(*) from fence), (select count(*) from done);

-- name: xact_status
select pg_xact_status(%(xid)s::xid8);

-- name: is_recorded
-- Whether what became of an attempt is known. Asked after its transaction has ended,
-- and in another statement: this one sees what was committed when it begins.
select exists (
    select from :"schema".trace
    where consumer = %(consumer)s and id = %(id)s and attempt = %(attempt)s and parked is null
) or exists (
    select from :"schema".failed
    where consumer = %(consumer)s and id = %(id)s and attempt >= %(attempt)s
) or exists (
    select from :"schema".dead_letter
    where consumer = %(consumer)s and id = %(id)s and attempt >= %(attempt)s
);
