"""Failures: judged, recorded, tried again, exactly counted, never in the way of others."""

import threading
import time
from collections.abc import Sequence
from typing import Any

import anyio
import psycopg
import pytest

from pgcdc_outbox import Dead, Done, Job, Retry, RetryPolicy
from pgcdc_outbox.errors import SchemaBehind
from pgcdc_outbox.events import (
    BatchSettled,
    BatchStarted,
    ChoreFailed,
    Disconnected,
    HandlersAbandoned,
    JobDead,
    OutcomesRecorded,
    Promoted,
    Stopping,
)
from pgcdc_outbox.postgres.migrate import migrate
from tests.harness import READING, Outbox, Recorder, Watcher, consumer, running, streaming
from tests.wait import eventually_async

IN_BOTH_MODES = True

ONCE_A_MOMENT = RetryPolicy(max_attempts=5, first_delay=0.1, factor=2, jitter=0.2)


async def test_a_job_that_fails_twice_runs_three_times_with_growing_gaps(outbox: Outbox) -> None:
    times: list[float] = []

    async def handle(jobs: Sequence[Job]) -> list[int]:
        times.append(time.monotonic())
        assert [job.attempt for job in jobs] == [len(times)]
        return [job.id for job in jobs if job.attempt < 3]

    # What the delays are meant to be: how long they last is also the machine's affair.
    outbox.rows("create table delays (at_least interval, at_most interval)")
    outbox.rows(
        """
        create function note_delay() returns trigger language plpgsql as $$
        begin
            insert into outbox.delays values (new.due_at - new.failed_at, new.due_at - now());
            return new;
        end
        $$
        """
    )
    outbox.rows(
        "create trigger note_delay after insert on failed for each row "
        "execute function note_delay()"
    )
    watcher = Watcher()
    policy = RetryPolicy(first_delay=0.3, factor=3, jitter=0.1)
    async with streaming(consumer(outbox, handle, retry=policy, observers=[watcher]), watcher):
        outbox.put(["x"])
        await watcher.saw(BatchSettled, 3)

    first, second = times[1] - times[0], times[2] - times[1]
    assert first >= 0.27
    assert second >= 0.81
    shorter, longer = outbox.rows("select * from delays order by at_most")
    assert shorter[0].total_seconds() < 0.4
    assert longer[1].total_seconds() > 0.8
    assert outbox.value("select count(*) from failed") == 0


@pytest.mark.parametrize("attempts", [1, 2, 4])
async def test_an_always_failing_job_is_executed_as_often_as_allowed(
    outbox: Outbox, attempts: int
) -> None:
    """Alone or in company, returned or raised: exactly so often, and numbered so."""
    seen: dict[int, list[int]] = {}

    async def handle(jobs: Sequence[Job]) -> list[int]:
        for job in jobs:
            seen.setdefault(job.id, []).append(job.attempt)

        if any(job.topic == "raises" for job in jobs):
            raise RuntimeError("no use")

        return [job.id for job in jobs if job.topic == "fails"]

    watcher = Watcher()
    policy = RetryPolicy(max_attempts=attempts, first_delay=0.01)
    async with streaming(consumer(outbox, handle, retry=policy, observers=[watcher]), watcher):
        with psycopg.connect(outbox.dsn) as connection:
            topics = ["good", "fails", "good", "raises", "good"]
            ids = [outbox.client.enqueue(n, topic=t, tx=connection) for n, t in enumerate(topics)]

        await watcher.saw(JobDead, 2)
        await eventually_async(lambda: _is(not outbox.rows("select from failed")))

    assert seen[ids[1]] == seen[ids[3]] == list(range(1, attempts + 1))
    assert {event.id for event in watcher.of(JobDead)} == {ids[1], ids[3]}
    rows = outbox.rows("select id, attempt, reason, jsonb_array_length(errors) from dead_letter")
    assert sorted(rows) == [(id_, attempts, "exhausted", attempts) for id_ in (ids[1], ids[3])]


async def test_one_bad_job_takes_no_neighbour_with_it(outbox: Outbox) -> None:
    """A batch that raises comes back one job at a time."""

    def then(jobs: Sequence[Job]) -> None:
        if any(job.json() == "bad" for job in jobs):
            raise ValueError("bad job")

    recorder, watcher = Recorder(then), Watcher()
    # Before there is a reader: the log may bring a transaction in two pieces.
    outbox.put(["good", "bad", "fine", "better"])
    async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
        await watcher.saw(JobDead)
        await recorder.got(4 + 3 + 2)

    assert [len(batch) for batch in recorder.batches] == [4, 1, 1, 1, 1, 1]
    assert [job.json() for job in recorder.jobs[4:]].count("bad") == 2
    assert outbox.rows("select convert_from(payload, 'UTF8') from dead_letter") == [('"bad"',)]


