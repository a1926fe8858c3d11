"""A slot or a publication that is lost, while it is read or not, costs no job.

About logical replication alone: polling needs neither.
"""

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from pgcdc_outbox.testing import PostgresServer
from tests.faults.crew import PATIENCE
from tests.faults.scene import Scene
from tests.wait import eventually

PUBLICATION = "pgcdc_outbox"
CREATE = (
    f"create publication {PUBLICATION} for table immediate "
    "with (publish = 'insert', publish_via_partition_root = true)"
)


@pytest.fixture
def mode() -> str:
    return "logical"


def drop_slot(scene: Scene) -> None:
    """Drop the slot, as an administrator does who needs the disk."""
    name = scene.outbox.slot()["slot_name"]

    def drop() -> bool:
        scene.outbox.end_slot_reader()
        try:
            scene.outbox.rows("select pg_drop_replication_slot(%s)", [name])
        except psycopg.errors.ObjectInUse:
            return False  # it is back already

        return True

    eventually(drop, PATIENCE)


def test_dropped_again_and_again_under_load(scene: Scene) -> None:
    worker = scene.crew.start()
    with scene.busy():
        for n in range(2):
            worker.saw("Streaming", n + 1)
            scene.executed(50)
            with scene.forgetting("drop the slot"):
                drop_slot(scene)
                worker.saw("SlotCreated", n + 2)

        scene.executed(50)

    assert worker.alive
    scene.conclude()


def test_dropped_while_it_is_away(scene: Scene) -> None:
    with scene.busy():
        worker = scene.crew.start()
        scene.executed(50)
        worker.at_work()
        assert worker.stop() == 0
        with scene.forgetting("drop the slot"):
            drop_slot(scene)

    scene.conclude()


@pytest.mark.any_version
@pytest.mark.parametrize(
    "event",
    [
        "SlotCreated",
        "BatchSettled",
        pytest.param("Reconciling", marks=pytest.mark.slow),
        pytest.param("Reconciled", marks=pytest.mark.slow),
    ],
)
def test_killed_while_it_makes_up_for_a_lost_slot(scene: Scene, event: str) -> None:
    worker = scene.crew.start()
    with scene.busy():
        scene.executed(50)
        worker.at_work()
        assert worker.stop() == 0
        with scene.forgetting("drop the slot"):
            drop_slot(scene)

        committed = len(scene.truth.jobs("committed"))
        eventually(lambda: len(scene.truth.jobs("committed")) > committed + 30, PATIENCE)
        with scene.forgetting("kill"):
            scene.crew.start(kill_at=(event, 1)).died()

        scene.crew.start()
        scene.executed(50)

    scene.conclude()


@pytest.fixture
def small_log(
    fresh_server: Callable[..., PostgresServer], tmp_path: Path, mode: str
) -> Callable[[], Scene]:
    """A scene on a server that keeps next to no log for slots."""
    server = fresh_server(
        settings={"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB"}
    )
    return Scene(server.dsn(), tmp_path, mode)


def fill_the_log(scene: Scene) -> None:
    """Write until the server gives up the slot."""
    with psycopg.connect(scene.dsn, autocommit=True) as connection:
        connection.execute("create table if not exists filler (t text)")

        def lost() -> bool:
            connection.execute(
                "insert into filler select repeat('x', 2000) from generate_series(1, 4000)"
            )
            connection.execute("select pg_switch_wal()")
            connection.execute("checkpoint")
            # Who was quick has another one already, which need not be lost.
            renewed = len(scene.crew.told("SlotCreated")) > 1
            return renewed or bool(scene.outbox.slot()["wal_status"] == "lost")

        eventually(lost, PATIENCE)


def test_invalidated_while_a_call_keeps_it_back(small_log: Scene) -> None:
    """The server ends the reader; what it had handed out is still being handled."""
    scene = small_log
    try:
        worker = scene.crew.start(wedged=True, consumer={"drain_timeout": 1.0})
        worker.saw("Streaming")
        scene.put(5)
        worker.saw("BatchStarted")
        scene.put(5)
        with scene.forgetting("invalidate"):
            fill_the_log(scene)
            worker.saw("SlotCreated", 2)

        scene.put(5)
        (scene.truth.folder / "go").touch()
        assert worker.alive
        scene.conclude()
    finally:
        scene.close()


def test_a_publication_dropped_and_made_again_under_load(scene: Scene) -> None:
    """The consumer ends, for a person has to mend it; started again, it finds every job."""
    worker = scene.crew.start()
    with scene.busy():
        scene.executed(50)
        worker.at_work()
        with scene.forgetting("publication"):
            scene.outbox.rows(f"drop publication {PUBLICATION}")
            assert worker.process.wait(PATIENCE) == 1
            assert "PublicationMissing" in worker.log.read_text()
            scene.outbox.rows(CREATE)
            scene.crew.start()
            scene.executed(50)

    scene.conclude()


@pytest.mark.parametrize(
    ("spoil", "mend"),
    [
        (f"drop publication {PUBLICATION}", CREATE),
        (
            f"alter publication {PUBLICATION} set (publish = 'update')",
            f"alter publication {PUBLICATION} set (publish = 'insert')",
        ),
        (
            f"alter publication {PUBLICATION} drop table immediate",
            f"alter publication {PUBLICATION} add table immediate",
        ),
    ],
    ids=["dropped", "publishes updates", "without the table"],
)
def test_a_publication_spoiled_and_mended_at_once(scene: Scene, spoil: str, mend: str) -> None:
    """What was committed in between is not in the stream, and must not be lost."""
    # Until that is noticed the slot passes it, and later jobs come before it.
    scene.ordered = scene.slot_is_believed = spoil.startswith("drop")
    worker = scene.crew.start()
    with scene.busy():
        scene.executed(50)
        worker.at_work()
        with scene.forgetting("publication"):
            # It must not look in between: without a publication it ends.
            worker.pause()
            scene.outbox.rows(spoil)
            between = scene.put(5)
            scene.outbox.rows(mend)
            worker.resume()
            scene.put(1)
            scene.handled(between)

    scene.conclude()


def test_killed_when_the_slot_is_ahead_of_what_was_saved(scene: Scene) -> None:
    """It is the same slot all the same, and what was confirmed does not come again."""
    worker = scene.crew.start(consumer={"checkpoint_interval": 60})
    worker.saw("Streaming")
    saved = scene.outbox.value("select flushed - '0/0' from checkpoint")

    def moved() -> bool:
        scene.put(10)
        scene.outbox.rows("checkpoint")
        return bool(
            scene.outbox.value(
                "select restart_lsn - '0/0' > %s from pg_replication_slots "
                "where database = current_database()",
                [saved],
            )
        )

    with scene.watched():
        eventually(moved, PATIENCE)
        scene.handled(list(scene.truth.jobs("committed").values()))
        worker.kill()

    successor = scene.crew.start()
    successor.saw("Streaming")
    assert not successor.told("SlotCreated")
    scene.conclude()
