"""Careful holds: who is noted, who is judged, and when it ends."""

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from pgcdc_outbox.core.crash import Started
from pgcdc_outbox.core.progress import Ticket
from pgcdc_outbox.errors import Fenced, LedgerUnavailable
from pgcdc_outbox.events import CarefulBegan, CarefulEnded, ChoreFailed, JobCrashed
from pgcdc_outbox.job import Failing, History, Job
from pgcdc_outbox.outcome import Dead, Retry
from tests.unit.consumer.fakes import (
    Diary,
    Events,
    FakeFeed,
    FakeLedger,
    FakeRegister,
    FakeSource,
    job,
    jobs,
    orchestrator,
    running,
    until,
)

pytestmark = pytest.mark.usefixtures("chance")

SUSPECT = job(
    1,
    attempt=2,
    history=History(
        created_us=1, errors=(Failing(attempt=1, at="", error="Crashed", text="it died"),)
    ),
)


def gone(id_: int, attempt: int = 1) -> Started:
    return Started(id=id_, attempt=attempt, ours=False)


def noting(diary: Diary) -> Any:
    async def handle(batch: Sequence[Job]) -> None:
        diary.append(f"handle {[each.id for each in batch]}")
        await anyio.lowlevel.checkpoint()

    return handle


async def test_without_a_crash_nothing_is_noted() -> None:
    diary = Diary()
    feed, register = FakeFeed(jobs(4), crashes=0), FakeRegister(diary=diary)

    async with running(
        orchestrator(FakeSource(feed), noting(diary), register=register, batch_size=2)
    ):
        await until(lambda: len(feed.settled) == 4)

    assert diary == ["handle [1, 2]", "handle [3, 4]"]


@pytest.mark.parametrize(("crashes", "careful"), [(1, False), (2, False), (3, True), (9, True)])
async def test_the_third_crash_in_a_row_makes_it_careful(crashes: int, careful: bool) -> None:
    events, diary = Events(), Diary()
    feed = FakeFeed(jobs(2), crashes=crashes)

    async with running(
        orchestrator(FakeSource(feed), noting(diary), batch_size=2, observers=[events])
    ):
        await until(lambda: len(feed.settled) == 2)

    assert [event.crashes for event in events.of(CarefulBegan)] == [crashes] * careful
    assert diary == (["handle [1]", "handle [2]"] if careful else ["handle [1, 2]"])


async def test_each_job_is_noted_before_it_runs_and_forgotten_with_the_next_note() -> None:
    diary = Diary()
    feed = FakeFeed(jobs(2), crashes=3, diary=diary)
    register = FakeRegister(diary=diary)

    async with running(orchestrator(FakeSource(feed), noting(diary), register=register)):
        await until(lambda: register.calmed)

    assert diary[:8] == [
        "start 1/1, ended []",
        "handle [1]",
        "settle [1]",
        "start 2/1, ended [1]",
        "handle [2]",
        "settle [2]",
        "forget [2]",
        "calm",
    ]
    assert not register.noted


async def test_it_ends_when_everything_from_before_is_settled() -> None:
    events, diary = Events(), Diary()
    feed = FakeFeed(jobs(3), crashes=3)

    async with running(
        orchestrator(FakeSource(feed), noting(diary), batch_size=5, observers=[events])
    ):
        await until(lambda: events.of(CarefulEnded))
        assert feed.intake is not None
        for each in jobs(6)[3:]:
            feed.intake.put(each, Ticket(), 0.0)

        feed.intake.release(idle=True)
        await until(lambda: len(feed.settled) == 6)

    assert diary == ["handle [1]", "handle [2]", "handle [3]", "handle [4, 5, 6]"]


async def test_it_ends_after_as_many_jobs_as_may_have_been_in_memory() -> None:
    events = Events()
    feed = FakeFeed(jobs(8), crashes=4)
    register = FakeRegister(diary=Diary())

    async with running(
        orchestrator(
            FakeSource(feed), noting(Diary()), register=register, prefetch=3, observers=[events]
        )
    ):
        await until(lambda: len(feed.settled) == 8)

    # Twice the three, because it is the fourth crash.
    assert sum(line.startswith("start") for line in register.diary) == 6
    assert not register.noted
    (ended,) = events.of(CarefulEnded)
    assert "many jobs" in ended.because


