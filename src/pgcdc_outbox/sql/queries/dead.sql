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
select count(*) as jobs
from :"schema".dead_letter
where (%(ids)s::bigint[] is null or id = any(%(ids)s))
  and (%(consumer)s::text is null or consumer = %(consumer)s)
  and (%(topic)s::text is null or topic = %(topic)s)
  and (%(reason)s::text is null or reason = %(reason)s)

-- name: retry_dead
-- Back in line for the consumer it died for, under the same id. Attempts go on
-- counting, but those before count no more towards the limit. The trace stands
-- for the row that left: the log may still bring the one it came from.
with taken as (
    delete from :"schema".dead_letter
    where (%(ids)s::bigint[] is null or id = any(%(ids)s))
      and (%(consumer)s::text is null or consumer = %(consumer)s)
      and (%(topic)s::text is null or topic = %(topic)s)
      and (%(reason)s::text is null or reason = %(reason)s)
    returning *
), traced as (
    insert into :"schema".trace (consumer, id, attempt)
    select consumer, id, attempt
    from taken
    on conflict do nothing
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

-- name: discard_dead
with taken as (
    delete from :"schema".dead_letter
    where (%(ids)s::bigint[] is null or id = any(%(ids)s))
      and (%(consumer)s::text is null or consumer = %(consumer)s)
      and (%(topic)s::text is null or topic = %(topic)s)
      and (%(reason)s::text is null or reason = %(reason)s)
    returning consumer, id, attempt
), traced as (
    insert into :"schema".trace (consumer, id, attempt)
    select consumer, id, attempt
    from taken
    on conflict do nothing
)
select consumer, id
from taken
order by id, consumer
