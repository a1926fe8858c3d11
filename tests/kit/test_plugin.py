"""The fixtures in suites of others, run as they run them: pytest in a process of its own."""

import tomllib
from importlib import import_module
from pathlib import Path

import psycopg
import pytest

from pgcdc_outbox.testing import plugin

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]

# Five seconds are plenty for what has ended to be gone, but on a machine that stalls.
PATIENT = """
    from pgcdc_outbox.testing import cleaning

    cleaning._PATIENCE_SECONDS = 60.0
"""


class Suite:
    """Somebody's tests."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self._pytester = pytester
        self._monkeypatch = monkeypatch
        # Named instead of found: whether it is found depends on how this package is installed.
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))

    def set(self, name: str, value: str) -> None:
        """Set a variable of the environment."""
        self._monkeypatch.setenv(name, value)

    def run(self, text: str, *arguments: str, conftest: str = "") -> pytest.RunResult:
        """Run it."""
        self._pytester.makeconftest(conftest)
        self._pytester.makepyfile(text)
        return self._pytester.runpytest_subprocess(
            "-p", "pgcdc_outbox.testing.plugin", "-W", "error", *arguments
        )


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Suite:
    """A suite that has to look for a server."""
    monkeypatch.delenv("PGCDC_OUTBOX_TEST_DSN", raising=False)
    return Suite(pytester, monkeypatch)


@pytest.fixture
def connected(suite: Suite, server) -> Suite:
    """A suite that is given the server of this run."""
    suite.set("PGCDC_OUTBOX_TEST_DSN", server.dsn())
    return suite


def databases(server) -> set[str]:
    with psycopg.connect(server.dsn()) as connection:
        rows = connection.execute("select datname from pg_database").fetchall()

    return {name for (name,) in rows}


def test_it_is_found_by_pytest() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (name,) = project["entry-points"]["pytest11"].values()
    assert import_module(name) is plugin


def test_each_test_begins_with_a_clean_outbox(connected: Suite, server) -> None:
    before = databases(server)
    result = connected.run(
        """
        import os
        import pytest
        from pgcdc_outbox import Client

        DSN = set()

        @pytest.mark.parametrize("mode", ["polling", "logical", "polling"])
        def test_one(outbox, mode):
            assert outbox.jobs() == []
            assert outbox.client.enqueue({"order": 1}) == 1
            assert os.environ["PGCDC_OUTBOX_DSN"] == outbox.dsn
            with Client() as client:
                assert client.enqueue({"order": 2}, delay=60) == 2
            assert outbox.drain(lambda jobs: [job.id for job in jobs], mode=mode).ids == [1]
            assert len(outbox.failed()) == 1
            DSN.add(outbox.dsn)
            assert len(DSN) == 1

        def test_two():
            assert "PGCDC_OUTBOX_DSN" not in os.environ
        """,
        conftest=PATIENT,
    )
    result.assert_outcomes(passed=4)
    assert databases(server) == before


def test_a_failure_says_what_is_there(connected: Suite) -> None:
    result = connected.run(
        """
        def test_one(outbox):
            outbox.client.enqueue({"order": 1}, topic="order.paid")
            outbox.assert_enqueued(topic="order.paid", payload={"order": 2})

        def test_two(outbox):
            def handle(jobs):
                raise ValueError("the bank is closed")

            outbox.client.enqueue(1)
            outbox.drain(handle).assert_done()
        """
    )
    result.assert_outcomes(failed=2)
    result.stdout.no_fnmatch_line("*raise AssertionError*")
    result.stdout.fnmatch_lines(
        [
            "E *AssertionError: no job was enqueued with topic='order.paid', payload={'order': 2}",
            "E *payload?'order'?: expected 2, found 1",
            "E *ValueError: the bank is closed",
            "E *AssertionError: not every job is done:",
            "E *id=1, topic='default'*: retry, ValueError: the bank is closed",
        ]
    )


def test_a_server_of_its_own(suite: Suite) -> None:
    result = suite.run(
        """
        def test_one(outbox, outbox_server):
            assert outbox_server.running
            outbox.client.enqueue(1)
            outbox.drain(lambda jobs: None).assert_done()
        """
    )
    result.assert_outcomes(passed=1)


def test_without_a_server_it_says_what_to_do(suite: Suite, tmp_path: Path) -> None:
    suite.set("PGCDC_OUTBOX_PG_BIN", str(tmp_path))
    result = suite.run("def test_one(outbox): pass\ndef test_two(outbox): pass")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        [
            "The fixture `outbox_server` has no PostgreSQL for the tests: * has no initdb*",
            "Hint: Name the folder *",
            "(Or name a server that there is: PGCDC_OUTBOX_TEST_DSN=*",
        ]
    )
    assert "Traceback" not in result.stdout.str()


@pytest.mark.parametrize(
    ("dsn", "text"),
    [
        ("postgresql://tester:hush-hush@127.0.0.1:1/x", "*names cannot be used: *refused*"),
        ("postgresql//tester:hush-hush@h/x", "*PGCDC_OUTBOX_TEST_DSN: it makes no sense*"),
    ],
)
def test_a_server_that_cannot_be_reached(suite: Suite, dsn: str, text: str) -> None:
    suite.set("PGCDC_OUTBOX_TEST_DSN", dsn)
    result = suite.run("def test_one(outbox): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([text])
    assert "hush-hush" not in result.stdout.str() + result.stderr.str()


def test_several_workers_do_not_meet(connected: Suite, server) -> None:
    before = databases(server)
    result = connected.run(
        """
        import pytest

        @pytest.mark.parametrize("number", range(6))
        def test_one(outbox, number):
            assert outbox.client.enqueue(number) == 1
            assert [job.json() for job in outbox.drain(lambda jobs: None).done] == [number]
        """,
        "-p",
        "xdist",
        "-n",
        "2",
        conftest=PATIENT,
    )
    result.assert_outcomes(passed=6)
    assert databases(server) == before


def test_a_database_of_their_own(connected: Suite, database: str) -> None:
    connected.set("THEIRS", database)
    result = connected.run(
        """
        import psycopg

        def test_one(outbox):
            with psycopg.connect(outbox.dsn) as connection:
                connection.execute("insert into orders values (1)")
                outbox.client.enqueue(1, tx=connection)

            assert outbox.jobs() != []

        def test_two(outbox):
            with psycopg.connect(outbox.dsn) as connection:
                assert connection.execute("select * from orders").fetchall() == [(1,)]

            assert outbox.schema == "jobs"
            assert outbox.jobs() == []
        """,
        conftest="""
            import os
            import psycopg
            import pytest

            @pytest.fixture(scope="session")
            def outbox_database():
                with psycopg.connect(os.environ["THEIRS"]) as connection:
                    connection.execute("create table orders (id bigint)")

                return os.environ["THEIRS"]

            @pytest.fixture(scope="session")
            def outbox_schema():
                return "jobs"
        """,
    )
    result.assert_outcomes(passed=2)


def test_who_does_not_use_it_does_not_pay_for_it(suite: Suite) -> None:
    result = suite.run(
        """
        import sys

        def test_one():
            heavy = {"psycopg", "msgspec", "anyio", "pgcdc_outbox.testing.server"}
            assert heavy & set(sys.modules) == set()
        """
    )
    result.assert_outcomes(passed=1)
