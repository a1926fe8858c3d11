"""Partitions that come and go under load cost no job, and no producer its transaction."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from pgcdc_outbox.errors import OutboxError
from pgcdc_outbox.postgres.partition.maintenance import Maintenance, Report
from tests.faults.crew import PATIENCE
from tests.faults.producers import Busy
from tests.faults.scene import Scene
from tests.faults.truth import Claim
from tests.wait import eventually

HOUR = timedelta(hours=1)
FOR_EVER = timedelta(days=365)
WAITS = timedelta(milliseconds=300)


def maintain(scene: Scene, retention: timedelta) -> Report | None:
    """One run of maintenance; None if a lock was not to be had."""
    try:
        return Maintenance(scene.dsn, interval=HOUR, retention=retention, lock_timeout=WAITS).once()
    except OutboxError as error:
        if not error.transient:
            raise

        return None


def put_old(scene: Scene, hours: int) -> None:
    """Commit jobs that are as old as that, so that their partition is past any retention."""
    jobs = tuple(scene.truth.plan() for _ in range(5))
    with psycopg.connect(scene.dsn) as connection:
        connection.cursor().executemany(
            "insert into outbox.immediate (payload, key, created_at) "
            "values (%s, 'old', clock_timestamp() - make_interval(hours => %s))",
            [(f'{{"seq": {job.seq}}}'.encode(), hours) for job in jobs],
        )

    scene.truth.claim(Claim(producer="old", key="old", jobs=jobs, fate="committed"))


def partitions(scene: Scene) -> set[str]:
    rows = scene.outbox.rows(
        "select relname from pg_inherits join pg_class on pg_class.oid = inhrelid "
        "where inhparent = 'immediate'::regclass"
    )
    return {name for (name,) in rows}


@contextmanager
def unhindered(scene: Scene) -> Iterator[None]:
    """Produce all the while, and see that it never fails."""
    with Busy(scene.dsn, scene.truth) as producer, scene.watched():
        yield

    assert not producer.errors


@pytest.mark.any_version
def test_made_filled_and_dropped_while_jobs_flow(scene: Scene) -> None:
    worker = scene.crew.start(consumer={"maintenance": True})
    made: set[str] = set()

    def make() -> set[str]:
        # The consumer does so too, and may be quicker.
        maintain(scene, FOR_EVER)
        return {name for name in partitions(scene) if name < today} - made

    def drop() -> bool:
        maintain(scene, timedelta(days=10))
        return not made & partitions(scene)

    today = f"immediate_{datetime.now(UTC):%Y%m%d}"
    with unhindered(scene):
        for hours in (300, 400, 500):
            put_old(scene, hours)
            made |= eventually(make, PATIENCE)
            scene.executed(30)

        eventually(drop, PATIENCE)

    assert worker.alive
    scene.conclude()


@pytest.mark.any_version
def test_attached_and_detached_by_hand_while_jobs_flow(scene: Scene) -> None:
    """The reader learns of each change through the log."""
    worker = scene.crew.start()
    with unhindered(scene):
        for n in range(5):
            name = f"by_hand_{n}"
            scene.outbox.rows(f"create table {name} (like immediate including all)")
            scene.outbox.rows(
                f"alter table immediate attach partition {name} "
                f"for values from ('19{n}0-01-01') to ('19{n}1-01-01')"
            )
            scene.executed(10)
            scene.outbox.rows(f"alter table immediate detach partition {name}")
            scene.outbox.rows(f"drop table {name}")
            scene.executed(10)

    assert worker.alive
    scene.conclude()


def test_dropped_before_the_log_was_read(scene: Scene, mode: str) -> None:
    """Not by maintenance, which waits. What the slot holds comes all the same."""
    if mode != "logical":
        pytest.skip("polling finds nothing in a table that is gone, and does not promise to")

    assert scene.crew.start(once=True).process.wait(PATIENCE) == 0
    put_old(scene, 300)
    report = eventually(lambda: maintain(scene, FOR_EVER), PATIENCE)
    assert report
    for name in report.created:
        scene.outbox.rows(f"drop table {name}")

    scene.conclude()
    assert scene.truth.jobs("committed").keys() <= scene.truth.done
