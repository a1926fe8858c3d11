"""Handle, record, then settle: in that order, always."""

import asyncio
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from pgcdc_outbox.core.retry import EXHAUSTED, UNDECODABLE, RetryPolicy
from pgcdc_outbox.core.verdict import TEXT_LIMIT
from pgcdc_outbox.errors import Fenced, LedgerUnavailable, SchemaBehind
from pgcdc_outbox.events import (
    BatchHandled,
    BatchSettled,
    BatchStarted,
    ChoreFailed,
    JobDead,
    OutcomesRecorded,
)
from pgcdc_outbox.job import Job
from pgcdc_outbox.outcome import Dead, Done, Retry, Snooze
from tests.unit.consumer.conftest import Chance
from tests.unit.consumer.fakes import (
    PATIENCE,
    Diary,
    Events,
    FakeClock,
    FakeFeed,
    FakeLedger,
    attempt,
    batch,
    until,
)

pytestmark = pytest.mark.usefixtures("chance")


class Custom(BaseException):
    """What some libraries make of it."""


def returning(result: Any) -> Any:
    async def handle(jobs: Sequence[Job]) -> Any:
        return result

    return handle


def raising(error: BaseException) -> Any:
    async def handle(jobs: Sequence[Job]) -> None:
        await anyio.lowlevel.checkpoint()
        raise error

    return handle


def raising_in_a_thread(error: BaseException) -> Any:
    def handle(jobs: Sequence[Job]) -> None:
        raise error

    return handle


class TestSuccess:
    async def test_a_job_that_is_done_is_settled_and_nothing_is_written(self) -> None:
        feed, ledger, events = FakeFeed(), FakeLedger(), Events()

        await attempt(returning(None), ledger, observers=[events]).run(batch(1, 2), feed)

        assert feed.settled == [1, 2]
        assert ledger.calls == 0
        assert events.names() == ["BatchStarted", "BatchHandled", "BatchSettled"]
        (started,) = events.of(BatchStarted)
        assert (started.consumer, started.jobs, started.first_id) == ("default", 2, 1)
        (handled,) = events.of(BatchHandled)
        assert (handled.jobs, handled.failed) == (2, 0)
        assert handled.seconds >= 0
        assert events.of(BatchSettled)[0].jobs == 2

    async def test_the_handler_gets_the_jobs_in_their_order(self) -> None:
        seen = []

        async def handle(jobs: Sequence[Job]) -> None:
            seen.extend(jobs)

        given = batch(3, 1, 2)
        await attempt(handle).run(given, FakeFeed())

        assert seen == given.jobs

    async def test_that_all_is_done_may_be_said_aloud(self) -> None:
        feed, ledger = FakeFeed(), FakeLedger()

        await attempt(returning({1: Done()}), ledger).run(batch(1, 2), feed)

        assert feed.settled == [1, 2]
        assert ledger.calls == 0