async def test_whatever_a_handler_throws_or_returns_is_a_failure_of_its_jobs_only(
    outbox: Outbox,
) -> None:
    class Odd(BaseException):
        pass

    def exits() -> Any:
        raise SystemExit(3)

    def odd() -> Any:
        raise Odd("odd")

    def cancelled() -> Any:
        raise anyio.get_cancelled_exc_class()()

    def interrupted() -> Any:
        raise KeyboardInterrupt

    tricks: dict[str, Any] = {
        "exits": exits,
        "odd": odd,
        "cancelled": cancelled,
        "interrupted": interrupted,
        "true": lambda: True,
        "text": lambda: "all good",
        "number": lambda: 42,
        "unknown": lambda: [123456789],
        "mapping": lambda: {"id": "ok"},
    }

    async def handle(jobs: Sequence[Job]) -> Any:
        (job,) = jobs
        return tricks[job.topic]() if job.topic in tricks else None

    watcher = Watcher()
    policy = RetryPolicy(max_attempts=1)
    async with streaming(consumer(outbox, handle, retry=policy, observers=[watcher]), watcher):
        for topic in tricks:
            outbox.put(["x"], topic=topic)

        outbox.put(["x"], topic="good")
        await watcher.saw(BatchSettled, len(tricks) + 1)

    rows = outbox.rows("select topic, errors -> 0 ->> 'error' from dead_letter order by id")
    assert [topic for topic, _ in rows] == list(tricks)
    errors = dict(rows)
    assert errors["exits"] == "SystemExit"
    assert errors["odd"].endswith("Odd")
    assert errors["true"] == errors["unknown"] == "pgcdc_outbox.errors.ResultInvalid"


async def test_outcomes_by_id_each_count_for_their_own_job(outbox: Outbox) -> None:
    ids: dict[str, int] = {}

    async def handle(jobs: Sequence[Job]) -> dict[int, Exception]:
        outcomes: dict[int, Exception] = {}
        for job in jobs:
            ids[job.json()] = job.id
            match job.json(), job.attempt:
                case "done", _:
                    outcomes[job.id] = Done()
                case "dead", _:
                    outcomes[job.id] = Dead("no such customer")
                case "retry", 1:
                    outcomes[job.id] = Retry(after=0.05, error="not yet")
                case "error", 1:
                    outcomes[job.id] = OSError("disk")

        return outcomes

    watcher = Watcher()
    # Before there is a reader: the log may bring a transaction in two pieces.
    outbox.put(["done", "dead", "retry", "error", "unsaid"])
    async with streaming(consumer(outbox, handle, observers=[watcher]), watcher):
        await watcher.saw(OutcomesRecorded)
        await eventually_async(lambda: _is(not outbox.rows("select from failed")))

    assert outbox.rows("select id, reason, attempt from dead_letter") == [
        (ids["dead"], "no such customer", 1)
    ]
    recorded = watcher.of(OutcomesRecorded)[0]
    assert (recorded.retried, recorded.dead) == (2, 1)


async def test_a_delay_beyond_all_calendars_is_cut_and_stops_nobody(outbox: Outbox) -> None:
    recorder = Recorder(lambda jobs: {job.id: Retry(after=1e9) for job in jobs})
    async with running(consumer(outbox, recorder)):
        outbox.put(["for ever"])
        await eventually_async(lambda: _is(bool(outbox.rows("select from failed"))))
        outbox.put(["next"])
        await recorder.got(2)

    rows = outbox.rows("select due_at - now() > interval '9 years', due_at::text from failed")
    assert [far for far, _ in rows] == [True, True], rows


async def test_an_outcome_may_be_raised(outbox: Outbox) -> None:
    def then(jobs: Sequence[Job]) -> None:
        if jobs[0].json() == "dead":
            raise Dead("as I said")

        if jobs[0].attempt == 1:
            raise Retry(after=0.05)

    recorder, watcher = Recorder(then), Watcher()
    subject = consumer(outbox, recorder, batch_size=1, observers=[watcher])
    async with streaming(subject, watcher):
        outbox.put(["dead", "again"])
        await recorder.got(3)
        await watcher.saw(BatchSettled, 3)

    assert recorder.values == ["dead", "again", "again"]
    assert outbox.rows("select reason from dead_letter") == [("as I said",)]


