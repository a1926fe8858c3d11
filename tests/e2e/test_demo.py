"""The demo: what it prints adds up, and it tells when something is wrong."""

import io
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from pgcdc_outbox import Client
from pgcdc_outbox.cli.main import cli
from pgcdc_outbox.demo import demo
from pgcdc_outbox.demo.audit import Evidence, audit
from pgcdc_outbox.demo.folder import clear
from pgcdc_outbox.demo.orders import MAX_ATTEMPTS, Kind, Placed, kind_of
from pgcdc_outbox.demo.record import Call, Order, Record
from pgcdc_outbox.demo.report import table, verdict
from pgcdc_outbox.demo.screen import Screen
from pgcdc_outbox.errors import SettingsError
from pgcdc_outbox.testing import PostgresServer
from tests.wait import eventually

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version

SOURCE = Path(__file__).parents[2] / "src"


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """A data folder that is not there yet, and not there any more."""
    data = tmp_path / "data"
    yield data
    clear(data)


class Running:
    """A demo in a process of its own."""

    def __init__(self, data: Path, *arguments: str) -> None:
        self._output = data.with_name("output")
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pgcdc_outbox", "demo", "--data", str(data), *arguments],
                env=os.environ | {"PYTHONPATH": str(SOURCE)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    def end(self) -> str:
        """Wait for the end; returns what was printed."""
        try:
            self.process.wait(300)
        finally:
            self.process.kill()

        return self.output


def run(data: Path, *arguments: str) -> dict[str, float]:
    """Run a demo that goes well; returns its table."""
    running = Running(data, *arguments)
    output = running.end()

    assert running.process.returncode == 0, output
    return figures(output)


def figures(output: str) -> dict[str, float]:
    """The table: numbers by label."""
    rows = re.findall(r"^ {2,4}(\S.{32,34}?) +([\d,.]+)(?:  .*)?$", output, re.MULTILINE)
    return {label.strip(): float(number.replace(",", "")) for label, number in rows}


def expected(orders: int) -> dict[str, float]:
    """What the table must say after so many orders, on any machine."""
    kinds = Counter(kind_of(number) for number in range(1, orders + 1))
    assert min(kinds[kind] for kind in Kind) > 0, "too few orders for some of each kind"
    committed = orders - kinds[Kind.UNDONE]
    return {
        "committed": committed,
        "rolled back": kinds[Kind.UNDONE],
        "handled": committed - kinds[Kind.HOPELESS],
        "enqueued by plain SQL": kinds[Kind.SQL],
        "failed at first, retried": kinds[Kind.STUMBLES],
        "scheduled for later": kinds[Kind.LATER],
        "dead letters": kinds[Kind.HOPELESS],
        "lost": 0,
        "rolled back but handled": 0,
        "duplicates": 0,
    }


@pytest.mark.server
def test_it_counts_each_run_for_itself_and_leaves_no_server(data: Path) -> None:
    first = run(data, "--orders", "60")

    assert expected(60).items() <= first.items()
    assert first["commit to handler, p50"] <= first["commit to handler, p99"]
    assert not (data / "postmaster.pid").exists()
    assert os.geteuid() != 0 or data.stat().st_uid != 0

    # What an earlier run left, good and bad, is handled but does not count.
    with PostgresServer.start(data) as server, Client(server.dsn()) as client:
        for kind in (Kind.USUAL, Kind.UNDONE, Kind.HOPELESS):
            client.enqueue(Placed("earlier", 1, kind), topic="order.placed")

    second = run(data, "--orders", "20")

    assert second["committed"] == 18
    assert second["rolled back"] == 2
    assert second["dead letters"] == 1
    assert second["lost"] == second["rolled back but handled"] == second["duplicates"] == 0
    assert second["of an earlier run"] >= 3
    assert not (data / "postmaster.pid").exists()


@pytest.mark.server
@pytest.mark.parametrize("ask", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_orders_and_they_are_counted_all_the_same(
    data: Path, ask: signal.Signals
) -> None:
    running = Running(data, "--seconds", "600")
    eventually(lambda: re.search(r"handled [1-9]", running.output), timeout=120)

    running.process.send_signal(ask)
    output = running.end()

    table = figures(output)
    assert running.process.returncode == 0, output
    assert table["committed"] == table["handled"] + table["dead letters"] > 0
    assert table["lost"] == 0
    assert not (data / "postmaster.pid").exists()


@pytest.mark.server
def test_the_server_of_a_killed_demo_ends_and_the_next_one_goes_on(data: Path) -> None:
    running = Running(data, "--seconds", "600")
    eventually(lambda: re.search(r"handled [1-9]", running.output), timeout=120)

    running.process.kill()
    running.process.wait()

    eventually(lambda: not (data / "postmaster.pid").exists(), timeout=120)
    assert run(data, "--orders", "20")["lost"] == 0


@pytest.mark.server
def test_fresh_starts_anew_and_removes_nothing_else(data: Path, tmp_path: Path) -> None:
    with PostgresServer.start(data):
        with pytest.raises(SettingsError, match=r"a server \(pid \d+\) is using"):
            clear(data)
        (data / "mark").touch()

    clear(data)
    assert not data.exists()
    assert not data.is_symlink()

    data.mkdir()
    (data / "thesis.txt").touch()
    with pytest.raises(SettingsError, match="is not a data folder"):
        clear(data)
    (data / "thesis.txt").unlink()


@pytest.mark.parametrize(("good", "code"), [(True, 0), (False, 1)])
def test_the_exit_code_tells_the_outcome(
    monkeypatch: pytest.MonkeyPatch, good: bool, code: int
) -> None:
    monkeypatch.setattr(demo, "show", lambda *_, **__: good)

    assert CliRunner().invoke(cli, ["demo"]).exit_code == code


def test_seconds_and_orders_exclude_each_other() -> None:
    result = CliRunner().invoke(cli, ["demo", "--seconds", "1", "--orders", "1"])

    assert result.exit_code == 2
    assert "exclude each other" in result.output


class Books:
    """A record to be falsified: orders 1 to 4 are usual, 5 is hopeless, 6 is rolled back."""

    def __init__(self) -> None:
        self.record = Record()
        self.evidence = Evidence(orders=5, dead=frozenset({105}), lag_bytes=0)
        for number in range(1, 5):
            self.order(number, Kind.USUAL)
            self.call(number)

        self.order(5, Kind.HOPELESS)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            self.call(5, attempt, succeeded=False)

        self.order(6, Kind.UNDONE)

    def order(self, number: int, kind: Kind, due: float | None = None) -> None:
        self.record.note_order(
            Order(
                number=number,
                kind=kind,
                job_id=100 + number,
                committed=kind is not Kind.UNDONE,
                ended=float(number),
                due=due,
            )
        )

    def call(
        self, number: int, attempt: int = 1, *, succeeded: bool = True, after: float = 0.5
    ) -> None:
        self.record.note_call(
            Call(number=number, attempt=attempt, entered=number + after, succeeded=succeeded)
        )


def test_true_books_prove_it() -> None:
    books = Books()
    found = audit(books.record, books.evidence)

    assert found.good
    assert (found.committed, found.handled, found.dead, found.rolled_back) == (5, 4, 1, 1)
    assert found.p50 == found.p99 == 0.5


def test_a_job_that_never_came_is_lost() -> None:
    books = Books()
    books.order(7, Kind.USUAL)
    found = audit(books.record, msgspec.structs.replace(books.evidence, orders=6))

    assert found.lost == 1
    assert not found.good
    assert "went wrong" in verdict(found)


def test_a_job_that_was_given_up_but_is_no_dead_letter_is_lost() -> None:
    books = Books()
    found = audit(books.record, msgspec.structs.replace(books.evidence, dead=frozenset()))

    assert (found.lost, found.dead, found.good) == (1, 0, False)


def test_a_dead_letter_that_should_have_been_handled_is_lost() -> None:
    books = Books()
    books.order(7, Kind.USUAL)
    books.call(7, MAX_ATTEMPTS, succeeded=False)
    found = audit(books.record, Evidence(orders=6, dead=frozenset({105, 107}), lag_bytes=0))

    assert (found.lost, found.good) == (1, False)


def test_a_job_of_a_rolled_back_order_is_noticed() -> None:
    books = Books()
    books.call(6)
    found = audit(books.record, books.evidence)

    assert (found.undone_but_handled, found.good) == (1, False)


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_duplicate_is_counted_and_is_no_failure(attempt: int) -> None:
    books = Books()
    books.call(3, attempt)
    found = audit(books.record, books.evidence)

    assert (found.duplicates, found.good) == (1, True)


def test_notes_that_the_database_contradicts_prove_nothing() -> None:
    books = Books()
    found = audit(books.record, msgspec.structs.replace(books.evidence, orders=6))

    assert (found.unrecorded, found.good) == (1, False)


def test_no_orders_prove_nothing() -> None:
    found = audit(Record(), Evidence(orders=0, dead=frozenset(), lag_bytes=None))

    assert not found.good
    assert "nothing is proved" in verdict(found)
    assert table(found)


def test_the_log_may_be_quicker_than_the_commit() -> None:
    books = Books()
    books.order(7, Kind.USUAL)
    books.call(7, after=-0.001)
    found = audit(books.record, msgspec.structs.replace(books.evidence, orders=6))

    assert found.sooner == 1
    assert found.p50 == 0.5


def test_lateness_is_counted_from_when_a_job_was_due() -> None:
    books = Books()
    books.order(7, Kind.LATER, due=9.0)
    books.order(8, Kind.LATER, due=9.0)
    books.call(7, after=2.25)
    books.call(8, after=1.5)
    found = audit(books.record, msgspec.structs.replace(books.evidence, orders=7))

    assert found.latenesses == (0.25, 0.5)
    assert found.p99 == 0.5, "what is scheduled says nothing about the log"


def test_numbers_stand_below_each_other() -> None:
    books = Books()
    lines = table(audit(books.record, books.evidence))

    ends = {match.end() for line in lines if (match := re.match(r"  .{34} *[\d,.]+(?=  |$)", line))}
    assert len(ends) == 1


def test_a_terminal_is_redrawn_and_a_file_is_not() -> None:
    terminal, file = io.StringIO(), io.StringIO()
    for out, live in ((terminal, True), (file, False)):
        screen = Screen(out, live=live)
        screen.show(0.0, {"handled": 1})
        screen.show(0.1, {"handled": 2})
        screen.show(0.2, {"handled": 3}, last=True)
        screen.verdict("good", good=True)

    assert terminal.getvalue().count("\x1b[2F\x1b[J") == 2
    assert "\x1b" not in file.getvalue()
    assert re.findall(r"handled (\d)", file.getvalue()) == ["1", "3"]
