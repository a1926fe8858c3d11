"""A connection that is lost at the commit: nothing is done twice, nothing called done wrongly."""

import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pgcdc_outbox import Job
from pgcdc_outbox.events import BatchSettled, ChoreFailed, Disconnected, OutcomesRecorded
from tests.effects import GATED, Effecting, Gate, effects, make_ledger, write
from tests.harness import READING, Outbox, Watcher, consumer, running, streaming
from tests.integration.test_effects import LATER
from tests.wait import eventually_async

IN_BOTH_MODES = True


@pytest.fixture
def outbox(outbox: Outbox) -> Outbox:
    make_ledger(outbox)
    outbox.rows(GATED)
    return outbox


@pytest.fixture
async def gate(outbox: Outbox) -> AsyncIterator[Gate]:
    gate = Gate(outbox)
    yield gate
    gate.open()


class Cuttable(Effecting):
    """Remembers what its connection was, so that it can be cut."""

    def __init__(self) -> None:
        super().__init__(self._note)
        self.socket = -1

    async def _note(self, job: Job, connection: Any) -> None:
        self.socket = connection.pgconn.socket
        await write(job, connection)

    def cut(self) -> None:
        with socket.socket(fileno=socket.dup(self.socket)) as end:
            end.shutdown(socket.SHUT_RDWR)


async def test_cut_off_and_committed_all_the_same(outbox: Outbox, gate: Gate) -> None:
    ids = outbox.put(range(3))
    watcher = Watcher()
    handler = Cuttable()
    async with running(consumer(outbox, handler, observers=[watcher])):
        await gate.reached()
        handler.cut()
        told = await watcher.saw(ChoreFailed)
        assert "is in progress" in told.error
        assert not watcher.of(BatchSettled)
        gate.open()
        await watcher.saw(BatchSettled)
        await outbox.settled()

    assert effects(outbox) == [(i, 1) for i in ids]
    assert handler.ids == ids
    assert not watcher.of((Disconnected, OutcomesRecorded))


async def test_cut_off_and_rolled_back(outbox: Outbox, gate: Gate) -> None:
    ids = outbox.put(range(3))
    handler = Cuttable()
    async with running(consumer(outbox, handler)):
        pid = await gate.reached()
        outbox.rows("select pg_terminate_backend(%s)", [pid])
        gate.open()
        await eventually_async(lambda: _has_effects(outbox, 3))

    assert effects(outbox) == [(i, 2) for i in ids]


async def _has_effects(outbox: Outbox, count: int) -> bool:
    return len(effects(outbox)) == count


async def test_a_hold_that_is_lost_meanwhile_knows_what_was_committed(
    outbox: Outbox, gate: Gate
) -> None:
    """Everything is cut at once: the next hold waits for the commit, and finds it."""
    handler = Cuttable()
    watcher = Watcher()
    subject = consumer(outbox, handler, observers=[watcher], drain_timeout=0.1)
    async with streaming(subject, watcher):
        ids = outbox.put(range(3))
        pid = await gate.reached()
        handler.cut()
        outbox.rows(
            "select pg_terminate_backend(pid) from pg_stat_activity where pid <> %s "
            "and datname = current_database() and application_name like 'pgcdc-outbox/%%'",
            [pid],
        )
        await watcher.saw(Disconnected)
        gate.open()
        ids += outbox.put(["behind them"])
        await outbox.settled()

    assert effects(outbox) == [(i, 1) for i in ids]
    assert handler.ids == ids


async def test_a_stop_that_abandons_a_commit_does_not_repeat_it(outbox: Outbox, gate: Gate) -> None:
    ids = outbox.put(range(3))
    handler = Cuttable()
    subject = consumer(outbox, handler, drain_timeout=0.1)
    async with running(subject):
        await gate.reached()

    gate.open()
    await consumer(outbox, handler).run(once=True)

    assert effects(outbox) == [(i, 1) for i in ids]


async def test_who_slept_while_another_took_over_commits_nothing(outbox: Outbox) -> None:
    ids = outbox.put(range(3))
    watcher = Watcher()
    taken: list[int] = []

    async def body(job: Job, connection: Any) -> None:
        await write(job, connection)
        if not taken:
            taken.append(1)
            outbox.rows("update consumer set epoch = epoch + 1, instance = 'another'")

    async with running(consumer(outbox, Effecting(body), observers=[watcher], retry=LATER)):
        await watcher.saw(Disconnected)
        assert "epoch" in watcher.of(Disconnected)[0].error
        await eventually_async(lambda: _has_effects(outbox, 3))

    assert effects(outbox) == [(i, 1) for i in ids]
    assert outbox.rows("select * from failed") == []


async def test_a_job_that_is_settled_already_is_not_committed_again(outbox: Outbox) -> None:
    """The tables know better than this hold, whatever made it wrong."""
    watcher = Watcher()

    async def body(job: Job, connection: Any) -> None:
        await write(job, connection)
        outbox.rows("insert into trace (consumer, id, attempt) values ('default', %s, 1)", [job.id])

    handler = Effecting(body)
    async with streaming(consumer(outbox, handler, observers=[watcher]), watcher):
        outbox.put(["x"])
        await watcher.saw(Disconnected)
        await watcher.saw(READING, 2)

    assert effects(outbox) == []
    assert "settled already" in watcher.of(Disconnected)[0].error
    assert len(handler.jobs) == 1
