"""Jobs that kill the process: found, given up, and nobody else is blamed.

Consumers run as processes of their own (`tests.crashing`), under a supervisor that starts them
again as systemd does.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec
import psycopg
import pytest
from anyio import to_thread

from pgcdc_outbox.errors import Fenced
from pgcdc_outbox.events import CarefulBegan, JobCrashed, Streaming
from pgcdc_outbox.job import Job, NewJob
from pgcdc_outbox.postgres.ledger.register import PostgresRegister
from pgcdc_outbox.postgres.session import Session
from tests.harness import Outbox, Recorder, Watcher, consumer, running, streaming
from tests.wait import Patience, eventually_async

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version

ROOT = Path(__file__).parents[2]

# Three deaths until the consumer is careful, and three of the job's attempts; the first of
# these is the one in which it was found.
DEATHS = 6


class Supervisor:
    """Keeps one consumer running, whatever becomes of its process."""

    def __init__(self, folder: Path, dsn: str) -> None:
        self._folder = folder
        self._dsn = dsn
        self._process: subprocess.Popen[bytes] | None = None
        self._options = b"{}"
        self.deaths: list[int] = []

    def start(self, **options: Any) -> None:
        self._options = msgspec.json.encode(options)
        self._spawn()

    def until(self, condition: Callable[[], object], timeout: float = 600.0) -> None:
        """Wait for a condition, and start the consumer again whenever it dies."""
        patience = Patience(timeout)
        while not condition():
            patience.spend(self._look())
            time.sleep(patience.pause())

    def kill(self) -> None:
        """Do as an operator without patience would, and start it again."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._spawn()

    def stop(self) -> None:
        """Ask it to end, as a deployment does."""
        assert self._process is not None
        self._process.terminate()
        assert self._process.wait(120) == 0
        self._process = None

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def calls(self, word: str) -> list[list[str]]:
        """What the handler noted: id/attempt of each job of each call."""
        return [words for each, *words in map(str.split, self._lines("calls")) if each == word]

    def begun(self, id_: int) -> list[int]:
        """The attempts of one job, as its handler saw them."""
        jobs = [job.split("/") for call in self.calls("begun") for job in call]
        return [int(attempt) for id_text, attempt in jobs if int(id_text) == id_]

    def done(self) -> list[str]:
        """Each job that ended well, once, in the order in which they first did."""
        return list(dict.fromkeys(job for call in self.calls("done") for job in call))

    def told(self, event: str) -> list[str]:
        return [line for line in self._lines("events") if line.startswith(f"{event}(")]

    def _lines(self, name: str) -> list[str]:
        with suppress(FileNotFoundError):
            return (self._folder / name).read_text().splitlines()

        return []

    def _look(self) -> str:
        assert self._process is not None
        code = self._process.poll()
        if code is not None:
            self.deaths.append(code)
            self._spawn()

        log = (self._folder / "log").read_text()[-1000:]
        return f"deaths {self.deaths}, done {len(self.done())}, log {log}"

    def _spawn(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.crashing", self._dsn, self._options.decode()],
                cwd=self._folder,
                env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )


@pytest.fixture
def supervisor(tmp_path: Path, outbox: Outbox) -> Iterator[Supervisor]:
    supervisor = Supervisor(tmp_path, outbox.dsn)
    yield supervisor
    supervisor.end()


def enqueue(outbox: Outbox, *topics: str) -> list[int]:
    """Commit jobs in one transaction, in this order."""
    with psycopg.connect(outbox.dsn) as connection:
        jobs = [NewJob(payload=0, topic=topic) for topic in topics]
        return list(outbox.client.enqueue_many(jobs, tx=connection))


def crashes(outbox: Outbox) -> int:
    return int(outbox.value("select crashes from consumer"))


def dead(outbox: Outbox) -> dict[int, tuple[str, list[tuple[int, str]]]]:
    """Reason, and attempts with the class of their error, of each dead letter."""
    return {
        id_: (reason, [(each["attempt"], each["error"]) for each in errors])
        for id_, reason, errors in outbox.rows("select id, reason, errors from dead_letter")
    }


CRASHED_THRICE = ("crashed", [(1, "Crashed"), (2, "Crashed"), (3, "Crashed")])

# In the life of a slot the first jobs come from the table, all later ones from the log.
from_table_and_log = pytest.mark.parametrize("log", [False, True], ids=["table", "log"])


