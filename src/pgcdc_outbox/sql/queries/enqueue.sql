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

-- name: enqueue_at
insert into :"schema".scheduled (due_at, topic, payload, key, headers, content_type)
values (
    cast(cast(%(run_at_text)s as text) as timestamptz),
    %(topic)s,
    %(payload)s,
    %(key)s,
    cast(cast(%(headers)s as text) as jsonb),
    %(content_type)s
)
returning id

-- name: enqueue_after
-- An interval of nothing but seconds: no time zone can stretch it.
insert into :"schema".scheduled (due_at, topic, payload, key, headers, content_type)
values (
    clock_timestamp() + make_interval(secs => cast(%(delay)s as double precision)),
    %(topic)s,
    %(payload)s,
    %(key)s,
    cast(cast(%(headers)s as text) as jsonb),
    %(content_type)s
)
returning id

-- name: take_ids
-- Ids for a list of jobs, ascending, and the clock their delays count from.
select array(
           select nextval((select cast(cast(%(sequence)s as text) as regclass)))
           from generate_series(1, cast(%(count)s as integer))
       ) as ids,
       cast(extract(epoch from clock_timestamp()) * 1000000 as bigint) as clock_us

-- name: enqueue_many_immediate
insert into :"schema".immediate (id, topic, payload, key, headers, content_type)
select id, topic, payload, key, cast(headers as jsonb), content_type
from unnest(
    cast(%(id)s as bigint[]),
    cast(%(topic)s as text[]),
    cast(%(payload)s as bytea[]),
    cast(%(key)s as text[]),
    cast(%(headers)s as text[]),
    cast(%(content_type)s as text[])
) as job (id, topic, payload, key, headers, content_type)

-- name: enqueue_many_scheduled
insert into :"schema".scheduled (id, due_at, topic, payload, key, headers, content_type)
select id, cast(due_at as timestamptz), topic, payload, key, cast(headers as jsonb), content_type
from unnest(
    cast(%(id)s as bigint[]),
    cast(%(due_at_text)s as text[]),
    cast(%(topic)s as text[]),
    cast(%(payload)s as bytea[]),
    cast(%(key)s as text[]),
    cast(%(headers)s as text[]),
    cast(%(content_type)s as text[])
) as job (id, due_at, topic, payload, key, headers, content_type)
