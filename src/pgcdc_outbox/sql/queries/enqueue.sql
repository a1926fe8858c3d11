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