@from_table_and_log
@pytest.mark.parametrize(
    ("deed", "code"), [("kill", -signal.SIGKILL), ("leave", 3), ("fall", -signal.SIGSEGV)]
)
def test_a_job_that_kills_the_process_ends_among_the_dead_letters(
    supervisor: Supervisor, outbox: Outbox, deed: str, code: int, log: bool
) -> None:
    """In the middle of a full batch, all of one transaction."""
    if log:
        supervisor.start()
        supervisor.until(lambda: supervisor.told("Streaming"))

    ids = enqueue(outbox, *["good"] * 50, deed, *["good"] * 49)
    if not log:
        supervisor.start()

    killer = ids.pop(50)
    supervisor.until(lambda: dead(outbox) and len(supervisor.done()) == 99)
    late = enqueue(outbox, "good")
    supervisor.until(lambda: len(supervisor.done()) == 100)
    supervisor.stop()

    assert supervisor.deaths == [code] * DEATHS
    assert dead(outbox) == {killer: CRASHED_THRICE}
    assert supervisor.begun(killer) == [1, 1, 1, 1, 2, 3]
    # Nobody was blamed, nobody overtook.
    assert supervisor.done() == [f"{id_}/1" for id_ in ids + late]
    assert {len(call) for call in supervisor.calls("begun") if f"{killer}/2" in call} == {1}
    # What is read from the table is saved on the way, and that is progress.
    assert len(supervisor.told("CarefulBegan")) in ([2] if log else [1, 2])
    assert len(supervisor.told("JobCrashed")) == 3
    assert outbox.rows("select id, attempt from started union all select id, 0 from failed") == []
    assert crashes(outbox) == 0


def test_with_several_calls_at_a_time_no_neighbour_is_blamed(
    supervisor: Supervisor, outbox: Outbox
) -> None:
    ids = [id_ for _ in range(10) for id_ in enqueue(outbox, *["good"] * 9)]
    (killer,) = enqueue(outbox, "kill")
    ids += [id_ for _ in range(10) for id_ in enqueue(outbox, *["good"] * 9)]
    supervisor.start(concurrency=4, batch_size=10)
    supervisor.until(lambda: dead(outbox) and len(supervisor.done()) == len(ids))
    supervisor.stop()

    assert dead(outbox) == {killer: CRASHED_THRICE}
    assert sorted(supervisor.done()) == sorted(f"{id_}/1" for id_ in ids)
    assert supervisor.begun(killer)[-3:] == [1, 2, 3]
    assert set(supervisor.begun(killer)) == {1, 2, 3}


def test_a_killer_that_was_scheduled(supervisor: Supervisor, outbox: Outbox) -> None:
    (killer,) = outbox.put([0], topic="kill", delay=0.5)
    good = enqueue(outbox, "good", "good")
    supervisor.start()
    supervisor.until(lambda: dead(outbox))
    supervisor.stop()

    assert len(supervisor.deaths) == DEATHS
    assert dead(outbox) == {killer: CRASHED_THRICE}
    assert supervisor.begun(killer) == [1, 1, 1, 1, 2, 3]
    assert supervisor.done() == [f"{id_}/1" for id_ in good]


@pytest.mark.parametrize(
    ("max_attempts", "fates"),
    [
        (10, [(1, "ValueError"), (2, "Crashed"), (3, "Crashed"), (4, "Crashed")]),
        (3, [(1, "ValueError"), (2, "Crashed"), (3, "Crashed")]),
    ],
)
def test_a_killer_that_failed_before(
    supervisor: Supervisor, outbox: Outbox, max_attempts: int, fates: list[tuple[int, str]]
) -> None:
    (killer,) = enqueue(outbox, "fail_then_kill")
    supervisor.start(max_attempts=max_attempts)
    supervisor.until(lambda: dead(outbox))
    supervisor.stop()

    assert dead(outbox) == {killer: ("crashed", fates)}
    assert supervisor.begun(killer) == [1, 2, 2, 2, *(attempt for attempt, _ in fates[1:])]


@pytest.mark.parametrize("options", [{}, {"concurrency": 3, "batch_size": 2}])
def test_several_killers_are_found_one_after_the_other(
    supervisor: Supervisor, outbox: Outbox, options: dict[str, int]
) -> None:
    ids = enqueue(outbox, "good", "kill", "good", "leave", "good", "kill", "good")
    supervisor.start(**options)
    supervisor.until(lambda: len(dead(outbox)) == 3 and len(supervisor.done()) == 4)
    supervisor.stop()

    assert dead(outbox) == dict.fromkeys(ids[1::2], CRASHED_THRICE)
    assert sorted(supervisor.done()) == sorted(f"{id_}/1" for id_ in ids[::2])


