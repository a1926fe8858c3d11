"""`pgcdc-outbox consume`: processes that are stopped, killed and wedged lose nothing.

Handlers run in the consumer's process and tell what they do in the file ``outcome``.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from pgcdc_outbox.job import NewJob
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.postgres.migrate import migrate
from pgcdc_outbox.postgres.producer.client import Client
from tests.wait import eventually

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version

SOURCE = Path(__file__).parents[2] / "src"

# Seconds for a process to start, or to end, on a busy machine.
PATIENT = 120

HANDLERS = """
import asyncio
import os
import signal
import threading
import time


def note(word, jobs):
    with open("outcome", "a") as file:
        file.write(" ".join([word, *(f"{job.id}/{job.attempt}" for job in jobs)]) + "\\n")


def handle(jobs):
    note("begun", jobs)
    note("done", jobs)


def wait_for_go(jobs):
    note("begun", jobs)
    while not os.path.exists("go"):
        time.sleep(0.01)
    note("done", jobs)


def die_in_second_call(jobs):
    note("begun", jobs)
    if os.path.exists("second"):
        os.kill(os.getpid(), signal.SIGKILL)
    open("second", "w").close()
    note("done", jobs)


def fail(jobs):
    note("begun", jobs)
    raise ValueError("no luck")


async def sleep_for_ever(jobs):
    note("begun", jobs)
    await asyncio.sleep(1e9)


def block_for_ever(jobs):
    note("begun", jobs)
    threading.Event().wait()


def two(jobs, extra):
    pass


class Orders:
    def handle(self, jobs):
        pass


class Service:
    handle = staticmethod(handle)


