"""Another server takes the place of the first: a standby that is promoted, or an old copy.

Logical replication alone; and each test has servers of its own.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgcdc_outbox.testing import PostgresServer
from tests.faults.crew import PATIENCE
from tests.faults.scene import Scene
from tests.wait import eventually

Start = Callable[..., PostgresServer]


@pytest.fixture
def mode() -> str:
    return "logical"


def either(*servers: PostgresServer) -> str:
    """A DSN that leads to whichever of the servers takes writes."""
    places = [conninfo_to_dict(server.dsn()) for server in servers]
    return make_conninfo(
        servers[0].dsn(),
        host=",".join(str(place["host"]) for place in places),
        port=",".join(str(place["port"]) for place in places),
        target_session_attrs="read-write",
    )


def ask(server: PostgresServer, statement: str) -> Any:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        row = cursor.fetchone() if cursor.description else None

    return None if row is None else row[0]


class Pair:
    """A primary, and a standby without which nothing is committed."""

    def __init__(self, start: Start, folder: Path, mode: str, **settings: str) -> None:
        self.primary = start()
        Scene(self.primary.dsn(), folder, mode)  # migrates
        if settings:
            ask(self.primary, "select pg_create_physical_replication_slot('standby')")

        self.primary.stop()
        self.standby = start(copy_of=self.primary, standby=True, settings=settings)
        self.primary.resume()
        self.scene = Scene(either(self.primary, self.standby), folder, mode)

    def synchronise(self) -> None:
        """From now on whatever is committed is on the standby too."""
        ask(self.primary, "alter system set synchronous_standby_names = '*'")
        ask(self.primary, "select pg_reload_conf()")
        eventually(
            lambda: ask(self.primary, "select sync_state from pg_stat_replication") == "sync",
            PATIENCE,
        )

    def fail_over(self) -> None:
        self.primary.kill()
        ask(self.standby, "select pg_promote()")
        assert ask(self.standby, "select pg_is_in_recovery()") is False


@pytest.fixture
def pair(fresh_server: Start, tmp_path: Path, mode: str) -> Iterator[Pair]:
    pair = Pair(fresh_server, tmp_path, mode)
    pair.synchronise()
    yield pair
    pair.scene.close()


@pytest.mark.parametrize(
    "survives",
    [True, pytest.param(False, marks=pytest.mark.slow)],
    ids=["alive", "started anew"],
)
def test_promoted_without_the_slot(pair: Pair, survives: bool) -> None:
    """What the slot would have brought is found in the table."""
    scene = pair.scene
    worker = scene.crew.start()
    with scene.busy():
        scene.executed(100)
        with scene.forgetting("failover"):
            if not survives:
                worker.kill()

            pair.fail_over()
            if not survives:
                worker = scene.crew.start()

            scene.executed(50)

    assert worker.alive
    assert [told.detail["reason"] for told in worker.told("SlotCreated")][-1]
    scene.conclude()


@pytest.mark.slow
def test_promoted_with_the_slot(fresh_server: Start, tmp_path: Path, mode: str) -> None:
    """From version 17 a slot can be kept in step on the standby, and goes on there."""
    if fresh_server_version(fresh_server) < 170000:
        pytest.skip("slots are kept in step from version 17")

    pair = Pair(
        fresh_server,
        tmp_path,
        mode,
        primary_slot_name="standby",
        hot_standby_feedback="on",
        sync_replication_slots="on",
    )
    scene = pair.scene
    try:
        assert scene.crew.start(once=True).process.wait(PATIENCE) == 0
        keep_in_step(pair.primary, scene.outbox.slot()["slot_name"])
        worker = scene.crew.start()
        with scene.busy(pause=0.05):
            # A copy counts once the slot has moved beyond where the copying began.
            eventually(lambda: is_in_step(pair), PATIENCE)
            pair.synchronise()
            scene.executed(50)
            with scene.truth.breaking("failover", again=float("inf"), resets=True):
                pair.fail_over()
                scene.executed(50)

        assert worker.alive
        assert not worker.told("SlotCreated")
        scene.conclude()
    finally:
        scene.close()


def is_in_step(pair: Pair) -> bool:
    ask(pair.primary, "select pg_log_standby_snapshot()")
    return bool(
        ask(
            pair.standby,
            "select bool_or(synced and not temporary) from pg_replication_slots "
            "where slot_type = 'logical'",
        )
    )


def fresh_server_version(start: Start) -> int:
    return start().version


def keep_in_step(server: PostgresServer, slot: str) -> None:
    """Have the slot copied to standbys."""
    with psycopg.connect(server.dsn(), autocommit=True, replication="database") as connection:
        result = connection.pgconn.exec_(f"ALTER_REPLICATION_SLOT {slot} (FAILOVER true)".encode())
        assert result.status == psycopg.pq.ExecStatus.COMMAND_OK, result.error_message


@pytest.fixture
def origin(fresh_server: Start) -> PostgresServer:
    return fresh_server()


def copied(start: Start, server: PostgresServer, *, slots: bool) -> PostgresServer:
    """A copy of a server as it is now, not running yet: of its disk, or as a backup makes it."""
    server.stop()
    copy = start(copy_of=server)
    if not slots:
        ask(copy, "select count(pg_drop_replication_slot(slot_name)) from pg_replication_slots")

    copy.stop()
    server.resume()
    return copy


def write_past(server: PostgresServer, position: int) -> None:
    """Write until the log is longer than it was elsewhere."""
    ask(server, "create table filler (t text)")

    def long_enough() -> bool:
        ask(server, "insert into filler select repeat('x', 2000) from generate_series(1, 1000)")
        return bool(ask(server, f"select pg_current_wal_lsn() - '0/0' > {position}"))

    eventually(long_enough, PATIENCE)


@pytest.mark.parametrize(
    "slots",
    [pytest.param(True, marks=pytest.mark.slow), False],
    ids=["disk", "backup"],
)
def test_set_back_while_nobody_consumes(
    fresh_server: Start, origin: PostgresServer, tmp_path: Path, mode: str, slots: bool
) -> None:
    """What was pending then is pending again, and comes."""
    before = Scene(origin.dsn(), folder(tmp_path, "before"), mode)
    assert before.crew.start(once=True).process.wait(PATIENCE) == 0
    pending = before.put(5)
    copy = copied(fresh_server, origin, slots=slots)
    before.put(50)
    before.conclude()
    origin.stop()

    copy.resume()
    after = Scene(copy.dsn(), folder(tmp_path, "after"), mode, first=1000)
    after.truth.claim(next(c for c in before.truth.claims if c.jobs == tuple(pending)))
    after.put(50)
    after.conclude()


@pytest.mark.parametrize(
    ("slots", "longer"),
    [
        (True, True),
        pytest.param(True, False, marks=pytest.mark.slow),
        pytest.param(False, True, marks=pytest.mark.slow),
        (False, False),
    ],
    ids=["disk, longer log", "disk", "backup, longer log", "backup"],
)
def test_set_back_under_a_consumer(
    fresh_server: Start,
    origin: PostgresServer,
    tmp_path: Path,
    mode: str,
    slots: bool,
    longer: bool,
) -> None:
    """What it remembers of the server that was is no longer true."""
    scene = Scene(origin.dsn(), tmp_path, mode)
    assert scene.crew.start(once=True).process.wait(PATIENCE) == 0
    pending = scene.put(5)
    copy = copied(fresh_server, origin, slots=slots)
    scene.crew.dsn = either(origin, copy)
    try:
        worker = scene.crew.start()
        scene.handled(pending + [job for _ in range(20) for job in scene.put(5)])
        worker.saw("CheckpointSaved", 2)
        end = int(ask(origin, "select pg_current_wal_lsn() - '0/0'"))
        worker.pause()
        origin.kill()
        copy.resume()
        since = len(scene.truth.executions)
        scene.dsn = copy.dsn()
        new = [job for _ in range(20) for job in scene.put(5)]
        if longer:
            write_past(copy, end)

        worker.resume()
        expected = {job.seq for job in pending + new}
        eventually(
            lambda: expected <= {run.seq for run in scene.truth.executions[since:]}, PATIENCE
        )
    finally:
        scene.close()


def folder(parent: Path, name: str) -> Path:
    place = parent / name
    place.mkdir()
    return place
