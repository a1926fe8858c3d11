"""The files in ``examples/``: they run as they are, and work together."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from pgcdc_outbox import Client
from pgcdc_outbox.postgres.migrate import migrate

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version

ROOT = Path(__file__).parents[2]
PRODUCERS = ["examples/place_order.py", "examples/sqlalchemy_orders.py"]

Run = Callable[..., str]


@pytest.fixture
def run(database: str) -> Run:
    """A function that runs Python on the migrated database, and returns what it printed."""
    migrate(database)

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=os.environ
            | {"PGCDC_OUTBOX_DSN": database, "PYTHONPATH": "src", "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return run


def consume(run: Run) -> str:
    return run("-m", "pgcdc_outbox", "consume", "--handler", "examples.orders:handle", "--once")


def dead(database: str) -> list[str]:
    with psycopg.connect(database) as connection:
        rows = connection.execute("select reason from outbox.dead_letter order by id").fetchall()

    return [reason for (reason,) in rows]


def test_what_producers_place_the_handler_confirms(run: Run, database: str) -> None:
    assert [run(PRODUCERS[0], "12.5"), run(PRODUCERS[1], "7"), run(PRODUCERS[0])] == [
        "placed order 1\n",
        "placed order 2\n",
        "placed order 3\n",
    ]

    output = consume(run)

    for order, total in ((1, "12.50"), (2, "7.00"), (3, "12.50")):
        assert f"confirms order {order}: {total}" in output
    assert dead(database) == []


@pytest.mark.parametrize("producer", PRODUCERS)
def test_each_producer_makes_its_own_table(run: Run, producer: str) -> None:
    assert run(producer, "1") == "placed order 1\n"


def test_what_the_handler_refuses_goes_to_the_dead_letters(run: Run, database: str) -> None:
    with Client(database) as client:
        for payload in ({"order": 1, "total": 0}, {"order": "?"}, {"order": 2, "total": 5}):
            client.enqueue(payload, topic="order.placed")

    assert "confirms order 2: 5.00" in consume(run)
    assert dead(database) == ["the order costs nothing", "undecodable"]


def test_the_compose_file_names_the_handler_that_there_is() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()

    assert '"consume", "--handler", "examples.orders:handle"' in compose