async def test_a_topic_nobody_handles_is_never_done(outbox: Outbox) -> None:
    """By the handler's choice it is kept or dead-lettered, with that reason."""

    async def handle(jobs: Sequence[Job]) -> dict[int, Exception]:
        return {
            job.id: Dead("no_handler") if job.topic == "strange" else Retry(after=60)
            for job in jobs
            if job.topic != "known"
        }

    watcher = Watcher()
    async with streaming(consumer(outbox, handle, observers=[watcher]), watcher):
        for topic in ("strange", "known", "later"):
            outbox.put([topic], topic=topic)

        await eventually_async(lambda: _is(bool(outbox.rows("select from failed"))))

    assert outbox.rows("select topic, reason from dead_letter") == [("strange", "no_handler")]
    assert outbox.rows("select topic from failed") == [("later",)]


async def test_a_failing_immediate_and_a_failing_scheduled_job_keep_their_own_payloads(
    outbox: Outbox,
) -> None:
    watcher = Watcher()
    recorder = Recorder(lambda jobs: [job.id for job in jobs])
    async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
        (now,) = outbox.put(["now"], key="k", headers={"who": "a"})
        (later,) = outbox.put(["later"], delay=0.2, topic="t")
        await watcher.saw(JobDead, 2)

    assert outbox.rows(
        "select id, topic, key, headers, convert_from(payload, 'UTF8') from dead_letter order by id"
    ) == [
        (now, "default", "k", {"who": "a"}, '"now"'),
        (later, "t", None, None, '"later"'),
    ]


async def test_a_dead_letter_tells_everything(outbox: Outbox) -> None:
    def then(jobs: Sequence[Job]) -> None:
        raise ConnectionError(f"attempt {jobs[0].attempt}: secret {'x' * 10_000}\0\ud800")

    watcher = Watcher()
    subject = consumer(
        outbox,
        Recorder(then),
        observers=[watcher],
        redact=lambda text: text.replace("secret", "******"),
    )
    async with streaming(subject, watcher):
        (id_,) = outbox.put([{"n": 1}], topic="t", key="k", headers={"h": "v"})
        created = outbox.value("select created_at from immediate")
        await watcher.saw(JobDead)

    ((row,),) = outbox.rows("select to_jsonb(d) from dead_letter d")
    assert row["id"] == id_
    assert row["reason"] == "exhausted"
    assert (row["attempt"], row["topic"], row["key"]) == (3, "t", "k")
    assert row["headers"] == {"h": "v"}
    assert outbox.value("select created_at from dead_letter") == created
    assert [error["attempt"] for error in row["errors"]] == [1, 2, 3]
    for error in row["errors"]:
        assert error["error"] == "ConnectionError"
        assert error["text"].startswith(f"attempt {error['attempt']}: ****** xxx")
        assert len(error["text"]) < 5000
        assert error["at"].endswith("Z")


async def test_a_dead_letter_that_cannot_be_written_leaves_the_job_where_it_was(
    outbox: Outbox,
) -> None:
    recorder, watcher = Recorder(lambda jobs: {job.id: Dead("bad") for job in jobs}), Watcher()

    async def consume() -> None:
        async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
            outbox.rows("alter table dead_letter rename to dead_letter_away")
            outbox.put(["x"])
            await anyio.sleep_forever()

    with pytest.raises(SchemaBehind, match="dead_letter"), anyio.fail_after(60):
        await consume()

    (id_,) = recorder.ids

    outbox.rows("alter table dead_letter_away rename to dead_letter")
    watcher = Watcher()
    async with running(consumer(outbox, recorder, observers=[watcher])):
        await watcher.saw(JobDead)

    assert recorder.ids == [id_, id_]
    assert outbox.rows("select id, attempt from dead_letter") == [(id_, 1)]