class TestFailure:
    async def test_failures_are_durable_before_anything_is_settled(self) -> None:
        diary = Diary()
        feed, ledger = FakeFeed(diary=diary), FakeLedger(diary=diary)

        async def handle(jobs: Sequence[Job]) -> list[int]:
            diary.append(f"handle {[job.id for job in jobs]}")
            return [2]

        await attempt(handle, ledger, observers=[Notes(diary)]).run(batch(1, 2), feed)

        assert diary == [
            "BatchStarted",
            "handle [1, 2]",
            "BatchHandled",
            "record [2]",
            "OutcomesRecorded",
            "settle [1, 2]",
            "BatchSettled",
        ]

    async def test_they_are_written_under_the_epoch_of_the_hold(self) -> None:
        ledger = FakeLedger()

        await attempt(returning([1]), ledger).run(batch(1), FakeFeed(epoch=42))

        assert [epoch for epoch, _ in ledger.recorded] == [42]

    async def test_each_outcome_is_written_as_it_is(self) -> None:
        ledger, events = FakeLedger(), Events()
        outcomes = {1: Retry(after=5), 2: Dead("no such customer"), 3: Done()}

        await attempt(returning(outcomes), ledger, observers=[events]).run(
            batch(1, 2, 3, 4), FakeFeed()
        )

        first, second = ledger.failures
        assert (first.job.id, first.fate) == (1, outcomes[1])
        assert (second.job.id, second.fate.reason) == (2, "no such customer")
        (recorded,) = events.of(OutcomesRecorded)
        assert (recorded.retried, recorded.dead) == (1, 1)
        (dead,) = events.of(JobDead)
        assert (dead.id, dead.topic, dead.reason) == (2, "orders", "no such customer")
        assert events.of(BatchHandled)[0].failed == 2

    async def test_what_is_raised_fails_the_whole_batch(self) -> None:
        feed, ledger = FakeFeed(), FakeLedger()

        await attempt(raising(ValueError("no")), ledger).run(batch(1, 2), feed)

        assert [failure.job.id for failure in ledger.failures] == [1, 2]
        assert [failure.jobs for failure in ledger.failures] == [2, 2]
        assert [failure.error for failure in ledger.failures] == ["ValueError", "ValueError"]
        assert feed.settled == [1, 2]

    @pytest.mark.parametrize("result", [True, "done", object()])
    async def test_a_result_that_says_nothing_is_a_failure(self, result: Any) -> None:
        ledger = FakeLedger()

        await attempt(returning(result), ledger).run(batch(1, 2), FakeFeed())

        assert [failure.job.id for failure in ledger.failures] == [1, 2]
        assert ledger.failures[0].error == "pgcdc_outbox.errors.ResultInvalid"

    async def test_the_last_failure_is_the_end(self) -> None:
        ledger, events = FakeLedger(), Events()

        await attempt(
            raising(ValueError("no")),
            ledger,
            policy=RetryPolicy(max_attempts=1),
            observers=[events],
        ).run(batch(1), FakeFeed())

        assert ledger.failures[0].fate.reason == EXHAUSTED
        assert events.of(JobDead)[0].reason == EXHAUSTED

    async def test_texts_are_redacted(self) -> None:
        ledger = FakeLedger()

        await attempt(
            raising(ValueError("token 42")), ledger, redact=lambda text: text.replace("42", "***")
        ).run(batch(1), FakeFeed())

        assert ledger.failures[0].text == "token ***"

    async def test_the_policy_asks_for_chance(self, chance: Chance) -> None:
        ledger = FakeLedger()
        chance.answer = lambda low, high: high

        await attempt(returning([1]), ledger, policy=RetryPolicy(first_delay=8, jitter=0.5)).run(
            batch(1), FakeFeed()
        )

        assert chance.ranges == [(4, 8)]
        assert ledger.failures[0].fate.after == 8


class TestBaseExceptions:
    """One bad job must not end the consumer."""

    @pytest.mark.parametrize("made", [raising, raising_in_a_thread])
    @pytest.mark.parametrize(
        "error", [SystemExit(3), KeyboardInterrupt(), Custom("no"), asyncio.CancelledError()]
    )
    async def test_they_are_failures_of_the_job(self, made: Any, error: BaseException) -> None:
        feed, ledger = FakeFeed(), FakeLedger()

        with anyio.CancelScope() as scope:
            await attempt(made(error), ledger).run(batch(1), feed)

        assert not scope.cancelled_caught
        (failure,) = ledger.failures
        assert failure.error.endswith(type(error).__name__)
        assert isinstance(failure.fate, Retry)
        assert feed.settled == [1]

    async def test_our_own_cancellation_leaves_the_batch_to_the_log(self) -> None:
        feed, ledger, events = FakeFeed(), FakeLedger(), Events()
        started = anyio.Event()

        async def handle(jobs: Sequence[Job]) -> None:
            started.set()
            await anyio.sleep_forever()

        async with anyio.create_task_group() as group:
            group.start_soon(attempt(handle, ledger, observers=[events]).run, batch(1), feed)
            await started.wait()
            group.cancel_scope.cancel()

        assert ledger.calls == 0
        assert feed.settled == []
        assert events.of(BatchHandled) == []

    async def test_a_handler_that_answers_cancellation_with_an_error_settles_nothing(self) -> None:
        feed, ledger = FakeFeed(), FakeLedger()
        started = anyio.Event()

        async def handle(jobs: Sequence[Job]) -> None:
            started.set()
            try:
                await anyio.sleep_forever()
            finally:
                raise ValueError("while cleaning up")

        async with anyio.create_task_group() as group:
            group.start_soon(attempt(handle, ledger).run, batch(1), feed)
            await started.wait()
            group.cancel_scope.cancel()

        assert ledger.recorded == []
        assert feed.settled == []


