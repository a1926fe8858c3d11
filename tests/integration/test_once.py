"""Jobs that run at most once: what is not known to have ended is put aside, and a person says."""

from collections.abc import Callable, Sequence
from typing import Any

import anyio
import psycopg
import pytest

from pgcdc_outbox import Dead, Job, Retry
from pgcdc_outbox.consumer.ports import UnitOfWork
from pgcdc_outbox.events import BatchSettled, Disconnected, HandlersAbandoned, JobDead
from tests.effects import effects, make_ledger, write
from tests.harness import Outbox, Recorder, Watcher, consumer, running, streaming
from tests.wait import eventually_async

IN_BOTH_MODES = True


class Once(Recorder):
    """Notes each job before it runs, in a call of its own, and does what ``then`` says."""

    def __init__(self, then: Callable[[Job], Any] = lambda job: None) -> None:
        super().__init__()
        self._do = then

    async def execute(self, jobs: Sequence[Job], unit: UnitOfWork) -> dict[int, Exception]:
        errors: dict[int, Exception] = {}
        for job in jobs:
            await unit.begin_once([job])
            self.batches.append([job])
            self._changed.set()
            try:
                said = self._do(job)
                if said is not None:
                    await said
            except Exception as error:
                errors[job.id] = error

        return errors


def dead(outbox: Outbox) -> list[tuple[int, str]]:
    """Dead letters and their reasons, in the order of the ids."""
    return [(i, r) for i, r in outbox.rows("select id, reason from dead_letter order by id")]


async def test_the_note_is_durable_before_the_call_and_gone_after_it(outbox: Outbox) -> None:
    ids = outbox.put(range(5))
    seen: list[Any] = []

    async def look(job: Job) -> None:
        seen.extend(outbox.rows("select id, attempt, once from started where id = %s", [job.id]))

    await consumer(outbox, Once(look)).run(once=True)

    assert seen == [(i, 1, True) for i in ids]
    assert outbox.rows("select * from started") == []
    assert dead(outbox) == []


async def test_success_is_written_before_it_is_settled(outbox: Outbox) -> None:
    ids = outbox.put(range(3))
    seen: list[Any] = []

    def look(event: Any) -> None:
        if isinstance(event, BatchSettled):
            seen.append(outbox.rows("select id, attempt from trace order by id"))
            seen.append(outbox.rows("select id from started"))

    await consumer(outbox, Once(), observers=[look]).run(once=True)

    assert seen == [[(i, 1) for i in ids], []]


@pytest.mark.parametrize("error", [Retry(0), Retry(0, "not yet")], ids=["Retry", "with a text"])
async def test_a_job_that_asks_for_it_is_tried_again(outbox: Outbox, error: Exception) -> None:
    outbox.put(["x"])

    async def fail_first(job: Job) -> None:
        if job.attempt == 1:
            raise error

    handler = Once(fail_first)
    async with running(consumer(outbox, handler)):
        await handler.got(2)
        await eventually_async(lambda: _is(not outbox.rows("select from started")))

    assert [job.attempt for job in handler.jobs] == [1, 2]
    assert dead(outbox) == []


async def _is(answer: bool) -> bool:
    return answer


async def test_a_job_that_says_it_is_dead_is_dead(outbox: Outbox) -> None:
    (id_,) = outbox.put(["x"])

    async def die(job: Job) -> None:
        raise Dead("declined")

    await consumer(outbox, Once(die)).run(once=True)

    assert dead(outbox) == [(id_, "declined")]


async def test_any_other_error_leaves_a_job_in_doubt(outbox: Outbox) -> None:
    good, bad = outbox.put(["good", "bad"])

    async def fail(job: Job) -> None:
        if job.json() == "bad":
            raise TimeoutError("no answer from the bank")

    handler = Once(fail)
    await consumer(outbox, handler).run(once=True)

    assert handler.ids == [good, bad]
    assert dead(outbox) == [(bad, "in_doubt")]
    ((error, text),) = outbox.rows(
        "select errors -> -1 ->> 'error', errors -> -1 ->> 'text' from dead_letter"
    )
    assert (error, text) == ("TimeoutError", "no answer from the bank")


