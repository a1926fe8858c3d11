-- What producers send. Values that a user's codecs may have taken over (jsonb,
-- timestamptz) travel as text and are cast here.

-- name: enqueue_immediate
insert into :"schema".immediate (topic, payload, key, headers, content_type)
values (
    %(topic)s,
    %(payload)s,
    %(key)s,
    cast(cast(%(headers)s as text) as jsonb),
    %(content_type)s
)
returning id

-- name: enqueue_expiring
-- An interval of nothing but seconds: no time zone can stretch it.
insert into :"schema".immediate (topic, payload, key, headers, content_type, expires_at)
values (
    %(topic)s,
    %(payload)s,
    %(key)s,
    cast(cast(%(headers)s as text) as jsonb),
    %(content_type)s,
    coalesce(
        cast(cast(%(expires_at_text)s as text) as timestamptz),
        clock_timestamp() + make_interval(secs => cast(%(time_to_live)s as double precision))
    )
)
returning id

-- name: enqueue_later
-- At a time, or after a delay. What it may live counts from the moment when it is due.
insert into :"schema".scheduled (due_at, topic, payload, key, headers, content_type, expires_at)
select due_at,
       %(topic)s,
       %(payload)s,
       %(key)s,
       cast(cast(%(headers)s as text) as jsonb),
       %(content_type)s,
       coalesce(
           cast(cast(%(expires_at_text)s as text) as timestamptz),
           due_at + make_interval(secs => cast(%(time_to_live)s as double precision))
       )
from coalesce(
    cast(cast(%(run_at_text)s as text) as timestamptz),
    clock_timestamp() + make_interval(secs => cast(%(delay)s as double precision))
) as due_at
returning id

-- name: take_ids
-- Ids for a list of jobs, ascending, and the clock their delays count from.
select array(
           select nextval((select cast(cast(%(sequence)s as text) as regclass)))
           from generate_series(1, cast(%(count)s as integer))
       ) as ids,
       cast(extract(epoch from clock_timestamp()) * 1000000 as bigint) as clock_us

-- name: enqueue_many_immediate
insert into :"schema".immediate (id, topic, payload, key, headers, content_type, expires_at)
select id, topic, payload, key, cast(headers as jsonb), content_type,
       cast(expires_at as timestamptz)
from unnest(
    cast(%(id)s as bigint[]),
    cast(%(topic)s as text[]),
    cast(%(payload)s as bytea[]),
    cast(%(key)s as text[]),
    cast(%(headers)s as text[]),
    cast(%(content_type)s as text[]),
    cast(%(expires_at_text)s as text[])
) as job (id, topic, payload, key, headers, content_type, expires_at)

-- name: enqueue_many_scheduled
insert into :"schema".scheduled (
    id, due_at, topic, payload, key, headers, content_type, expires_at
)
select id, cast(due_at as timestamptz), topic, payload, key, cast(headers as jsonb), content_type,
       cast(expires_at as timestamptz)
from unnest(
    cast(%(id)s as bigint[]),
    cast(%(due_at_text)s as text[]),
    cast(%(topic)s as text[]),
    cast(%(payload)s as bytea[]),
    cast(%(key)s as text[]),
    cast(%(headers)s as text[]),
    cast(%(content_type)s as text[]),
    cast(%(expires_at_text)s as text[])
) as job (id, due_at, topic, payload, key, headers, content_type, expires_at)

-- name: enqueue_once
-- Unless the key is taken: then the id of the job that has it. Who meets a key that
-- somebody else has just taken waits for that transaction to end. The row is written
-- in any case: only so does this statement see what was committed while it waited.
with given as materialized (
    select nextval((select cast(cast(%(sequence)s as text) as regclass))) as id,
           clock_timestamp() as now
), timed as materialized (
    select id, now,
           coalesce(
               cast(cast(%(run_at_text)s as text) as timestamptz),
               now + make_interval(secs => cast(%(delay)s as double precision))
           ) as due_at
    from given
), job as materialized (
    select id, now, due_at,
           coalesce(
               cast(cast(%(expires_at_text)s as text) as timestamptz),
               coalesce(due_at, now)
                   + make_interval(secs => cast(%(time_to_live)s as double precision))
           ) as expires_at,
           cast(%(topic)s as text) as topic,
           cast(%(payload)s as bytea) as payload,
           cast(%(key)s as text) as key,
           cast(cast(%(headers)s as text) as jsonb) as headers,
           cast(%(content_type)s as text) as content_type
    from timed
), taken as (
    insert into :"schema".dedup as d (topic, dedup_key, id, until)
    select topic, %(dedup_key)s, id,
           now + make_interval(secs => cast(%(dedup_for)s as double precision))
    from job
    on conflict (topic, dedup_key) do update set
        id = case when d.until > clock_timestamp() then d.id else excluded.id end,
        until = case when d.until > clock_timestamp() then d.until else excluded.until end
    returning d.id
), put_now as (
    insert into :"schema".immediate (id, topic, payload, key, headers, content_type, expires_at)
    select id, topic, payload, key, headers, content_type, expires_at
    from job
    join taken using (id)
    where due_at is null
), put_later as (
    insert into :"schema".scheduled (
        id, due_at, topic, payload, key, headers, content_type, expires_at
    )
    select id, due_at, topic, payload, key, headers, content_type, expires_at
    from job
    join taken using (id)
    where due_at is not null
)
select taken.id, taken.id = job.id as fresh
from taken
cross join job

-- name: replace_waiting
-- The key is ours until the end of the transaction. A job that still waits for its
-- time gives up its place and its id; one that does not is followed by another.
with removed as (
    delete from :"schema".scheduled
    where id = cast(%(earlier)s as bigint)
    returning id
), given as materialized (
    select coalesce((select id from removed), nextval((select cast(cast(%(sequence)s as text) as regclass)))) as id,
           clock_timestamp() as now
), timed as materialized (
    select id, now,
           coalesce(
               cast(cast(%(run_at_text)s as text) as timestamptz),
               now + make_interval(secs => cast(%(delay)s as double precision))
           ) as due_at
    from given
), job as materialized (
    select id, now, due_at,
           coalesce(
               cast(cast(%(expires_at_text)s as text) as timestamptz),
               coalesce(due_at, now)
                   + make_interval(secs => cast(%(time_to_live)s as double precision))
           ) as expires_at,
           cast(%(topic)s as text) as topic,
           cast(%(payload)s as bytea) as payload,
           cast(%(key)s as text) as key,
           cast(cast(%(headers)s as text) as jsonb) as headers,
           cast(%(content_type)s as text) as content_type
    from timed
), moved as (
    update :"schema".dedup as d
    set id = job.id,
        until = job.now + make_interval(secs => cast(%(dedup_for)s as double precision))
    from job
    where d.topic = job.topic and d.dedup_key = %(dedup_key)s
), put_now as (
    insert into :"schema".immediate (id, topic, payload, key, headers, content_type, expires_at)
    select id, topic, payload, key, headers, content_type, expires_at
    from job
    where due_at is null
), put_later as (
    insert into :"schema".scheduled (
        id, due_at, topic, payload, key, headers, content_type, expires_at
    )
    select id, due_at, topic, payload, key, headers, content_type, expires_at
    from job
    where due_at is not null
)
select id
from job