async def test_an_outcome_whose_connection_is_killed_is_recorded_once(outbox: Outbox) -> None:
    killed = False

    async def handle(jobs: Sequence[Job]) -> list[int]:
        nonlocal killed
        if not killed:
            killed = True
            # Every ordinary connection of the consumer, and with it the one that
            # would write the outcome.
            outbox.rows(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and backend_type = 'client backend' "
                "and application_name like 'pgcdc-outbox/%%'".replace("%%", "%")
            )

        return [job.id for job in jobs]

    recorder = Recorder()
    watcher = Watcher()

    async def both(jobs: Sequence[Job]) -> list[int]:
        await recorder(jobs)
        return await handle(jobs)

    # The hold has lost its lock, and ends; the outcome is to be written before it does.
    subject = consumer(
        outbox,
        both,
        observers=[watcher],
        retry=RetryPolicy(max_attempts=2),
        drain_timeout=60,
    )
    async with streaming(subject, watcher):
        (id_,) = outbox.put(["x"])
        await watcher.saw(JobDead, timeout=120)

    assert [job.attempt for job in recorder.jobs] == [1, 2]
    assert outbox.rows("select id, attempt from dead_letter") == [(id_, 2)]
    assert killed


async def test_a_redelivered_failure_is_recognised(outbox: Outbox) -> None:
    """Killed after the outcome was written and before it was acknowledged, promoted or not."""
    release = anyio.Event()

    async def handle(jobs: Sequence[Job]) -> dict[int, Retry]:
        await recorder(jobs)
        if jobs[0].topic == "stuck":
            await release.wait()

        # The third failure is recorded and not promoted when the first hold ends: no call
        # of this job is under way that the short drain would cut off.
        return {
            job.id: Retry(after=3600 if job.attempt == 3 else 0.05)
            for job in jobs
            if job.topic == "fails"
        }

    recorder, watcher = Recorder(), Watcher()
    policy = RetryPolicy(max_attempts=1000)
    subject = consumer(
        outbox, handle, observers=[watcher], concurrency=2, batch_size=1, retry=policy,
        drain_timeout=0.1,
    )  # fmt: skip
    async with streaming(subject, watcher):
        # The first one never ends, so nothing behind it is acknowledged.
        outbox.put(["x"], topic="stuck")
        (id_,) = outbox.put(["x"], topic="fails")
        await eventually_async(
            lambda: _is(bool(outbox.rows("select from failed where attempt = 3"))), timeout=60
        )

    attempts = [job.attempt for job in recorder.jobs if job.id == id_]
    assert attempts == [1, 2, 3]
    release.set()
    async with streaming(subject, watcher):
        outbox.rows("update failed set due_at = now()")
        # Its first row comes again with the log, and must not run again.
        await eventually_async(
            lambda: _is(len([job for job in recorder.jobs if job.id == id_]) >= len(attempts) + 2)
        )

    again = [job.attempt for job in recorder.jobs if job.id == id_]
    assert again == list(range(1, len(again) + 1))


async def test_undecodable_rows_go_to_the_dead_letters_and_the_rest_flows(outbox: Outbox) -> None:
    outbox.rows("alter table immediate drop constraint immediate_headers_check")
    outbox.rows("alter table immediate add column colour text default 'red'")
    outbox.rows(
        "alter publication pgcdc_outbox set table immediate"
    )  # all columns, the new one too
    outbox.rows(f"alter database {_database(outbox)} set datestyle = 'German, DMY'")
    outbox.rows(f"alter database {_database(outbox)} set timezone = 'Asia/Tokyo'")
    outbox.rows(f"alter database {_database(outbox)} set bytea_output = 'escape'")

    async def handle(jobs: Sequence[Job]) -> None:
        for job in jobs:
            job.json()

        await recorder(jobs)

    recorder, watcher = Recorder(), Watcher()
    async with streaming(consumer(outbox, handle, observers=[watcher]), watcher):
        before = outbox.value("select extract(epoch from now())")
        outbox.put(["first"])
        outbox.rows("insert into immediate (payload, headers) values ('1', '[1, 2]')")
        outbox.rows("insert into immediate (payload) values ('')")
        outbox.rows("insert into immediate (payload) values ('{\"half\": ')")
        outbox.rows("insert into immediate (payload, topic) values ('2', 'nobody knows it')")
        outbox.rows("alter table immediate drop column colour")
        outbox.put(["second"])
        await watcher.saw(JobDead, 3)
        await recorder.got(3)
        outbox.rows("insert into immediate (payload) values ('\"third\"')")
        await recorder.got(4)

    assert sorted(map(str, recorder.values)) == ["2", "first", "second", "third"]
    rows = outbox.rows("select reason, errors -> -1 ->> 'text' from dead_letter order by id")
    assert [reason for reason, _ in rows] == ["undecodable"] * 3
    assert all(text for _, text in rows)
    (first,) = [job for job in recorder.jobs if job.json() == "first"]
    assert abs(first.created_us / 1e6 - float(before)) < 60


