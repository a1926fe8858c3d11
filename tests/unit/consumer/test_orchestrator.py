"""One run of a consumer, from the first hold to the last."""

import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from pgcdc_outbox.consumer import consumer, hold
from pgcdc_outbox.consumer.stop import Stop
from pgcdc_outbox.core.crash import Started
from pgcdc_outbox.errors import (
    Fenced,
    LedgerUnavailable,
    PermissionMissing,
    SchemaBehind,
    SlotInUse,
    SlotMissing,
    SourceUnavailable,
    StreamCorrupt,
)
from pgcdc_outbox.events import (
    BatchStarted,
    ChoreFailed,
    Connecting,
    Disconnected,
    HandlersAbandoned,
    StandingBy,
    Stopped,
    Stopping,
)
from pgcdc_outbox.job import Job
from pgcdc_outbox.lsn import LSN
from tests.unit.consumer.conftest import Chance
from tests.unit.consumer.fakes import (
    LOST,
    PATIENCE,
    Diary,
    Events,
    FakeChore,
    FakeFeed,
    FakeLedger,
    FakeRegister,
    FakeSource,
    jobs,
    orchestrator,
    running,
    until,
)

pytestmark = pytest.mark.usefixtures("chance")


async def done(jobs: Sequence[Job]) -> None:
    """A handler that has nothing to do."""