def test_a_job_that_kills_once_is_handled_at_last(supervisor: Supervisor, outbox: Outbox) -> None:
    (killer,) = enqueue(outbox, "kill_once")
    supervisor.start()
    supervisor.until(lambda: supervisor.done() == [f"{killer}/2"])
    supervisor.stop()

    assert supervisor.begun(killer) == [1, 1, 1, 1, 2]
    assert dead(outbox) == {}
    assert outbox.rows("select * from started") == []


def test_memory_that_runs_out_in_the_handler_is_a_failure_like_any_other(
    supervisor: Supervisor, outbox: Outbox
) -> None:
    ids = enqueue(outbox, "hog", "good")
    supervisor.start(max_attempts=2, batch_size=1)
    supervisor.until(lambda: dead(outbox) and len(supervisor.done()) == 1)
    supervisor.stop()

    assert dead(outbox) == {ids[0]: ("exhausted", [(1, "MemoryError"), (2, "MemoryError")])}
    assert supervisor.deaths == []


def test_three_kills_by_an_operator_cost_no_job_and_no_attempt(
    supervisor: Supervisor, outbox: Outbox, tmp_path: Path
) -> None:
    ids = enqueue(outbox, "wait_for_go", *["good"] * 9)
    supervisor.start(batch_size=5)
    for kills in range(1, 4):
        supervisor.until(lambda count=kills: len(supervisor.calls("begun")) == count)
        supervisor.kill()

    supervisor.until(lambda: len(supervisor.calls("begun")) == 4)
    assert crashes(outbox) == 3
    (tmp_path / "go").touch()
    supervisor.until(lambda: len(supervisor.done()) == 10 and crashes(outbox) == 0)
    late = enqueue(outbox, *["good"] * 20)
    supervisor.until(lambda: len(supervisor.done()) == 30)

    assert supervisor.done() == [f"{id_}/1" for id_ in ids + late]
    assert len(supervisor.told("CarefulBegan")) == len(supervisor.told("CarefulEnded")) == 1
    # One by one while it was careful, and then as before: as many as had come from the log.
    sizes = [len(call) for call in supervisor.calls("done")]
    assert sizes[:10] == [1] * 10
    assert 1 < max(sizes[10:]) <= 5
    assert outbox.rows("select id from failed union all select id from dead_letter") == []
    supervisor.until(lambda: outbox.rows("select * from started") == [])


def test_a_kill_with_progress_is_no_reason_to_be_careful(
    supervisor: Supervisor, outbox: Outbox
) -> None:
    supervisor.start()
    supervisor.until(lambda: supervisor.told("Streaming"))
    for count in range(1, 6):
        enqueue(outbox, "good")
        supervisor.until(lambda done=count: len(supervisor.done()) == done)
        supervisor.until(lambda: crashes(outbox) == 0)
        supervisor.kill()

    supervisor.until(lambda: len(supervisor.told("Streaming")) >= 6)
    assert supervisor.told("CarefulBegan") == []


def test_a_kill_in_careful_times_costs_who_was_running_one_attempt(
    supervisor: Supervisor, outbox: Outbox, tmp_path: Path
) -> None:
    """Nobody can tell an operator from a job; but one death is forgiven, and nothing is lost."""
    ids = enqueue(outbox, "wait_for_go", "good")
    supervisor.start()
    for kills in range(1, 5):
        supervisor.until(lambda count=kills: len(supervisor.calls("begun")) == count)
        supervisor.kill()

    (tmp_path / "go").touch()
    supervisor.until(lambda: len(supervisor.done()) == 2)
    supervisor.stop()

    assert supervisor.begun(ids[0]) == [1, 1, 1, 1, 2]
    assert supervisor.begun(ids[1])[-1] == 1
    assert dead(outbox) == {}


def pretend(outbox: Outbox, *, crashes: int, running: Sequence[int] = ()) -> None:
    """Make it look as if processes died, the last of them while it ran these jobs."""
    outbox.rows(
        "update consumer set crashes = %s, released_at = null, instance = 'gone'", [crashes - 1]
    )
    for id_ in running:
        outbox.rows("insert into started values ('default', %s, 1, 'gone')", [id_])


async def test_once_ends_in_careful_times_too_and_leaves_nothing_behind(outbox: Outbox) -> None:
    watcher, noted = Watcher(), []

    def then(jobs: Sequence[Job]) -> None:
        noted.append((jobs[0].id, outbox.rows("select id, attempt from started")))

    await consumer(outbox, Recorder()).run(once=True)
    pretend(outbox, crashes=5)
    ids = outbox.put(range(5))
    recorder = Recorder(then)
    await consumer(outbox, recorder, observers=[watcher]).run(once=True)

    assert [event.crashes for event in watcher.of(CarefulBegan)] == [5]
    assert noted == [(id_, [(id_, 1)]) for id_ in ids]
    assert outbox.rows("select * from started") == []
    assert crashes(outbox) == 0