async def test_retries_keep_no_worker_busy(outbox: Outbox) -> None:
    recorder = Recorder(lambda jobs: [job.id for job in jobs if job.topic == "bad"])
    policy = RetryPolicy(max_attempts=3, first_delay=3600, jitter=0)
    async with running(consumer(outbox, recorder, retry=policy, drain_timeout=60)):
        outbox.put(["x"] * 50, topic="bad")
        good = outbox.put(range(10), topic="good")
        await recorder.until(lambda: set(good) <= set(recorder.ids))

    assert outbox.value("select count(*) from failed") == 50


async def test_a_stop_lets_the_running_batch_finish_and_record(outbox: Outbox) -> None:
    running_now, release = anyio.Event(), anyio.Event()

    async def handle(jobs: Sequence[Job]) -> list[int]:
        await recorder(jobs)
        running_now.set()
        await release.wait()
        return [jobs[0].id]

    recorder, watcher = Recorder(), Watcher()
    # Not due again while it stops: promotion goes on to the end.
    later = RetryPolicy(max_attempts=3, first_delay=3600)
    subject = consumer(
        outbox, handle, observers=[watcher], batch_size=10, retry=later, drain_timeout=60
    )
    async with anyio.create_task_group() as group:
        group.start_soon(subject.run)
        await watcher.saw(READING)
        ids = outbox.put(range(25))
        await running_now.wait()
        subject.stop()
        await watcher.saw(Stopping)
        release.set()

    # As many as had come by then, ten at most.
    (batch,) = recorder.batches
    finished = [job.id for job in batch]
    assert finished == ids[: len(finished)]
    assert outbox.rows("select id from failed") == [(ids[0],)]
    # The transaction is not finished, so all of it comes again, but what was finished
    # is known.
    async with running(subject):
        await recorder.until(lambda: set(ids) <= set(recorder.ids))

    assert [recorder.ids.count(id_) for id_ in ids[1:]] == [1] * 24


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_wedged_handler_does_not_wedge_the_stop(outbox: Outbox, kind: str) -> None:
    entered, release = threading.Event(), threading.Event()

    async def wedged(jobs: Sequence[Job]) -> None:
        entered.set()
        await anyio.sleep_forever()

    def blocked(jobs: Sequence[Job]) -> None:
        entered.set()
        release.wait(600)

    watcher = Watcher()
    subject = consumer(
        outbox, wedged if kind == "async" else blocked, observers=[watcher], drain_timeout=0.3
    )
    try:
        (id_,) = outbox.put(["x"])
        started = 0.0
        async with running(subject):
            await eventually_async(lambda: _is(entered.is_set()))
            started = time.monotonic()

        # Without end, but for the limit of the drain.
        assert time.monotonic() - started < 45
        assert watcher.of(HandlersAbandoned)[0].batches == 1
        recorder = Recorder()
        async with running(consumer(outbox, recorder)):
            await recorder.got(1)

        assert recorder.ids == [id_]
    finally:
        release.set()


async def test_a_lost_connection_is_opened_again_and_nothing_runs_twice(outbox: Outbox) -> None:
    recorder, watcher = Recorder(), Watcher()
    async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
        ids = outbox.put(range(10))
        await recorder.got(10)
        for n in range(3):
            outbox.cut_off_reader()
            await watcher.saw(Disconnected, n + 1)
            ids += outbox.put(range(10))
            await recorder.got(10 * (n + 2))

    assert recorder.ids == ids


async def test_what_finished_behind_a_running_job_does_not_come_again_after_a_reconnect(
    outbox: Outbox,
) -> None:
    release = anyio.Event()

    async def handle(jobs: Sequence[Job]) -> None:
        await recorder(jobs)
        if jobs[0].topic == "slow":
            await release.wait()

    recorder, watcher = Recorder(), Watcher()
    subject = consumer(outbox, handle, observers=[watcher], concurrency=3, batch_size=5)
    async with streaming(subject, watcher):
        slow = outbox.put(["x"], topic="slow")
        quick = [id_ for n in range(20) for id_ in outbox.put([n])]
        await recorder.got(21)
        outbox.cut_off_reader()
        # The running job is waited for; then the log is read from before it.
        release.set()
        await watcher.saw(READING, 2)
        last = outbox.put(["last"])
        await recorder.until(lambda: last[0] in recorder.ids)

    assert sorted(recorder.ids) == sorted([*slow, *quick, *last])


