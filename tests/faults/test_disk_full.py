"""Tables that take nothing for a while: nothing is lost, nothing is tried in a hot loop."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.faults.crew import PATIENCE, Worker
from tests.faults.scene import Scene
from tests.faults.worker import Told
from tests.wait import eventually

pytestmark = pytest.mark.any_version
POLLS_IN_SLOW_RUN = True

FULL = """
create sequence if not exists tries;
create or replace function full_disk() returns trigger language plpgsql as $$
begin
    perform nextval('outbox.tries');
    raise exception 'could not extend file' using errcode = 'disk_full';
end
$$
"""


@contextmanager
def full_disk(scene: Scene, table: str) -> Iterator[None]:
    """Refuse every write to a table, and count them."""
    scene.outbox.rows(FULL)
    scene.outbox.rows(
        f"create trigger full_disk before insert or update on {table} "
        "for each statement execute function full_disk()"
    )
    yield
    scene.outbox.rows(f"drop trigger full_disk on {table}")


def tries(scene: Scene) -> int:
    return int(
        scene.outbox.value("select case when is_called then last_value else 0 end from tries")
    )


def unrecorded(worker: Worker) -> list[Told]:
    """The failures to record an outcome that it told."""
    return [told for told in worker.told("ChoreFailed") if "record" in told.detail["chore"]]


@pytest.mark.parametrize("table", ["failed", "dead_letter"])
def test_outcomes_wait_until_they_can_be_written(scene: Scene, table: str) -> None:
    """Each failure to write is told, and is followed by a longer pause; no call is repeated."""
    worker = scene.crew.start()
    worker.reads()
    with scene.watched(), full_disk(scene, table):
        jobs = scene.put(3) + scene.put(2, fails=9) + scene.put(3)
        eventually(lambda: len(unrecorded(worker)) >= 5, PATIENCE)

    failures = unrecorded(worker)
    # A tenth of a second, doubled each time, of which at least half is waited for.
    assert failures[4].at - failures[0].at > 0.05 * (1 + 2 + 4 + 8)
    # The last may have been made and not be told yet.
    eventually(lambda: tries(scene) <= len(unrecorded(worker)), PATIENCE)
    scene.handled(jobs)
    assert not worker.told("Disconnected")
    scene.conclude()


@pytest.mark.parametrize("table", ["checkpoint", pytest.param("consumer", marks=pytest.mark.slow)])
def test_a_position_that_cannot_be_written_costs_no_job(scene: Scene, table: str) -> None:
    """The hold is lost and tried for again and again, ever more slowly."""
    worker = scene.crew.start()
    with scene.busy():
        scene.executed(50)
        worker.at_work()
        with full_disk(scene, table):
            if table == "consumer":
                scene.end_connections()

            worker.saw("Disconnected", 5)

        told = worker.told("Disconnected")
        assert told[4].at - told[0].at > 0.05 * (1 + 2 + 4 + 8)
        assert tries(scene) <= len(told) + 1
        scene.executed(50)

    assert worker.alive
    scene.conclude()


def test_rows_that_are_no_jobs_stop_nobody(scene: Scene) -> None:
    """In the log, in the table, and while consumers are killed in between."""
    scene.outbox.rows("alter table immediate drop constraint immediate_headers_check")
    strange = "insert into immediate (payload, headers) values ('1', '[1, 2]')"
    for _ in range(3):
        scene.put(2)
        scene.outbox.rows(strange)

    with scene.busy():
        for _ in range(3):
            worker = scene.crew.start()
            worker.reads()
            scene.outbox.rows(strange)
            scene.executed(20)
            worker.kill()

    scene.conclude()
    eventually(lambda: _undecodable(scene) == 6, PATIENCE)


def _undecodable(scene: Scene) -> int:
    return int(scene.outbox.value("select count(*) from dead_letter where reason = 'undecodable'"))