async def test_a_restart_in_good_order_is_no_crash(outbox: Outbox) -> None:
    watcher = Watcher()
    for number in range(5):
        outbox.put([number])
        await consumer(outbox, Recorder(), observers=[watcher]).run(once=True)
        assert crashes(outbox) == 0

    assert watcher.of(CarefulBegan) == watcher.of(JobCrashed) == []


async def test_a_lost_connection_is_no_crash(outbox: Outbox) -> None:
    watcher, recorder = Watcher(), Recorder()
    async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
        for lost in range(1, 5):
            outbox.end_slot_reader()
            await watcher.saw(Streaming, lost + 1)

        assert crashes(outbox) == 0
        outbox.put(["x"])
        await recorder.got(1)

    assert watcher.of(CarefulBegan) == []


async def test_who_was_running_is_judged_and_its_neighbours_are_not(outbox: Outbox) -> None:
    await consumer(outbox, Recorder()).run(once=True)
    ids = outbox.put(range(5))
    pretend(outbox, crashes=1, running=ids[2:3])
    noted = []
    watcher = Watcher()
    recorder = Recorder(lambda jobs: noted.append(outbox.rows("select id from started")))
    async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
        await recorder.got(5)

    # The note goes with the failure; the retry is noted again, for a suspect. What is not
    # judged may have come from the log in several batches; the note is there until its turn.
    assert noted[-1] == [(ids[2],)]
    assert noted[-2] == []
    assert recorder.ids == [ids[0], ids[1], ids[3], ids[4], ids[2]]
    (again,) = recorder.batches[-1]
    assert (again.attempt, [error.error for error in again.errors]) == (2, ["Crashed"])
    assert [event.id for event in watcher.of(JobCrashed)] == ids[2:3]
    assert outbox.rows("select * from started") == []


async def test_crashes_are_forgotten_with_the_first_progress(outbox: Outbox) -> None:
    """Long before everything is settled: here it never is."""
    release = anyio.Event()

    async def handle(jobs: Sequence[Job]) -> None:
        if jobs[0].topic == "slow":
            await release.wait()

    await consumer(outbox, Recorder()).run(once=True)
    pretend(outbox, crashes=2)
    outbox.put(["quick"])
    outbox.put(["slow"], topic="slow")
    async with running(consumer(outbox, handle, batch_size=1)):
        await eventually_async(partial(to_thread.run_sync, lambda: crashes(outbox) == 0))
        release.set()


async def test_a_job_that_ended_is_not_judged_for_a_note_that_stayed(outbox: Outbox) -> None:
    """The process died between the end of the job and the end of the note."""
    recorder = Recorder()
    ids = outbox.put([1])
    await consumer(outbox, recorder).run(once=True)
    pretend(outbox, crashes=1, running=ids)
    await consumer(outbox, recorder).run(once=True)

    assert recorder.ids == ids
    assert outbox.rows("select id, attempt from started union all select id, 0 from failed") == []


async def test_a_call_that_is_abandoned_at_a_stop_killed_nobody(outbox: Outbox) -> None:
    begun, wedge = threading.Event(), threading.Event()

    def handle(jobs: Sequence[Job]) -> None:
        begun.set()
        wedge.wait()

    await consumer(outbox, Recorder()).run(once=True)
    pretend(outbox, crashes=3)
    ids = outbox.put([1])
    subject = consumer(outbox, handle, drain_timeout=0.1)
    async with running(subject):
        await to_thread.run_sync(begun.wait)
        assert outbox.rows("select id from started") == [(ids[0],)]

    wedge.set()
    assert outbox.rows("select id from started") == []
    recorder = Recorder()
    await consumer(outbox, recorder).run(once=True)
    assert [(job.id, job.attempt) for job in recorder.jobs] == [(ids[0], 1)]


async def test_a_hold_that_is_over_notes_nothing(outbox: Outbox) -> None:
    await consumer(outbox, Recorder()).run(once=True)
    session = Session(outbox.dsn, name="test")
    register = PostgresRegister(session, consumer="default", schema="outbox", instance="i")
    try:
        for write in (
            register.start(Job(1, "t", b""), ended={}, epoch=0),
            register.forget({1: 1}, epoch=0),
            register.calm(epoch=0),
        ):
            with pytest.raises(Fenced):
                await write
    finally:
        session.close()

    assert outbox.rows("select * from started") == []