async def test_an_instance_whose_time_is_over_writes_nothing(outbox: Outbox) -> None:
    """Another one raised the epoch while its handler ran."""
    release = anyio.Event()

    async def handle(jobs: Sequence[Job]) -> list[int]:
        await recorder(jobs)
        await release.wait()
        return [job.id for job in jobs if job.attempt == 1]

    recorder, watcher = Recorder(), Watcher()
    async with streaming(consumer(outbox, handle, observers=[watcher]), watcher):
        (id_,) = outbox.put(["x"])
        await recorder.got(1)
        outbox.rows("update consumer set epoch = epoch + 1")
        release.set()
        lost = await watcher.saw(Disconnected)
        assert "epoch" in lost.error
        assert not watcher.of(OutcomesRecorded)
        # The next hold has the newest epoch, and gets the job again.
        await watcher.saw(OutcomesRecorded)

    assert [job.attempt for job in recorder.jobs if job.id == id_][:2] == [1, 1]


async def test_an_error_that_the_database_cannot_spell_is_recorded_all_the_same(
    server, outbox: Outbox
) -> None:
    name = f"{_database(outbox)}_latin1"[:63]
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(
            f"create database {name} encoding 'LATIN1' locale 'C' template template0"
        )

    try:
        dsn = server.dsn(name)
        migrate(dsn)
        latin, watcher = Outbox(dsn), Watcher()

        def then(jobs: Sequence[Job]) -> None:
            raise ValueError("snow \N{SNOWMAN} and \N{LATIN SMALL LETTER E WITH ACUTE}")

        async with running(consumer(latin, Recorder(then), observers=[watcher])):
            latin.put(["x"])
            await watcher.saw(JobDead)

        text = latin.value("select errors -> 0 ->> 'text' from dead_letter")
        assert text == r"snow \u2603 and \xe9"
    finally:
        server.drop_database(name)


async def test_schedules_run_at_the_instant_of_the_servers_clock(outbox: Outbox) -> None:
    arrived: dict[int, float] = {}

    async def handle(jobs: Sequence[Job]) -> None:
        now = outbox.value("select extract(epoch from clock_timestamp())::float8")
        arrived.update((job.id, now) for job in jobs)

    watcher = Watcher()
    async with streaming(consumer(outbox, handle, observers=[watcher]), watcher):
        start = outbox.value("select extract(epoch from clock_timestamp())::float8")
        (delayed,) = outbox.put(["x"], delay=1.5)
        due = outbox.value("select clock_timestamp() + interval '0.8 s'")
        (at,) = outbox.put(["y"], run_at=due)
        (now,) = outbox.put(["z"])
        await eventually_async(lambda: _is(len(arrived) == 3), timeout=60)
        # It may be told after the jobs have come.
        await eventually_async(
            lambda: _is(sum(event.scheduled for event in watcher.of(Promoted)) == 2), timeout=60
        )

    assert now in arrived
    late = [arrived[delayed] - start - 1.5, arrived[at] - due.timestamp()]
    assert min(late) >= 0
    # Of two that are due at different times a machine that stands still spoils one.
    assert min(late) < 1
    assert max(late) < 45


async def test_the_ledger_out_of_order_is_tried_again_and_never_skipped(outbox: Outbox) -> None:
    """A full disk, say: the batch waits, is told about, and is recorded in the end."""
    outbox.rows(
        """
        create function refuse() returns trigger language plpgsql as $$
        begin
            raise exception 'could not extend file' using errcode = '53100';
        end
        $$
        """
    )
    outbox.rows(
        "create trigger refuse before insert on failed for each statement execute function refuse()"
    )
    recorder, watcher = Recorder(lambda jobs: [j.id for j in jobs if j.attempt == 1]), Watcher()
    async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
        outbox.put(["x"])
        await watcher.saw(ChoreFailed, 3)
        assert len(recorder.jobs) == 1
        outbox.rows("drop trigger refuse on failed")
        await recorder.got(2)

    assert not watcher.of(Disconnected)
    assert [job.attempt for job in recorder.jobs] == [1, 2]
    assert watcher.of(BatchStarted)


def _database(outbox: Outbox) -> str:
    return str(outbox.value("select quote_ident(current_database())"))


async def _is(value: bool) -> bool:
    return value
