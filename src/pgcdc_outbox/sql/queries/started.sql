-- name: left_started
select id, attempt, instance = %(instance)s, once, instance,
       to_char(started_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
from :"schema".started
where consumer = %(consumer)s;

-- name: start
-- Note a job that is about to run, and forget others that ended, with one write.
-- Ours is left out of those, because a row can be changed once in a statement.
with fence as materialized (
    select name
    from :"schema".consumer
    where name = %(consumer)s and epoch = %(epoch)s
    for share
), ended as (
    delete from :"schema".started as s
    using fence, unnest(%(ended_ids)s::bigint[], %(ended_attempts)s::integer[]) as t (id, attempt)
    where s.consumer = fence.name and s.id = t.id and s.attempt <= t.attempt and s.id <> %(id)s
), begun as (
    insert into :"schema".started (consumer, id, attempt, instance)
    select name, %(id)s, %(attempt)s, %(instance)s
    from fence
    on conflict (consumer, id) do update set
        attempt = excluded.attempt,
        instance = excluded.instance,
        started_at = excluded.started_at,
        once = excluded.once
)
select count(*) from fence;

-- name: start_once
-- Note jobs that must not be run again, whatever happens to this process or the server.
with fence as materialized (
    select name, set_config('synchronous_commit', case current_setting('synchronous_commit') when 'off' then 'on' else current_setting('synchronous_commit') end, true)
    from :"schema".consumer
    where name = %(consumer)s and epoch = %(epoch)s
    for share
), begun as (
    insert into :"schema".started (consumer, id, attempt, instance, once)
    select fence.name, t.id, t.attempt, %(instance)s, true
    from fence
    cross join unnest(%(ids)s::bigint[], %(attempts)s::integer[]) as t (id, attempt)
    on conflict (consumer, id) do update set
        attempt = excluded.attempt,
        instance = excluded.instance,
        started_at = excluded.started_at,
        once = excluded.once
)
select count(*) from fence;

-- name: forget_started
with fence as materialized (
    select name
    from :"schema".consumer
    where name = %(consumer)s and epoch = %(epoch)s
    for share
), ended as (
    delete from :"schema".started as s
    using fence, unnest(%(ended_ids)s::bigint[], %(ended_attempts)s::integer[]) as t (id, attempt)
    where s.consumer = fence.name and s.id = t.id and s.attempt <= t.attempt
)
select count(*) from fence;

-- name: calm
update :"schema".consumer
set crashes = 0
where name = %(consumer)s and epoch = %(epoch)s
returning 1;
