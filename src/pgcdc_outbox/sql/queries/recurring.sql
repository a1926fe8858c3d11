-- name: server_clock
select (extract(epoch from clock_timestamp()) * 1000000)::bigint as now_us

-- name: put_recurring
-- What does not change its times does not move the next one either.
insert into :"schema".recurring as r (
    name, cron, time_zone, missed, topic, payload, key, headers, content_type, time_to_live, next_at
)
values (
    %(name)s::text,
    %(cron)s::text,
    %(time_zone)s::text,
    %(missed)s::text,
    %(topic)s::text,
    %(payload)s::bytea,
    %(key)s::text,
    %(headers)s::text::jsonb,
    %(content_type)s::text,
    make_interval(secs => %(time_to_live)s::double precision),
    %(next_at)s::timestamptz
)
on conflict (name) do update set
    cron = excluded.cron,
    time_zone = excluded.time_zone,
    missed = excluded.missed,
    topic = excluded.topic,
    payload = excluded.payload,
    key = excluded.key,
    headers = excluded.headers,
    content_type = excluded.content_type,
    time_to_live = excluded.time_to_live,
    next_at = case
        when (r.cron, r.time_zone) = (excluded.cron, excluded.time_zone) then r.next_at
        else excluded.next_at
    end

-- name: list_recurring
select name, cron, time_zone, missed, topic, key, :"schema".readable(payload, content_type) as body,
       time_to_live, paused, next_at, last_at, last_id
from :"schema".recurring
order by name

-- name: find_recurring
select cron, time_zone
from :"schema".recurring
where name = %(name)s

-- name: remove_recurring
delete from :"schema".recurring
where name = %(name)s
returning name

-- name: pause_recurring
update :"schema".recurring
set paused = true
where name = %(name)s
returning name

-- name: resume_recurring
-- Once is enough: one that was not paused keeps what it may have missed.
update :"schema".recurring
set paused = false, next_at = %(next_at)s::timestamptz
where name = %(name)s and paused

-- name: next_recurring
-- The first ones, due or not: who has nothing to do learns when to come again.
select name, cron, time_zone, missed,
       (extract(epoch from next_at) * 1000000)::bigint,
       (extract(epoch from clock_timestamp()) * 1000000)::bigint
from :"schema".recurring
where not paused
order by next_at
limit %(limit)s

-- name: fire_recurring
-- Jobs for the times that were chosen, and the next time, together. A schedule that
-- somebody else is at, or has fired, paused or changed since it was read, is left out.
with due as materialized (
    select r.name, r.topic, r.payload, r.key, r.headers, r.content_type, r.time_to_live,
           timestamptz 'epoch' + g.next_us * interval '1 microsecond' as next_at
    from :"schema".recurring as r
    join unnest(
        %(names)s::text[], %(crons)s::text[], %(time_zones)s::text[],
        %(due_us)s::bigint[], %(next_us)s::bigint[]
    ) as g (name, cron, time_zone, due_us, next_us)
      on g.name = r.name and g.cron = r.cron and g.time_zone = r.time_zone
    where not r.paused
      and r.next_at = timestamptz 'epoch' + g.due_us * interval '1 microsecond'
    for update of r skip locked
), job as materialized (
    select due.*, timestamptz 'epoch' + t.at_us * interval '1 microsecond' as at
    from due
    join unnest(%(fired)s::text[], %(times_us)s::bigint[]) as t (name, at_us) on t.name = due.name
), put as (
    insert into :"schema".immediate (topic, payload, key, headers, content_type, expires_at)
    select topic, payload, key,
           coalesce(headers, '{}') || jsonb_build_object(
               'schedule-name', name,
               'scheduled-for', to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
           ),
           content_type, at + time_to_live
    from job
    order by at, name
    returning id, headers ->> 'schedule-name' as name
), moved as (
    update :"schema".recurring as r
    set next_at = due.next_at,
        last_at = coalesce((select max(at) from job where job.name = due.name), r.last_at),
        last_id = coalesce((select max(id) from put where put.name = due.name), r.last_id)
    from due
    where r.name = due.name
)
select count(*)
from put