class TestUndecodable:
    async def test_it_is_recorded_and_settled_without_a_call(self) -> None:
        feed, ledger, events = FakeFeed(), FakeLedger(), Events()

        await attempt(raising(AssertionError("called")), ledger, observers=[events]).run(
            batch(1, dead="no payload\0" + "x" * 10_000), feed
        )

        (failure,) = ledger.failures
        assert failure.fate.reason == UNDECODABLE
        assert failure.text.startswith("no payload\N{REPLACEMENT CHARACTER}x")
        assert len(failure.text) < TEXT_LIMIT + 50
        assert feed.settled == [1]
        assert events.names() == ["OutcomesRecorded", "JobDead", "BatchSettled"]


class TestLedger:
    async def test_while_it_is_unavailable_nothing_is_settled(self, chance: Chance) -> None:
        diary, events = Diary(), Events()
        feed = FakeFeed(diary=diary)
        ledger = FakeLedger(*[LedgerUnavailable("disk full")] * 3, diary=diary)

        await attempt(returning([1]), ledger, observers=[events]).run(batch(1, 2), feed)

        assert diary == [*["ledger unavailable"] * 3, "record [1]", "settle [1, 2]"]
        assert len(events.of(ChoreFailed)) == 3
        assert events.of(ChoreFailed)[0].error == "disk full"

    async def test_it_is_asked_again_until_it_answers(
        self, chance: Chance, slept: list[float]
    ) -> None:
        chance.answer = lambda low, high: high
        events = Events()
        ledger = FakeLedger(*[LedgerUnavailable("away")] * 12)

        await attempt(returning({1: Retry(1)}), ledger, observers=[events]).run(
            batch(1), FakeFeed()
        )

        assert slept == [0.1, 0.2, 0.4, 0.8, *[1] * 8]
        assert [event.delay_seconds for event in events.of(ChoreFailed)] == slept

    async def test_the_handler_is_not_called_again_for_it(self) -> None:
        calls = 0

        async def handle(jobs: Sequence[Job]) -> list[int]:
            nonlocal calls
            calls += 1
            return [1]

        await attempt(handle, FakeLedger(LedgerUnavailable("away"))).run(batch(1), FakeFeed())

        assert calls == 1

    @pytest.mark.parametrize("error", [Fenced("epoch 7 is over"), SchemaBehind("no such table")])
    async def test_what_trying_again_does_not_mend_is_raised(self, error: Exception) -> None:
        feed, ledger = FakeFeed(), FakeLedger(error)

        with pytest.raises(type(error)) as caught:
            await attempt(returning([1]), ledger).run(batch(1), feed)

        assert caught.value is error
        assert feed.settled == []
        assert ledger.calls == 1

    async def test_waiting_for_it_can_be_cancelled(self, chance: Chance) -> None:
        chance.answer = lambda low, high: 3600.0
        feed, ledger = FakeFeed(), FakeLedger(LedgerUnavailable("away"))

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(attempt(returning([1]), ledger).run, batch(1), feed)
                await until(lambda: ledger.calls)
                group.cancel_scope.cancel()

        assert feed.settled == []