class Gate:
    """A handler that waits, so that a test can see it at work."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.started: list[int] = []
        self.ended: list[int] = []
        self.open = anyio.Event()

    async def handle(self, jobs: Sequence[Job]) -> None:
        self.started += [job.id for job in jobs]
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.open.wait()
        finally:
            self.running -= 1

        self.ended += [job.id for job in jobs]


class TestDelivering:
    async def test_every_job_is_handled_and_settled(self) -> None:
        feed, seen = FakeFeed(jobs(25)), []

        async def handle(jobs: Sequence[Job]) -> None:
            seen.extend(job.id for job in jobs)

        async with running(orchestrator(FakeSource(feed), handle, batch_size=10)) as run:
            await until(lambda: len(feed.settled) == 25)
            run.stop.ask()
            assert await run.end() == 0

        assert seen == feed.settled == list(range(1, 26))

    async def test_a_reader_that_is_ahead_waits(self) -> None:
        feed, gate = FakeFeed(jobs(20)), Gate()

        async with running(orchestrator(FakeSource(feed), gate, prefetch=3)) as run:
            await until(lambda: gate.started)
            for _ in range(50):
                await anyio.lowlevel.checkpoint()

            assert feed.intake.full
            assert not feed.reading.is_set()
            gate.open.set()
            await until(lambda: len(feed.settled) == 20)
            run.stop.ask()
            await run.end()

    @pytest.mark.parametrize("concurrency", [1, 3])
    async def test_so_many_batches_run_at_the_same_time_and_never_more(
        self, concurrency: int
    ) -> None:
        feed, gate = FakeFeed(jobs(10)), Gate()

        async with running(orchestrator(FakeSource(feed), gate, concurrency=concurrency)) as run:
            await until(lambda: gate.running == concurrency)
            for _ in range(50):
                await anyio.lowlevel.checkpoint()

            assert gate.most == concurrency
            gate.open.set()
            await until(lambda: len(feed.settled) == 10)
            run.stop.ask()
            await run.end()

        assert gate.most == concurrency

    async def test_with_one_worker_jobs_keep_their_order(self) -> None:
        feed, gate = FakeFeed(jobs(10)), Gate()
        gate.open.set()

        async with running(orchestrator(FakeSource(feed), gate, batch_size=3)):
            await until(lambda: len(feed.settled) == 10)

        assert gate.started == list(range(1, 11))

    async def test_an_observer_that_raises_does_not_matter(self) -> None:
        feed = FakeFeed(jobs(3))

        def broken(event: object) -> None:
            raise RuntimeError("an observer's mistake")

        async with running(orchestrator(FakeSource(feed), done, observers=[broken])) as run:
            await until(lambda: len(feed.settled) == 3)
            run.stop.ask()
            assert await run.end() == 0

    async def test_chores_are_done_meanwhile(self) -> None:
        chores = [FakeChore(0.0), FakeChore(0.0, SourceUnavailable("away"), 0.0)]

        async with running(orchestrator(FakeSource(FakeFeed()), done, chores=chores)) as run:
            for chore in chores:
                await chore.exhausted.wait()

            run.stop.ask()
            assert await run.end() == 0

        assert [chore.calls for chore in chores] == [2, 4]


class TestStopping:
    async def test_running_handlers_end_and_nothing_more_is_handed_out(self) -> None:
        diary, events = Diary(), Events()
        feed, gate = FakeFeed(jobs(5), diary=diary), Gate()
        source = FakeSource(feed)

        async with running(orchestrator(source, gate, observers=[events])) as run:
            await until(lambda: gate.started == [1])
            run.stop.ask()
            await until(lambda: events.of(Stopping))
            assert feed.finished == 0, "its report comes after the last job"
            gate.open.set()
            assert await run.end() == 0

        assert gate.ended == [1]
        assert diary == ["settle [1]", "finish"]
        assert source.released == 1
        assert events.names()[-1] == "Stopped"

    async def test_an_idle_consumer_stops_at_once(self) -> None:
        feed, events = FakeFeed(), Events()

        async with running(
            orchestrator(FakeSource(feed), done, observers=[events], concurrency=3)
        ) as run:
            await feed.reading.wait()
            run.stop.ask()
            assert await run.end() == 0

        assert feed.finished == 1
        assert events.of(HandlersAbandoned) == []

    async def test_a_stop_before_the_start_prevents_it(self) -> None:
        source = FakeSource()

        async with running(orchestrator(source, done)) as run:
            run.stop.ask()
            assert await run.end() == 0

        assert source.opened == 0

    async def test_a_stop_while_opening_gives_up_waiting(self) -> None:
        source, events = FakeSource(anyio.Event()), Events()

        async with running(orchestrator(source, done, observers=[events])) as run:
            await source.waiting.wait()
            run.stop.ask()
            assert await run.end() == 0

        assert source.released == 1
        assert events.names() == ["Connecting", "Stopped"]

    async def test_a_stop_while_notes_cannot_be_forgotten_gives_up_waiting(
        self, chance: Chance
    ) -> None:
        chance.answer = lambda low, high: 3600.0 if low else 0.0
        feed, events = FakeFeed(), Events()
        noted = Started(id=1, attempt=1, ours=True)
        register = FakeRegister(noted, errors=[LedgerUnavailable("away")])

        async with running(
            orchestrator(FakeSource(feed), done, register=register, observers=[events])
        ) as run:
            await until(lambda: events.of(ChoreFailed))
            run.stop.ask()
            assert await run.end() == 0

        assert feed.finished == 1
        assert feed.intake is None
        assert events.names()[-1] == "Stopped"

    @pytest.mark.parametrize("error", [LOST, SlotInUse("somebody")])
    async def test_a_stop_while_waiting_to_reopen_gives_up_waiting(
        self, error: Exception, chance: Chance
    ) -> None:
        chance.answer = lambda low, high: 3600.0
        source, events = FakeSource(error), Events()

        async with running(orchestrator(source, done, observers=[events])) as run:
            await until(lambda: events.of(Disconnected) or events.of(StandingBy))
            run.stop.ask()
            assert await run.end() == 0

        assert source.opened == 1

    async def test_a_second_stop_cancels(self) -> None:
        feed, gate, events = FakeFeed(jobs(3)), Gate(), Events()

        async with running(
            orchestrator(
                FakeSource(feed), gate, observers=[events], concurrency=2, drain_timeout=3600
            )
        ) as run:
            await until(lambda: gate.running == 2)
            run.stop.ask()
            await until(lambda: events.of(Stopping))
            run.stop.ask()
            assert await run.end() == 2

        assert gate.ended == []
        assert feed.settled == []
        assert feed.finished == 1
        assert [event.batches for event in events.of(HandlersAbandoned)] == [2]

    async def test_the_drain_is_bounded(self) -> None:
        feed, gate, events = FakeFeed(jobs(1)), Gate(), Events()

        async with running(
            orchestrator(FakeSource(feed), gate, observers=[events], drain_timeout=0.01)
        ) as run:
            await until(lambda: gate.running == 1)
            run.stop.ask()
            assert await run.end() == 1

        assert feed.settled == []
        assert [event.batches for event in events.of(HandlersAbandoned)] == [1]

    async def test_a_thread_that_does_not_end_is_left_behind(self) -> None:
        feed, started, go_on = FakeFeed(jobs(1)), threading.Event(), threading.Event()

        def handle(jobs: Sequence[Job]) -> None:
            started.set()
            go_on.wait(PATIENCE)

        try:
            async with running(orchestrator(FakeSource(feed), handle, drain_timeout=0)) as run:
                await until(started.is_set)
                run.stop.ask()
                assert await run.end() == 1
        finally:
            go_on.set()

        assert feed.settled == []

    async def test_the_ledger_is_waited_for_no_longer_than_the_drain(self, chance: Chance) -> None:
        chance.answer = lambda low, high: 3600.0 if low else 0.0
        feed, ledger, events = FakeFeed(jobs(1)), FakeLedger(LedgerUnavailable("away")), Events()

        async def handle(jobs: Sequence[Job]) -> list[int]:
            return [jobs[0].id]

        async with running(
            orchestrator(
                FakeSource(feed), handle, ledger=ledger, observers=[events], drain_timeout=0.01
            )
        ) as run:
            await until(lambda: ledger.calls)
            run.stop.ask()
            assert await run.end() == 0, "the call has ended"

        assert feed.settled == []
        assert events.of(HandlersAbandoned) == []

    async def test_it_can_run_again(self) -> None:
        first, second = FakeFeed(jobs(2)), FakeFeed(jobs(3))
        which = orchestrator(FakeSource(first, second), done)

        for feed in (first, second):
            async with running(which) as run:
                await until(lambda feed=feed: feed.reading.is_set() and feed.intake is not None)
                await until(lambda feed=feed: len(feed.settled) == len(feed._deliver))
                run.stop.ask()
                assert await run.end() == 0

        assert (first.settled, second.settled) == ([1, 2], [1, 2, 3])

    async def test_cancelling_the_run_releases_everything(self) -> None:
        feed, gate = FakeFeed(jobs(1)), Gate()
        source = FakeSource(feed)

        async with running(orchestrator(source, gate)):
            await until(lambda: gate.running == 1)

        assert source.released == 1
        assert gate.running == 0
        assert feed.settled == []
        assert feed.finished == 1, "finished work is reported even so"


class TestOnce:
    async def test_it_ends_by_itself_when_everything_is_settled(self) -> None:
        feed, events = FakeFeed(jobs(7)), Events()

        async with running(
            orchestrator(FakeSource(feed), done, observers=[events]), once=True
        ) as run:
            assert await run.end() == 0

        assert len(feed.settled) == 7
        assert len(events.of(Stopped)) == 1

    async def test_with_nothing_to_do_it_ends_at_once(self) -> None:
        async with running(orchestrator(FakeSource(FakeFeed()), done), once=True) as run:
            assert await run.end() == 0

    async def test_it_does_not_end_before(self) -> None:
        feed, gate = FakeFeed(jobs(2)), Gate()

        async with running(orchestrator(FakeSource(feed), gate), once=True) as run:
            await until(lambda: gate.started)
            for _ in range(50):
                await anyio.lowlevel.checkpoint()

            assert not run.stop.asked
            gate.open.set()
            assert await run.end() == 0

        assert feed.settled == [1, 2]

    async def test_a_lost_connection_is_not_the_end(self) -> None:
        second = FakeFeed(jobs(2))

        async with running(orchestrator(FakeSource(LOST, second), done), once=True) as run:
            assert await run.end() == 0

        assert second.settled == [1, 2]


class TestLosingTheHold:
    async def test_running_handlers_end_before_it_is_opened_again(self) -> None:
        first, second, gate, events = FakeFeed(jobs(3)), FakeFeed(), Gate(), Events()
        source = FakeSource(first, second)

        async with running(orchestrator(source, gate, observers=[events])) as run:
            await until(lambda: gate.started == [1])
            first.fail(LOST)
            await until(lambda: first.intake.closed)
            assert source.opened == 1
            gate.open.set()
            await second.reading.wait()
            run.stop.ask()
            assert await run.end() == 0

        assert first.settled == [1], "what was not begun is left to the log"
        assert first.finished == 0, "there is nobody to tell"
        assert second.finished == 1
        assert source.released == 2
        (lost,) = events.of(Disconnected)
        assert lost.error == str(LOST)
        assert lost.hint == LOST.hint

    async def test_a_handler_that_does_not_end_is_not_waited_for_for_ever(self) -> None:
        first, second, gate = FakeFeed(jobs(1)), FakeFeed(), Gate()

        async with running(
            orchestrator(FakeSource(first, second), gate, drain_timeout=0.01)
        ) as run:
            await until(lambda: gate.running == 1)
            first.fail(LOST)
            await second.reading.wait()
            assert gate.running == 0
            run.stop.ask()
            await run.end()

        assert first.settled == []

    @pytest.mark.parametrize("error", [Fenced("epoch 7 is over"), SlotMissing("dropped")])
    async def test_a_ledger_that_ends_the_hold_settles_nothing(self, error: Exception) -> None:
        first, second = FakeFeed(jobs(2)), FakeFeed()
        ledger = FakeLedger(error)

        async def handle(jobs: Sequence[Job]) -> list[int]:
            return [job.id for job in jobs]

        async with running(orchestrator(FakeSource(first, second), handle, ledger=ledger)) as run:
            await second.reading.wait()
            run.stop.ask()
            await run.end()

        assert first.settled == []
        assert first.finished == 0
        assert ledger.recorded == []

    async def test_a_chore_that_is_fenced_ends_the_hold(self) -> None:
        first, second = FakeFeed(), FakeFeed()
        chore = FakeChore(Fenced("epoch 7 is over"))

        async with running(orchestrator(FakeSource(first, second), done, chores=[chore])) as run:
            await second.reading.wait()
            run.stop.ask()
            assert await run.end() == 0

        assert first.finished == 0

    async def test_each_failure_in_a_row_waits_longer(self, chance: Chance) -> None:
        feed, events = FakeFeed(), Events()
        source = FakeSource(*[LOST] * 10, feed)

        async with running(orchestrator(source, done, observers=[events])) as run:
            await feed.reading.wait()
            run.stop.ask()
            await run.end()

        ceilings = [high for _, high in chance.ranges]
        assert ceilings == [0.1 * 2**n for n in range(9)] + [30]
        assert [low * 2 for low, _ in chance.ranges] == ceilings
        assert len(events.of(Connecting)) == 11

    async def test_a_good_hold_starts_the_patience_from_the_beginning(
        self, chance: Chance, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = 1000.0
        monkeypatch.setattr(consumer, "time", SimpleNamespace(monotonic=lambda: now))
        good, last = FakeFeed(), FakeFeed()

        async with running(orchestrator(FakeSource(*[LOST] * 3, good, last), done)) as run:
            await good.reading.wait()
            now += 60
            good.fail(LOST)
            await last.reading.wait()
            run.stop.ask()
            await run.end()

        assert [high for _, high in chance.ranges] == [0.1, 0.2, 0.4, 0.1]

    async def test_a_failure_of_the_last_report_does_not_fail_the_stop(self) -> None:
        feed, events = FakeFeed(), Events()
        feed.finishing = LOST

        async with running(orchestrator(FakeSource(feed), done, observers=[events])) as run:
            await feed.reading.wait()
            run.stop.ask()
            assert await run.end() == 0

        assert len(events.of(Disconnected)) == 1

    @pytest.mark.parametrize("when", ["draining", "finishing"])
    async def test_abandoned_calls_are_counted_though_the_connection_is_lost(
        self, when: str
    ) -> None:
        feed, gate, events = FakeFeed(jobs(1)), Gate(), Events()
        feed.finishing = LOST if when == "finishing" else None

        async with running(
            orchestrator(FakeSource(feed), gate, observers=[events], drain_timeout=3600)
        ) as run:
            await until(lambda: gate.running == 1)
            run.stop.ask()
            await until(lambda: events.of(Stopping))
            if when == "draining":
                feed.fail(LOST)
                await until(lambda: feed.intake.closed)

            run.stop.ask()
            assert await run.end() == 1


class TestStandingBy:
    async def test_it_is_told_once_for_each_time_of_waiting(self, chance: Chance) -> None:
        in_use, events = SlotInUse("pid 42 holds it"), Events()
        first, second = FakeFeed(), FakeFeed()
        source = FakeSource(in_use, in_use, in_use, first, in_use, in_use, second)

        async with running(orchestrator(source, done, observers=[events])) as run:
            await first.reading.wait()
            assert [event.holder for event in events.of(StandingBy)] == ["pid 42 holds it"]
            assert events.of(Disconnected) == []

            first.fail(Fenced("epoch 7 is over"))
            await second.reading.wait()
            assert len(events.of(StandingBy)) == 2
            run.stop.ask()
            await run.end()

        assert chance.ranges.count((0.3, 0.7)) == 5, "the one that stands by does not back off"


class TestGivingUp:
    """What does not pass by itself ends the run, as it is and not in a group."""

    errors = pytest.mark.parametrize(
        "error",
        [
            SchemaBehind("run migrate"),
            PermissionMissing("grant it"),
            StreamCorrupt("what is this"),
            RuntimeError("a mistake of ours"),
        ],
        ids=lambda error: type(error).__name__,
    )

    @errors
    async def test_when_opening(self, error: Exception) -> None:
        source = FakeSource(error)

        assert await raised(orchestrator(source, done)) is error
        assert source.opened == 1

    @errors
    async def test_when_reading(self, error: Exception) -> None:
        feed = FakeFeed(jobs(1))
        feed.fail(error)
        source = FakeSource(feed)

        assert await raised(orchestrator(source, done)) is error
        assert source.released == 1
        assert feed.finished == 0

    @errors
    async def test_when_recording(self, error: Exception) -> None:
        feed, ledger = FakeFeed(jobs(1)), FakeLedger(error)

        async def handle(jobs: Sequence[Job]) -> list[int]:
            return [1]

        assert await raised(orchestrator(FakeSource(feed), handle, ledger=ledger)) is error
        assert feed.settled == []

    async def test_when_doing_a_chore(self) -> None:
        error = RuntimeError("a mistake of ours")
        chore = FakeChore(error)

        assert await raised(orchestrator(FakeSource(FakeFeed()), done, chores=[chore])) is error

    async def test_the_first_error_is_the_one_that_is_raised(self) -> None:
        """The others are only what follows from it."""
        first, events = StreamCorrupt("what is this"), Events()
        feed, gate = FakeFeed(jobs(1)), Gate()
        ledger = FakeLedger(Fenced("epoch 7 is over"))

        async def handle(jobs: Sequence[Job]) -> list[int]:
            feed.fail(first)
            await until(lambda: feed.intake.closed)
            return [1]

        error = await raised(
            orchestrator(FakeSource(feed), handle, ledger=ledger, observers=[events])
        )

        assert error is first
        assert len(events.of(BatchStarted)) == 1
        assert gate.started == []


async def raised(which: Any) -> BaseException:
    with anyio.fail_after(PATIENCE):
        try:
            await which.run(Stop())
        except BaseException as error:
            return error

    raise AssertionError("it ended without an error")


class TestHandingOver:
    async def test_another_feed_goes_on_at_once_when_one_has_done_its_part(self) -> None:
        first, second, seen = FakeFeed(jobs(2)), FakeFeed(jobs(1)), Events()
        async with running(orchestrator(FakeSource(first, second), done, observers=[seen])) as run:
            await until(lambda: len(first.settled) == 2)
            first.part_done.set()
            await until(lambda: second.settled)
            run.stop.ask()
            await run.ended.wait()

        assert first.finished == second.finished == 1
        assert not seen.of(Disconnected)
        assert len(seen.of(Stopped)) == 1

    async def test_a_stop_between_two_feeds_is_told_like_any_other(self) -> None:
        first, seen = FakeFeed(jobs(2)), Events()
        first.flushed = LSN(7)
        source = FakeSource(first, anyio.Event())
        async with running(orchestrator(source, done, observers=[seen])) as run:
            await until(lambda: len(first.settled) == 2)
            first.part_done.set()
            await source.waiting.wait()
            run.stop.ask()
            await run.ended.wait()

        assert [told.flushed for told in seen.of(Stopped)] == [7]

    async def test_what_runs_is_waited_for_before(self) -> None:
        first, second, gate = FakeFeed(jobs(1)), FakeFeed(), Gate()
        source = FakeSource(first, second)
        async with running(orchestrator(source, gate)):
            await until(lambda: gate.running)
            first.part_done.set()
            await until(lambda: first.intake is not None and first.intake.closed)
            assert source.opened == 1
            gate.open.set()
            await until(lambda: source.opened == 2)

        assert first.settled


class TestFenced:
    async def test_running_calls_are_cancelled_when_another_instance_took_over(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(hold, "_EPOCH_SECONDS", 0.01)
        feed, gate, ledger = FakeFeed(jobs(1)), Gate(), FakeLedger()
        source = FakeSource(feed, FakeFeed())
        async with running(orchestrator(source, gate, ledger=ledger)):
            await until(lambda: gate.running)
            ledger.over = Fenced("the epoch is over")
            # Although it had a minute to end, were it ours.
            await until(lambda: not gate.running)
            ledger.over = None

        assert not gate.ended
        assert not feed.settled
        assert not feed.finished