service = Service()
number = 3
"""


class Place:
    """A folder with handlers, where consumers run and leave word."""

    def __init__(self, folder: Path, dsn: str) -> None:
        self.folder = folder
        self.dsn = dsn
        self.log = folder / "log"
        self._processes: list[subprocess.Popen[bytes]] = []
        (folder / "handlers.py").write_text(HANDLERS)

    def start(self, handler: str | None, *arguments: str, config: str = "") -> subprocess.Popen:
        command = [sys.executable, "-m", "pgcdc_outbox", "--dsn", self.dsn]
        if config:
            (self.folder / "config.toml").write_text(config)
            command += ["--config", "config.toml"]

        command += ["consume", *arguments]
        if handler is not None:
            command += ["--handler", f"handlers:{handler}"]

        with self.log.open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=os.environ | {"PYTHONPATH": str(SOURCE)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

        self._processes.append(process)
        return process

    def run(self, handler: str | None, *arguments: str, config: str = "") -> int:
        return self.start(handler, *arguments, config=config).wait(PATIENT)

    def calls(self, word: str) -> list[list[str]]:
        """What the calls of the handler noted: id/attempt of each job."""
        with suppress(FileNotFoundError):
            lines = (self.folder / "outcome").read_text().splitlines()
            return [words for each, *words in map(str.split, lines) if each == word]

        return []

    def done(self) -> list[str]:
        return [job for call in self.calls("done") for job in call]

    def logged(self, text: str) -> bool:
        return text in self.log.read_text()

    def clear(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


@pytest.fixture
def place(tmp_path: Path, database: str) -> Iterator[Place]:
    migrate(database)
    place = Place(tmp_path, database)
    yield place
    place.clear()


def enqueue(dsn: str, count: int) -> list[str]:
    """Commit jobs in one transaction; returns them as handlers note their first attempt."""
    with Client(dsn) as client:
        ids = client.enqueue_many([NewJob(payload=number) for number in range(count)])

    return [f"{job_id}/1" for job_id in ids]


def value(dsn: str, statement: str) -> object:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(statement).fetchone()

    assert row is not None
    return row[0]


def confirmed(dsn: str) -> LSN:
    return LSN.parse(
        str(
            value(
                dsn,
                "select confirmed_flush_lsn from pg_replication_slots "
                "where database = current_database()",
            )
        )
    )


# In the life of a slot the first jobs come from the table, all later ones from the log.
from_table_and_log = pytest.mark.parametrize("streaming", [False, True], ids=["table", "log"])


def test_once_handles_what_is_there_and_ends(place: Place) -> None:
    jobs = enqueue(place.dsn, 25)

    assert place.run("handle", "--once", "--batch-size", "10") == 0
    assert place.done() == jobs
    assert [len(call) for call in place.calls("begun")] == [10, 10, 5]

    assert place.run("handle", "--once") == 0
    assert place.done() == jobs


def test_once_on_an_empty_outbox_ends(place: Place) -> None:
    assert place.run("handle", "--once") == 0
    assert place.calls("begun") == []


@pytest.mark.parametrize(
    ("ask", "streaming"),
    [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGINT, True)],
    ids=["term-table", "term-log", "int-log"],
)
def test_a_signal_lets_the_running_batch_finish_and_it_does_not_come_again(
    place: Place, ask: signal.Signals, streaming: bool
) -> None:
    if streaming:
        place.run("handle", "--once")
    jobs = enqueue(place.dsn, 25)
    process = place.start("wait_for_go", "--batch-size", "10")
    eventually(lambda: place.calls("begun"), timeout=PATIENT)

    process.send_signal(ask)
    eventually(lambda: place.logged("Stopping"), timeout=PATIENT)
    (place.folder / "go").touch()

    assert process.wait(PATIENT) == 0
    assert place.calls("begun") == place.calls("done") == [jobs[:10]]

    assert place.run("handle", "--once") == 0
    assert place.done() == jobs


@from_table_and_log
def test_kill_at_the_start_of_the_second_batch_loses_nothing(place: Place, streaming: bool) -> None:
    if streaming:
        place.run("handle", "--once")
    with psycopg.connect(place.dsn) as connection, Client() as client:
        ids = client.enqueue_many([NewJob(payload=n) for n in range(25)], tx=connection)
        row = connection.execute("select pg_current_wal_insert_lsn()").fetchone()
        assert row is not None
    jobs = [f"{job_id}/1" for job_id in ids]
    before_commit = LSN.parse(row[0])

    assert place.run("die_in_second_call", "--batch-size", "10") == -signal.SIGKILL
    assert place.calls("begun") == [jobs[:10], jobs[10:20]]
    if streaming:
        assert confirmed(place.dsn) <= before_commit

    assert place.run("handle", "--once") == 0
    assert set(place.done()) == set(jobs)


@pytest.mark.parametrize("handler", ["sleep_for_ever", "block_for_ever"])
def test_a_second_signal_ends_it_whatever_the_handler_does(place: Place, handler: str) -> None:
    jobs = enqueue(place.dsn, 1)
    process = place.start(handler, "--drain-timeout", "1h")
    eventually(lambda: place.calls("begun"), timeout=PATIENT)

    process.terminate()
    eventually(lambda: place.logged("Stopping"), timeout=PATIENT)
    assert process.poll() is None
    process.terminate()

    assert process.wait(PATIENT) == 1
    assert place.logged("1 calls of the handler were abandoned")
    assert place.done() == []

    assert place.run("handle", "--once") == 0
    assert place.done() == jobs


@pytest.mark.parametrize("handler", ["sleep_for_ever", "block_for_ever"])
def test_the_drain_timeout_ends_it_too(place: Place, handler: str) -> None:
    jobs = enqueue(place.dsn, 1)
    process = place.start(handler, "--drain-timeout", "200ms")
    eventually(lambda: place.calls("begun"), timeout=PATIENT)

    process.terminate()

    assert process.wait(PATIENT) == 1
    assert place.run("handle", "--once") == 0
    assert place.done() == jobs


def test_an_error_ends_it_although_a_thread_is_wedged(place: Place) -> None:
    place.run("handle", "--once")
    enqueue(place.dsn, 1)
    process = place.start("block_for_ever", "--drain-timeout", "200ms")
    eventually(lambda: place.calls("begun"), timeout=PATIENT)
    with psycopg.connect(place.dsn, autocommit=True) as connection:
        connection.execute("drop publication pgcdc_outbox")
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )

    assert process.wait(PATIENT) == 1
    assert place.logged("error: publication pgcdc_outbox does not exist")
    assert place.logged("hint: create publication")


@pytest.mark.parametrize(
    ("arguments", "config"),
    [
        (["--retry-delay", "5h", "--retry-max-delay", "3h"], ""),
        ([], "[consume]\nretry_delay = 18000\nretry_max_delay = 10800"),
        (["--retry-delay", "5h"], "[consume]\nretry_delay = 0.01\nretry_max_delay = 10800"),
    ],
)
def test_the_delays_of_retries_are_what_was_asked_for(
    place: Place, arguments: list[str], config: str
) -> None:
    enqueue(place.dsn, 1)

    assert place.run("fail", "--once", *arguments, config=config) == 0
    delay = value(place.dsn, "select extract(epoch from due_at - now())::float from outbox.failed")
    assert 3600 < delay <= 10800


def test_a_role_that_does_not_exist_ends_it_at_once(place: Place) -> None:
    place.dsn += " user=nobody_of_that_name"

    assert place.run("handle") == 1
    assert place.logged("error: take hold of consumer default")
    assert place.logged("hint: Check")


def test_a_wal_sender_timeout_that_makes_no_sense_is_refused(place: Place) -> None:
    assert place.run("handle", "--wal-sender-timeout", "1ms") == 1
    assert place.logged("error: wal_sender_timeout")


def test_a_job_is_dead_after_max_attempts(place: Place) -> None:
    enqueue(place.dsn, 1)

    assert place.run("fail", "--once", "--max-attempts", "1") == 0
    assert value(place.dsn, "select reason from outbox.dead_letter") == "exhausted"


def test_flags_come_before_the_file_and_the_file_before_the_defaults(place: Place) -> None:
    enqueue(place.dsn, 5)
    config = "[consume]\nhandler = 'handlers:service'\nname = 'billing'\nbatch_size = 1\n"

    assert place.run(None, "--once", "--batch-size", "2", config=config) == 0
    assert [len(call) for call in place.calls("done")] == [2, 2, 1]
    assert value(place.dsn, "select name from outbox.consumer") == "billing"


@pytest.mark.parametrize(
    ("option", "shown", "hidden"),
    [
        ("--quiet", [], ["INFO", "DEBUG"]),
        ("--verbose", ["BatchSettled", "Connecting"], []),
        ("--once", ["Connecting"], ["BatchSettled", "DEBUG"]),
    ],
)
def test_the_log_says_as_much_as_asked(
    place: Place, option: str, shown: list[str], hidden: list[str]
) -> None:
    enqueue(place.dsn, 1)

    assert place.run("handle", "--once", option) == 0
    assert all(place.logged(text) for text in shown)
    assert not any(place.logged(text) for text in hidden)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("handlers", "error: handler: 'handlers' is not a name of a handler"),
        ("handlers:", "error: handler: 'handlers:' is not a name of a handler"),
        ("handlers:hndle", "error: handler: module handlers has no hndle\nhint: It has note, "),
        ("handlers:Orders", "error: handler: handlers:Orders is a class\nhint: Name an instance"),
        ("handlers:two", "error: handler: two(jobs, extra) cannot be called with one argument"),
        ("handlers:number", "error: handler: int is neither a function"),
        ("nowhere.jobs:handle", "error: handler: there is no module nowhere\nhint: Looked in "),
        ("broken:handle", "error: handler: importing broken failed: ZeroDivisionError"),
        ("needy:handle", "error: handler: importing needy failed: ModuleNotFoundError"),
    ],
)
def test_a_wrong_handler_is_told_before_anything_connects(
    tmp_path: Path, spec: str, says: str
) -> None:
    place = Place(tmp_path, "host=/nowhere")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "needy.py").write_text("import not_installed_here\n")

    assert place.run(None, "--handler", spec) == 1
    assert says in place.log.read_text()
    assert len(place.log.read_text().splitlines()) == 2


def test_no_handler_is_told_too(tmp_path: Path) -> None:
    place = Place(tmp_path, "host=/nowhere")

    assert place.run(None) == 1
    assert place.logged("error: handler: none was given")