class AllAtOnce(Once):
    async def execute(self, jobs: Sequence[Job], unit: UnitOfWork) -> Any:
        await unit.begin_once([job for job in jobs if job.topic == "once"])
        self.batches.append(list(jobs))
        self._changed.set()
        raise Retry(3600) if len(jobs) > 1 else ValueError("what?")


async def test_a_call_of_several_that_raises_leaves_those_in_doubt_that_began(
    outbox: Outbox,
) -> None:
    """An outcome that is raised for several is about nobody knows which."""
    once = outbox.put(["x", "y"], topic="once")
    other = outbox.put(["z"])

    await consumer(outbox, AllAtOnce()).run(once=True)

    assert dead(outbox) == [(i, "in_doubt") for i in once]
    assert outbox.rows("select id from failed") == [(i,) for i in other]


async def test_a_call_that_is_abandoned_leaves_its_jobs_in_doubt(outbox: Outbox) -> None:
    """At a stop: the note stays, and the next start judges by it."""
    (id_,) = outbox.put(["x"])
    watcher = Watcher()

    async def hang(job: Job) -> None:
        await anyio.sleep_forever()

    handler = Once(hang)
    async with running(consumer(outbox, handler, observers=[watcher], drain_timeout=0.1)):
        await handler.got(1)

    assert watcher.of(HandlersAbandoned)
    assert dead(outbox) == []
    ids = [id_, *outbox.put(["y"])]
    again = Once()
    await consumer(outbox, again).run(once=True)

    assert again.ids == ids[1:]
    assert dead(outbox) == [(id_, "in_doubt")]
    (text,) = outbox.rows("select errors -> -1 ->> 'text' from dead_letter")[0]
    assert text.startswith("attempt 1 began at 20")
    assert "pgcdc-outbox/default/" in text
    assert outbox.rows("select * from started") == []


async def test_a_lost_connection_leaves_jobs_in_doubt_in_the_same_process(outbox: Outbox) -> None:
    watcher = Watcher()

    async def hang(job: Job) -> None:
        if job.json() == "hangs":
            await anyio.sleep_forever()

    handler = Once(hang)
    subject = consumer(outbox, handler, observers=[watcher], drain_timeout=0.1)
    async with streaming(subject, watcher):
        (id_,) = outbox.put(["hangs"])
        await handler.got(1)
        outbox.cut_off_reader()
        await watcher.saw(Disconnected)
        await watcher.saw(JobDead)
        (after,) = outbox.put(["after"])
        await handler.until(lambda: after in handler.ids)

    assert handler.ids == [id_, after]
    assert dead(outbox) == [(id_, "in_doubt")]


async def test_a_note_whose_job_does_not_come_again_is_forgotten(outbox: Outbox) -> None:
    outbox.put(["x"])
    await consumer(outbox, Once()).run(once=True)
    outbox.rows(
        "insert into started (consumer, id, attempt, instance, once) "
        "values ('default', 99, 1, 'gone', true)"
    )
    await consumer(outbox, Once()).run(once=True)

    assert outbox.rows("select * from started") == []


async def test_once_and_effects_together(outbox: Outbox) -> None:
    make_ledger(outbox)
    ids = outbox.put(range(3))

    class Both(Once):
        async def execute(self, jobs: Sequence[Job], unit: UnitOfWork) -> Any:
            await unit.begin_once(jobs)
            async with unit.effects(jobs) as part:
                for job in jobs:
                    await write(job, await part.connection(psycopg.AsyncConnection))

    await consumer(outbox, Both()).run(once=True)

    assert effects(outbox) == [(i, 1) for i in ids]
    assert outbox.rows("select * from started") == []
