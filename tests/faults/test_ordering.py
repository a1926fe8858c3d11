"""The order of keys, whatever is killed: as it is promised, and shown by what handlers wrote down.

Several keys are written at once, jobs of each fail, and the audit looks at every execution:
none meets another of its key, and with strict order none starts before those that were
committed earlier are done or dead.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from pgcdc_outbox.core.lanes import Ordering
from tests.faults.producers import Busy
from tests.faults.scene import Scene

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version
POLLS_IN_SLOW_RUN = True

ORDERINGS: tuple[Ordering, ...] = ("key", "strict_key")

KILLS = {
    "BatchStarted": 20,
    "BatchHandled": 20,
    "OutcomesRecorded": 5,
    "JobsParked": 5,
    "JobsReleased": 3,
    "BatchSettled": 20,
    "Promoted": 3,
    "CheckpointSaved": 3,
}
"""Events at which something that order depends on is half done, and the how manyth of them."""


@contextmanager
def keys(scene: Scene, count: int = 3, *, failing: float = 0.08) -> Iterator[None]:
    """Producers of a key each, and somebody who watches the slot."""
    with ExitStack() as stack:
        stack.enter_context(scene.watched())
        for n in range(count):
            stack.enter_context(
                Busy(scene.dsn, scene.truth, name=f"k{n}", seed=n, pause=0.1, failing=failing)
            )

        yield


@pytest.mark.parametrize("event", KILLS)
def test_killed_at(scene: Scene, event: str) -> None:
    scene.order("strict_key", concurrency=4, batch_size=3)
    with keys(scene):
        scene.crew.start(kill_at=(event, KILLS[event]), seconds=0.002).died()
        scene.crew.start(seconds=0.002)
        scene.executed(50)

    scene.conclude()


@pytest.mark.parametrize("ordering", ORDERINGS)
def test_killed_again_and_again(scene: Scene, ordering: Ordering) -> None:
    kill_again_and_again(scene, ordering, rounds=5)


@pytest.mark.slow
@pytest.mark.parametrize("ordering", ORDERINGS)
@pytest.mark.parametrize("batch_size", [1, 10])
def test_killed_a_hundred_times(scene: Scene, ordering: Ordering, batch_size: int) -> None:
    kill_again_and_again(scene, ordering, rounds=100, batch_size=batch_size)


def kill_again_and_again(
    scene: Scene, ordering: Ordering, *, rounds: int, batch_size: int = 3
) -> None:
    """At no particular moment; each time another instance takes over."""
    scene.order(ordering, concurrency=4, batch_size=batch_size)
    with keys(scene):
        for n in range(rounds):
            worker = scene.crew.start(seconds=0.002)
            worker.saw("Connecting")
            time.sleep(0.1 + 0.05 * (n % 8))  # the moment is the test, and nothing is awaited
            worker.kill()

        scene.crew.start(seconds=0.002)
        scene.executed(50)

    scene.conclude(timeout=300)


@pytest.mark.parametrize("ordering", ORDERINGS)
def test_a_hold_that_is_lost(scene: Scene, ordering: Ordering) -> None:
    scene.order(ordering, concurrency=4, batch_size=3)
    with keys(scene):
        scene.crew.start(seconds=0.002)
        scene.crew.start(seconds=0.002)
        for _ in range(4):
            scene.executed(30)
            with scene.losing_the_hold("connections", unnoticed=2.0):
                scene.end_connections()

        scene.executed(30)

    scene.conclude()
