"""One transaction of very many jobs, with a consumer that dies in the middle of it."""

import pytest

from pgcdc_outbox.job import NewJob
from pgcdc_outbox.postgres.producer.client import Client
from tests.faults.crew import PATIENCE
from tests.faults.scene import Scene
from tests.faults.truth import Claim

pytestmark = pytest.mark.any_version
POLLS_IN_SLOW_RUN = True

MIB = 1024 * 1024


def put_at_once(scene: Scene, count: int) -> int:
    """Commit so many jobs in one transaction, with a savepoint of them taken back."""
    jobs = tuple(scene.truth.plan() for _ in range(count))
    with Client(scene.dsn) as client:
        client.enqueue_many([NewJob(payload={"seq": job.seq}, key="large") for job in jobs])

    scene.truth.claim(Claim(producer="large", key="large", jobs=jobs, fate="committed"))
    return count


@pytest.mark.parametrize("count", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("streaming", [False, True], ids=["table", "log"])
def test_killed_in_the_middle(scene: Scene, count: int, streaming: bool) -> None:
    settings = {"batch_size": 100}
    if streaming:
        assert scene.crew.start(once=True).process.wait(PATIENCE) == 0

    put_at_once(scene, count)
    with scene.watched():
        worker = scene.crew.start(consumer=settings)
        scene.executed(count // 2, timeout=300)
        peak = worker.peak_memory
        # Nothing of a transaction is confirmed before all of it is settled, and however
        # long that took, it comes again.
        with scene.truth.breaking("kill in a transaction", again=float("inf")):
            worker.kill()

        last = scene.crew.start(consumer=settings)
        scene.handled(list(scene.truth.jobs("committed").values()), timeout=300)
        peak = max(peak, last.peak_memory)

    assert peak < 200 * MIB
    scene.conclude()
