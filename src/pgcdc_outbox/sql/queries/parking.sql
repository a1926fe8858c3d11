-- name: held_keys
select key, id, until
from :"schema".held_key
where consumer = %(consumer)s;

-- name: unheld_keys
-- Keys of parked jobs that wait for nobody: somebody's hand was in it.
select distinct p.key
from :"schema".parked as p
where p.consumer = %(consumer)s and not exists (
    select from :"schema".held_key as h where h.consumer = p.consumer and h.key = p.key
);

-- name: orphaned_keys
-- Keys that wait for a job which is nowhere. One that was put back in line has a trace
-- until a checkpoint has passed it, and then its fate is recorded. One that is dead is
-- waited for no more, if whoever recorded it had no time to say so.
select h.key
from :"schema".held_key as h
where h.consumer = %(consumer)s and (
    h.id is null or not exists (
        select from :"schema".failed as f where f.consumer = h.consumer and f.id = h.id
    ) and (
        exists (
            select from :"schema".dead_letter as d where d.consumer = h.consumer and d.id = h.id
        ) or not exists (
            select from :"schema".trace as t where t.consumer = h.consumer and t.id = h.id
        )
    )
);

-- name: park
-- Jobs that wait for another of their key: those that were parked before go back to
-- their places, others behind all. Writes nothing for an old epoch, and nothing twice.
-- Who waits finds what is waited for, also if somebody has removed it. A job that is
-- parked does not run, whatever was noted before.
with fence as materialized (
    select name
    from :"schema".consumer
    where name = %(consumer)s and epoch = %(epoch)s
    for share
), given as materialized (
    select distinct on (id) *
    from unnest(
        %(ids)s::bigint[], %(attempts)s::integer[], %(times)s::integer[], %(positions)s::bigint[],
        %(prior_attempts)s::integer[], %(created_us)s::bigint[], %(topics)s::text[],
        %(payloads)s::bytea[], %(keys)s::text[], %(headers)s::text[], %(content_types)s::text[],
        %(expires_us)s::bigint[], %(histories)s::text[], %(holders)s::bigint[], %(untils)s::bigint[]
    ) with ordinality as t (
        id, attempt, times, position, prior_attempts, created_us, topic, payload, key, headers,
        content_type, expires_us, history, holder, until, n
    )
    order by id, n
), waiting as materialized (
    select fence.name as consumer, given.key, given.position, given.id, given.attempt, given.times,
           given.prior_attempts,
           timestamptz 'epoch' + given.created_us * interval '1 microsecond' as created_at,
           given.topic, given.payload, given.headers::jsonb as headers, given.content_type,
           timestamptz 'epoch' + given.expires_us * interval '1 microsecond' as expires_at,
           given.history::jsonb as errors, given.n
    from given
    cross join fence
), back as (
    insert into :"schema".parked (
        consumer, key, position, id, attempt, times, prior_attempts, created_at,
        topic, payload, headers, content_type, errors, expires_at
    )
    select consumer, key, position, id, attempt, times, prior_attempts, created_at,
           topic, payload, headers, content_type, errors, expires_at
    from waiting
    where position > 0
    on conflict do nothing
), behind as (
    insert into :"schema".parked (
        consumer, key, id, attempt, times, prior_attempts, created_at,
        topic, payload, headers, content_type, errors, expires_at
    )
    select consumer, key, id, attempt, times, prior_attempts, created_at,
           topic, payload, headers, content_type, errors, expires_at
    from waiting
    where position = 0
    order by n
    on conflict do nothing
), held as (
    insert into :"schema".held_key (consumer, key, id, until)
    select distinct on (given.key) fence.name, given.key, given.holder, given.until
    from given
    cross join fence
    on conflict do nothing
), ended as (
    delete from :"schema".started as s
    using waiting as w
    where s.consumer = w.consumer and s.id = w.id and s.attempt <= w.attempt and not s.once
)
select count(*) from fence;

-- name: release_parked
-- What keys waited for is finished: the next of their parked jobs are put back in line,
-- and are what is waited for then; a key without any is free. As many go as limit says,
-- and none behind which one stands that has a lower id: who reads the table finds the
-- rows of one transaction in the order of their ids. The traces say that the rows which
-- the jobs were parked from are settled, and that whoever was waited for is done.
with fence as materialized (
    select name
    from :"schema".consumer
    where name = %(consumer)s and epoch = %(epoch)s
    for share
), given as materialized (
    select distinct on (key) *
    from unnest(%(keys)s::text[], %(ids)s::bigint[], %(attempts)s::integer[]) as t (key, id, attempt)
    order by key
), due as materialized (
    select p.consumer, p.key, p.position, p.id
    from fence
    cross join given
    cross join lateral (
        select *
        from :"schema".parked as parked
        where parked.consumer = fence.name and parked.key = given.key
        order by parked.position
        limit %(limit)s
        for update
    ) as p
), run as materialized (
    select *, sum(descends::integer) over (partition by key order by position) as descents
    from (
        select *, coalesce(id < lag(id) over (partition by key order by position), false) as descends
        from due
    ) as d
), taken as (
    delete from :"schema".parked as p
    using run as r
    where r.descents = 0 and p.consumer = r.consumer and p.key = r.key and p.position = r.position
    returning p.*
), traced as (
    insert into :"schema".trace as known (consumer, id, attempt, parked)
    select consumer, id, attempt, times - 1
    from taken
    union all
    select fence.name, given.id, given.attempt, null
    from given
    cross join fence
    where given.attempt is not null
      and not exists (select from taken as t where t.id = given.id and t.attempt = given.attempt)
    on conflict (consumer, id, attempt) do update set
        parked = case
            when known.parked is not null and excluded.parked is not null
            then greatest(known.parked, excluded.parked)
        end,
        xid = excluded.xid
), put as (
    insert into :"schema".immediate (
        id, attempt, topic, payload, key, headers, content_type, consumer, expires_at, history
    )
    select id, attempt, topic, payload, key, headers, content_type, consumer, expires_at,
           jsonb_build_object(
               'created_us', (extract(epoch from created_at) * 1000000)::bigint,
               'prior_attempts', prior_attempts,
               'errors', errors,
               'parked', times,
               'position', position
           )
    from taken
    order by position
), last as materialized (
    select distinct on (key) consumer, key, id, position, count(*) over (partition by key) as jobs
    from taken
    order by key, position desc
), moved as (
    insert into :"schema".held_key as h (consumer, key, id, until)
    select consumer, key, id, position
    from last
    on conflict (consumer, key) do update set
        id = excluded.id,
        until = excluded.until,
        held_at = excluded.held_at
), freed as (
    delete from :"schema".held_key as h
    using fence, given
    where h.consumer = fence.name and h.key = given.key
      and not exists (select from last as l where l.key = given.key)
)
select given.key, last.id, last.position, coalesce(last.jobs, 0)
from fence
cross join given
left join last on last.key = given.key;