class TestObservers:
    async def test_their_errors_do_not_matter(self) -> None:
        feed, ledger, events = FakeFeed(), FakeLedger(), Events()

        def broken(event: object) -> None:
            raise RuntimeError("an observer's mistake")

        await attempt(returning([1]), ledger, observers=[broken, events]).run(batch(1, 2), feed)

        assert feed.settled == [1, 2]
        assert len(ledger.failures) == 1
        assert events.names()[-1] == "BatchSettled", "the others are told all the same"

    async def test_their_errors_are_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        def broken(event: object) -> None:
            raise RuntimeError("an observer's mistake")

        await attempt(returning(None), observers=[broken]).run(batch(1), FakeFeed())

        assert "an observer failed on BatchStarted" in caplog.text
        assert "an observer's mistake" in caplog.text


class Notes:
    """An observer that writes into the diary."""

    def __init__(self, diary: Diary) -> None:
        self._diary = diary

    def __call__(self, event: object) -> None:
        self._diary.append(type(event).__name__)


class TestExpiry:
    def expiring(self, *moments: int | None) -> Any:
        whole = batch(*range(1, len(moments) + 1))
        whole.jobs = [
            Job(job.id, job.topic, job.payload, expires_us=moment)
            for job, moment in zip(whole.jobs, moments, strict=True)
        ]
        whole.expires = True
        return whole

    async def test_a_job_whose_time_is_over_is_not_executed(self) -> None:
        seen: list[int] = []

        async def handle(jobs: Sequence[Job]) -> None:
            seen.extend(job.id for job in jobs)

        feed, ledger, events = FakeFeed(), FakeLedger(), Events()
        subject = attempt(handle, ledger, observers=[events], clock=FakeClock(1000))

        await subject.run(self.expiring(None, 999, 1001, 1000), feed)

        assert seen == [1, 3]
        assert [(each.job.id, repr(each.fate)) for each in ledger.failures] == [
            (2, "Dead('expired')"),
            (4, "Dead('expired')"),
        ]
        assert feed.settled == [1, 2, 3, 4]
        assert events.of(BatchStarted)[0].jobs == 2
        assert [event.reason for event in events.of(JobDead)] == ["expired", "expired"]

    async def test_nothing_is_called_for_nobody(self) -> None:
        feed, events = FakeFeed(), Events()
        subject = attempt(returning([1]), observers=[events], clock=FakeClock(1000))

        await subject.run(self.expiring(1, 2), feed)

        assert feed.settled == [1, 2]
        assert events.of(BatchStarted) == []

    async def test_the_clock_is_not_looked_at_for_jobs_that_do_not_expire(self) -> None:
        clock = FakeClock(1000)
        await attempt(returning(None), clock=clock).run(batch(1, 2), FakeFeed())
        assert clock.looks == 0

    async def test_a_clock_that_cannot_be_asked_is_waited_for(self) -> None:
        feed, events = FakeFeed(), Events()
        clock = FakeClock(1000, LedgerUnavailable("cut"))
        subject = attempt(returning(None), observers=[events], clock=clock)

        await subject.run(self.expiring(999), feed)

        assert feed.settled == [1]
        assert [event.chore for event in events.of(ChoreFailed)] == ["ask what time it is"]


class TestSnooze:
    async def test_it_is_told_apart_from_failures(self) -> None:
        feed, ledger, events = FakeFeed(), FakeLedger(), Events()
        outcomes = {1: Snooze(after=5), 2: Retry(5), 3: Dead()}

        await attempt(returning(outcomes), ledger, observers=[events]).run(batch(1, 2, 3), feed)

        (recorded,) = events.of(OutcomesRecorded)
        assert (recorded.retried, recorded.dead, recorded.snoozed) == (1, 1, 1)
        assert events.of(BatchHandled)[0].failed == 2
        assert [type(each.fate) for each in ledger.failures] == [Snooze, Retry, Dead]