async def test_careful_calls_never_overlap() -> None:
    running_now, most = 0, 0

    async def handle(batch: Sequence[Job]) -> None:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        for _ in range(20):
            await anyio.lowlevel.checkpoint()

        running_now -= 1

    feed = FakeFeed(jobs(6), crashes=3)
    async with running(orchestrator(FakeSource(feed), handle, concurrency=4, batch_size=2)):
        await until(lambda: len(feed.settled) == 6)

    assert most == 1
    assert feed.settled == [1, 2, 3, 4, 5, 6]


async def test_who_ran_when_the_process_died_is_judged_and_its_neighbours_run() -> None:
    diary, events, ledger = Diary(), Events(), FakeLedger()
    feed = FakeFeed(jobs(3), crashes=1)
    register = FakeRegister(gone(2), diary=diary)

    async with running(
        orchestrator(
            FakeSource(feed),
            noting(diary),
            ledger=ledger,
            register=register,
            batch_size=3,
            observers=[events],
        )
    ):
        await until(lambda: len(feed.settled) == 3)

    assert diary[:2] == ["calm", "handle [1, 3]"]
    (failure,) = ledger.failures
    assert (failure.job.id, failure.error, failure.jobs) == (2, "Crashed", 1)
    assert isinstance(failure.fate, Retry)
    (crashed,) = events.of(JobCrashed)
    assert (crashed.id, crashed.attempt, crashed.topic) == (2, 1, "orders")


async def test_a_killer_that_is_found_ends_it() -> None:
    diary, events = Diary(), Events()
    feed = FakeFeed(jobs(4), crashes=4)
    register = FakeRegister(gone(2), diary=diary)

    async with running(
        orchestrator(FakeSource(feed), noting(diary), register=register, observers=[events])
    ):
        await until(lambda: len(feed.settled) == 4)

    # What is noted of those before it is gone when the first job runs unnoted.
    assert diary[:6] == [
        "start 1/1, ended []",
        "handle [1]",
        "forget [1]",
        "calm",
        "handle [3]",
        "handle [4]",
    ]
    assert len(events.of(CarefulEnded)) == 1


@pytest.mark.parametrize("attempt", [2, 3])
async def test_another_attempt_than_the_noted_one_runs(attempt: int) -> None:
    ledger, diary = FakeLedger(), Diary()
    feed = FakeFeed([job(1, attempt=attempt)], crashes=1)

    async with running(
        orchestrator(FakeSource(feed), noting(diary), ledger=ledger, register=FakeRegister(gone(1)))
    ):
        await until(lambda: feed.settled)

    assert ledger.failures == []
    assert diary == ["handle [1]"]


async def test_what_comes_no_more_had_ended_and_is_forgotten() -> None:
    feed, ledger = FakeFeed(jobs(1)), FakeLedger()
    register = FakeRegister(gone(77))

    async with running(
        orchestrator(FakeSource(feed), noting(Diary()), ledger=ledger, register=register)
    ):
        await until(lambda: not register.noted)

    assert ledger.failures == []


async def test_what_this_process_noted_in_an_earlier_hold_killed_nobody() -> None:
    feed, ledger, diary = FakeFeed(jobs(1)), FakeLedger(), Diary()
    register = FakeRegister(Started(id=1, attempt=1, ours=True), diary=diary)

    async with running(
        orchestrator(FakeSource(feed), noting(diary), ledger=ledger, register=register)
    ):
        await until(lambda: feed.settled)

    assert diary == ["forget [1]", "handle [1]"]
    assert ledger.failures == []


async def test_what_was_to_run_once_is_put_aside_whoever_noted_it() -> None:
    """Also this process itself; and the note stays until that is recorded."""
    diary = Diary()
    feed, ledger = FakeFeed(jobs(3)), FakeLedger(diary=diary)
    notes = [Started(id=i, attempt=1, ours=i == 1, once=True) for i in (1, 2)]
    register = FakeRegister(*notes, diary=diary)

    async with running(
        orchestrator(
            FakeSource(feed), noting(diary), ledger=ledger, register=register, batch_size=5
        )
    ):
        await until(lambda: len(feed.settled) == 3)

    assert diary[:2] == ["record [1, 2]", "handle [3]"]
    assert [failure.fate.reason for failure in ledger.failures] == ["in_doubt"] * 2


