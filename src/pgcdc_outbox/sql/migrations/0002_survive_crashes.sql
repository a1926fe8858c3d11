-- What a consumer has to know of the holds before its own: how it read, whether
-- it ended in good order, how often its slot was lost, which jobs were running.

set local search_path to :"schema", pg_catalog;

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
