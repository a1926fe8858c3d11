"""A job is not started after its time, wherever it waits."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import anyio
import pytest

from pgcdc_outbox import Job, Retry, Snooze
from pgcdc_outbox.events import BatchSettled, BatchStarted, JobDead
from pgcdc_outbox.postgres.ledger.dead import DeadLetters, Selection
from tests.harness import Outbox, Recorder, Watcher, consumer, streaming
from tests.wait import eventually_async

IN_BOTH_MODES = True


async def passed(outbox: Outbox) -> None:
    """Wait until the server's clock has passed the expiry of everything."""

    async def look() -> bool:
        return bool(outbox.value("select clock_timestamp() > max(expires_at) from job"))

    await eventually_async(look)


def dead(outbox: Outbox) -> list[tuple[object, ...]]:
    return outbox.rows("select id, reason, attempt from dead_letter order by id")


async def test_expired_before_it_was_delivered(outbox: Outbox) -> None:
    late = outbox.put(["late"], time_to_live=0.2)
    never = outbox.put(["in time"], time_to_live=timedelta(hours=1))
    outbox.rows("insert into immediate (payload, expires_at) values ('3', 'infinity')")
    await passed_first(outbox, late[0])
    recorder = Recorder()

    await consumer(outbox, recorder).run(once=True)

    assert recorder.ids[0] == never[0]
    assert len(recorder.ids) == 2
    assert [job.expires_at is None for job in recorder.jobs] == [False, True]
    assert dead(outbox) == [(late[0], "expired", 1)]
    (autopsy,) = DeadLetters(outbox.dsn).show(late[0])
    assert [failing.error for failing in autopsy.errors] == ["Expired"]


async def passed_first(outbox: Outbox, id_: int) -> None:
    async def look() -> bool:
        found = outbox.value("select clock_timestamp() > expires_at from job where id = %s", [id_])
        return bool(found)

    await eventually_async(look)


async def test_expired_while_it_was_scheduled(outbox: Outbox) -> None:
    at = datetime(2020, 1, 1, tzinfo=UTC)
    (late,) = outbox.put(["late"], run_at=at, time_to_live=60)
    (soon,) = outbox.put(["soon"], delay=0.1, time_to_live=60)
    recorder, watcher = Recorder(), Watcher()

    async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
        await recorder.got(1)
        await watcher.saw(JobDead)

    assert recorder.ids == [soon]
    assert recorder.jobs[0].expires_at is not None
    assert dead(outbox) == [(late, "expired", 1)]


@pytest.mark.parametrize("outcome", [Retry(after=3600), Snooze(after=3600)], ids=repr)
async def test_expired_between_two_attempts(outbox: Outbox, outcome: Retry | Snooze) -> None:
    """It is not kept until the retry would have been due, but found dead when it expires."""
    recorder, watcher = Recorder(lambda jobs: {job.id: outcome for job in jobs}), Watcher()

    async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
        # Long enough to be started, however slow the machine is.
        (id_,) = outbox.put(["x"], time_to_live=1800)
        await eventually_async(lambda: due_when_it_expires(outbox, id_))
        outbox.rows("update failed set due_at = clock_timestamp(), expires_at = clock_timestamp()")
        await watcher.saw(JobDead)

    assert recorder.ids == [id_]
    assert dead(outbox) == [(id_, "expired", 2)]
    assert outbox.value("select count(*) from failed") == 0


async def due_when_it_expires(outbox: Outbox, id_: int) -> bool:
    return outbox.rows("select id, due_at = expires_at from failed") == [(id_, True)]


async def test_expired_in_memory_behind_a_handler_that_takes_long(outbox: Outbox) -> None:
    first = anyio.Event()
    seen: list[str] = []

    async def handle(jobs: Sequence[Job]) -> None:
        seen.extend(job.json() for job in jobs)
        if "slow" in seen and not first.is_set():
            first.set()
            await passed(outbox)

    watcher = Watcher()
    options = {"batch_size": 1, "observers": [watcher]}
    async with streaming(consumer(outbox, handle, **options), watcher):
        outbox.put(["slow"])
        await watcher.saw(BatchStarted)
        (late,) = outbox.put(["late"], time_to_live=0.6)
        outbox.put(["last"])
        await watcher.saw(BatchSettled, 3)

    assert seen == ["slow", "last"]
    assert dead(outbox) == [(late, "expired", 1)]


async def test_the_clock_of_the_client_does_not_matter(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = time.time
    monkeypatch.setattr(time, "time", lambda: wrong() + 7200)
    (late,) = outbox.put(["late"], time_to_live=0.2)
    (live,) = outbox.put(["live"], time_to_live=3600)
    await passed_first(outbox, late)
    recorder = Recorder()

    await consumer(outbox, recorder).run(once=True)

    assert recorder.ids == [live]
    assert dead(outbox) == [(late, "expired", 1)]


async def test_a_person_who_retries_it_means_it(outbox: Outbox) -> None:
    (id_,) = outbox.put(["late"], time_to_live=0.001)
    recorder = Recorder()
    await passed(outbox)
    await consumer(outbox, recorder).run(once=True)
    assert recorder.ids == []

    DeadLetters(outbox.dsn).retry(Selection(ids=(id_,)))
    await consumer(outbox, recorder).run(once=True)

    assert recorder.ids == [id_]
    assert recorder.jobs[0].expires_at is None
    assert dead(outbox) == []