async def test_a_suspect_is_noted_alone_and_forgotten_at_once() -> None:
    diary = Diary()
    feed, register = FakeFeed([SUSPECT, job(2), job(3)]), FakeRegister(diary=diary)

    async with running(
        orchestrator(FakeSource(feed), noting(diary), register=register, batch_size=5)
    ):
        await until(lambda: len(feed.settled) == 3)

    assert diary == ["start 1/2, ended []", "handle [1]", "forget [1]", "handle [2, 3]"]


async def test_nothing_runs_beside_a_suspect() -> None:
    together: list[set[int]] = []
    now: set[int] = set()

    async def handle(batch: Sequence[Job]) -> None:
        now.add(batch[0].id)
        together.append(set(now))
        for _ in range(20):
            await anyio.lowlevel.checkpoint()

        now.remove(batch[0].id)

    feed = FakeFeed([job(2), job(3), SUSPECT, *jobs(9)[3:]])
    async with running(orchestrator(FakeSource(feed), handle, concurrency=3)):
        await until(lambda: len(feed.settled) == 9)

    assert max(map(len, together)) > 1
    assert {1} in together
    assert all(calls == {1} for calls in together if 1 in calls)


async def test_a_job_is_not_executed_until_it_is_noted() -> None:
    diary, events = Diary(), Events()
    feed = FakeFeed([SUSPECT])
    register = FakeRegister(errors=[LedgerUnavailable("down")] * 2, diary=diary)

    async with running(
        orchestrator(FakeSource(feed), noting(diary), register=register, observers=[events])
    ):
        await until(lambda: feed.settled)

    assert diary[:2] == ["start 1/2, ended []", "handle [1]"]
    assert [event.chore for event in events.of(ChoreFailed)] == ["note what is about to run"] * 2


async def test_under_an_old_epoch_it_is_not_executed() -> None:
    diary = Diary()
    feed = FakeFeed([SUSPECT])
    register = FakeRegister(errors=[Fenced("over")], diary=diary)

    source = FakeSource(feed, anyio.Event())
    async with running(orchestrator(source, noting(diary), register=register)):
        await source.waiting.wait()

    assert diary == []
    assert feed.settled == []


async def test_a_job_that_waits_for_its_turn_when_a_stop_is_asked_for_does_not_run() -> None:
    diary, release = Diary(), anyio.Event()

    async def handle(batch: Sequence[Job]) -> None:
        diary.append(f"begin {batch[0].id}")
        await release.wait()

    feed = FakeFeed(jobs(3), crashes=3)
    async with running(orchestrator(FakeSource(feed), handle, concurrency=2)) as run:
        await until(lambda: diary)
        await anyio.wait_all_tasks_blocked()
        run.stop.ask()
        await anyio.wait_all_tasks_blocked()
        release.set()
        assert await run.end() == 0

    assert diary == ["begin 1"]
    assert feed.settled == [1]


async def test_progress_ends_the_count_of_crashes() -> None:
    feed, register = FakeFeed(jobs(2), crashes=2), FakeRegister()

    async def block(batch: Sequence[Job]) -> None:
        await anyio.sleep_forever()

    async with running(orchestrator(FakeSource(feed), block, register=register)):
        await until(lambda: feed.reading.is_set())
        await anyio.wait_all_tasks_blocked()
        assert not register.calmed
        feed.passed.set()
        await until(lambda: register.calmed == 1)


async def test_once_ends_in_careful_times_too() -> None:
    feed, register = FakeFeed(jobs(3), crashes=5), FakeRegister(gone(2))

    async with running(
        orchestrator(FakeSource(feed), noting(Diary()), register=register), once=True
    ) as run:
        assert await run.end() == 0

    assert sorted(feed.settled) == [1, 2, 3]
    assert register.noted.keys() <= {2}  # the ledger, which is another one here, forgets it


async def test_a_third_crash_is_the_end_of_a_job() -> None:
    errors = tuple(Failing(attempt=n, at="", error="Crashed", text="") for n in (1, 2))
    killer = job(1, attempt=3, history=History(created_us=1, errors=errors))
    ledger = FakeLedger()
    feed = FakeFeed([killer], crashes=1)

    async with running(
        orchestrator(
            FakeSource(feed),
            noting(Diary()),
            ledger=ledger,
            register=FakeRegister(gone(1, attempt=3)),
        )
    ):
        await until(lambda: feed.settled)

    (failure,) = ledger.failures
    assert isinstance(failure.fate, Dead)
    assert failure.fate.reason == "crashed"
