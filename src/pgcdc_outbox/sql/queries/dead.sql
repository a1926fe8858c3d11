-- name: list_dead
-- Newest first, without the payload; a page ends where the next begins before.
select consumer, id, reason, topic, key, attempt, prior_attempts, created_at, died_at,
       octet_length(payload) as payload_bytes,
       errors -> -1 ->> 'error' as last_error,
       errors -> -1 ->> 'text' as last_text
from :"schema".dead_letter
where (%(consumer)s::text is null or consumer = %(consumer)s)
  and (%(topic)s::text is null or topic = %(topic)s)
  and (%(reason)s::text is null or reason = %(reason)s)
  and (%(but)s::text is null or reason <> %(but)s)
  and (%(before)s::bigint is null or id < %(before)s)
order by id desc, consumer
limit %(limit)s

-- name: show_dead
select consumer, id, reason, topic, key, headers, coalesce(content_type, 'application/json') as content_type,
       attempt, prior_attempts, created_at, died_at, payload,
       :"schema".readable(payload, content_type) as body, errors
from :"schema".dead_letter
where id = %(id)s
  and (%(consumer)s::text is null or consumer = %(consumer)s)
order by consumer

-- name: count_dead
-- Those in doubt only if they were named, by id or by their reason: a person has to find out
-- about each. The same below.
select count(*) as jobs
from :"schema".dead_letter
where (%(ids)s::bigint[] is null or id = any(%(ids)s))
  and (%(consumer)s::text is null or consumer = %(consumer)s)
  and (%(topic)s::text is null or topic = %(topic)s)
  and (%(reason)s::text is null or reason = %(reason)s)
  and (%(ids)s::bigint[] is not null or %(reason)s::text is not null or reason <> %(in_doubt)s)

-- name: retry_dead
-- Back in line for the consumer it died for, under the same id, and for as long as
-- it takes: it expires no more. Attempts go on counting, but those before count no
-- more towards the limit. The trace stands
-- for the row that left: the log may still bring the one it came from.
with taken as (
    delete from :"schema".dead_letter
    where (%(ids)s::bigint[] is null or id = any(%(ids)s))
      and (%(consumer)s::text is null or consumer = %(consumer)s)
      and (%(topic)s::text is null or topic = %(topic)s)
      and (%(reason)s::text is null or reason = %(reason)s)
      and (%(ids)s::bigint[] is not null or %(reason)s::text is not null or reason <> %(in_doubt)s)
    returning *
), traced as (
    insert into :"schema".trace (consumer, id, attempt)
    select consumer, id, attempt
    from taken
    on conflict (consumer, id, attempt) do update set parked = null, xid = excluded.xid
), put as (
    insert into :"schema".immediate (
        id, attempt, topic, payload, key, headers, content_type, consumer, history
    )
    select id, attempt + 1, topic, payload, key, headers, content_type, consumer,
           jsonb_build_object(
               'created_us', (extract(epoch from created_at) * 1000000)::bigint,
               'prior_attempts', attempt,
               'errors', errors
           )
    from taken
    order by id
)
select consumer, id
from taken
order by id, consumer

-- name: resolve_done
-- A person says that it happened: nothing comes again, and it is written down who said so.
with taken as (
    delete from :"schema".dead_letter
    where id = %(id)s
      and reason = %(reason)s
      and (%(consumer)s::text is null or consumer = %(consumer)s)
    returning consumer, id, attempt, topic, key
), traced as (
    insert into :"schema".trace (consumer, id, attempt)
    select consumer, id, attempt
    from taken
    on conflict (consumer, id, attempt) do update set parked = null, xid = excluded.xid
), told as (
    insert into :"schema".attempt (
        consumer, id, attempt, topic, key, outcome, started_at, seconds, instance, text
    )
    select consumer, id, attempt, topic, key, 'done', clock_timestamp(), 0, %(who)s, %(note)s
    from taken
)
select consumer, id
from taken
order by consumer

-- name: discard_dead
with taken as (
    delete from :"schema".dead_letter
    where (%(ids)s::bigint[] is null or id = any(%(ids)s))
      and (%(consumer)s::text is null or consumer = %(consumer)s)
      and (%(topic)s::text is null or topic = %(topic)s)
      and (%(reason)s::text is null or reason = %(reason)s)
      and (%(ids)s::bigint[] is not null or %(reason)s::text is not null or reason <> %(in_doubt)s)
    returning consumer, id, attempt
), traced as (
    insert into :"schema".trace (consumer, id, attempt)
    select consumer, id, attempt
    from taken
    on conflict (consumer, id, attempt) do update set parked = null, xid = excluded.xid
)
select consumer, id
from taken
order by id, consumer

-- name: purge_until
-- What the age of dead letters is told from: one moment for all the batches of a purge.
select clock_timestamp() - %(older_than)s as until

-- name: count_purgeable
select count(*) as jobs
from :"schema".dead_letter
where died_at < %(until)s
  and (%(consumer)s::text is null or consumer = %(consumer)s)
  and (%(topic)s::text is null or topic = %(topic)s)
  and (%(reason)s::text is null or reason = %(reason)s)
  and (%(reason)s::text is not null or reason <> %(in_doubt)s)

-- name: purge_dead
-- One batch, the oldest first; the next goes on after the last of it, so that no row
-- is looked at twice. A trace is left, as by discarding, unless a checkpoint shows
-- that neither the log nor the table can bring the job again. Names without a
-- consumer get none: nobody would ever remove it.
with due as materialized (
    select died_at, consumer, id
    from :"schema".dead_letter
    where died_at < %(until)s
      and died_at >= %(after_died_at)s
      and (died_at, consumer, id) > (%(after_died_at)s, %(after_consumer)s, %(after_id)s)
      and (%(consumer)s::text is null or consumer = %(consumer)s)
      and (%(topic)s::text is null or topic = %(topic)s)
      and (%(reason)s::text is null or reason = %(reason)s)
      and (%(reason)s::text is not null or reason <> %(in_doubt)s)
    order by died_at, consumer, id
    limit %(limit)s
), taken as (
    delete from :"schema".dead_letter as d
    using due
    where d.consumer = due.consumer and d.id = due.id and d.died_at = due.died_at
    returning d.consumer, d.id, d.attempt, d.xid
), traced as (
    insert into :"schema".trace (consumer, id, attempt)
    select t.consumer, t.id, t.attempt
    from taken as t
    join :"schema".consumer as c on c.name = t.consumer
    cross join pg_control_system() as s
    left join :"schema".checkpoint as k on k.consumer = c.name
    where k.consumer is null
       or k.system_id <> s.system_identifier::text
       or not pg_visible_in_snapshot(t.xid, k.snapshot)
    on conflict (consumer, id, attempt) do update set parked = null, xid = excluded.xid
)
select died_at, consumer, id, (select count(*) from taken) as jobs
from due
order by died_at desc, consumer desc, id desc
limit 1
