-- Enqueue from any SQL client, in the transaction of your own rows.
--   psql -v schema=outbox -f plain.sql

begin;

-- Your rows first, for example:
--   update orders set state = 'paid' where id = 123;

-- JSON, through the function. It returns the id of the job.
select :"schema".enqueue('order.paid', '{"order": 123}');

-- With a key (what the job is about), headers and a delay.
select :"schema".enqueue(
    topic   => 'order.remind',
    payload => '{"order": 123}',
    key     => 'order-123',
    headers => '{"trace": "4bf92f35"}',
    delay   => interval '1 hour'
);

-- Without the function: the payload is all that is needed.
insert into :"schema".immediate (payload) values (convert_to('{"order": 123}', 'UTF8'));

-- Any bytes: say what they are.
insert into :"schema".immediate (topic, payload, content_type)
values ('thumbnail', '\x89504e47', 'image/png');

-- At a given time.
insert into :"schema".scheduled (due_at, topic, payload)
values (timestamptz '2030-01-01 09:00+02', 'report', convert_to('{"year": 2029}', 'UTF8'));

commit;
