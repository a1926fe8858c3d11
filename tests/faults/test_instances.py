"""Several processes of one name: one runs, the others wait, and no job is executed twice."""

import time

import pytest

from tests.faults.crew import PATIENCE
from tests.faults.scene import Scene
from tests.wait import eventually

pytestmark = pytest.mark.any_version
POLLS_IN_SLOW_RUN = True

TAKEN_OVER_WITHIN = 5.0
"""Seconds after which another instance works when one was killed."""

HANDED_OVER_WITHIN = 2.0
"""Seconds after which another instance works when one was stopped."""

TURNS = 3
"""A machine that stands still for a moment spoils one of them, not the quickest."""


@pytest.mark.parametrize("count", [2, 5])
def test_a_thousand_jobs_are_a_thousand_executions(scene: Scene, count: int) -> None:
    for _ in range(count):
        scene.crew.start()

    jobs = [job for _ in range(10) for job in scene.put(50)]
    scene.handled(jobs[:100])
    jobs += [job for _ in range(10) for job in scene.put(50)]
    scene.handled(jobs)
    eventually(lambda: len(scene.crew.told("StandingBy")) == count - 1, PATIENCE)

    assert len(scene.truth.executions) == 1000
    scene.conclude()


def test_another_takes_over_from_one_that_is_killed(scene: Scene) -> None:
    with scene.busy():
        running = scene.crew.start()
        running.reads()
        took = []
        for _ in range(TURNS):
            waiting = scene.crew.start()
            waiting.saw("StandingBy")
            scene.executed(30)
            running.kill()
            killed = time.monotonic()
            took.append(waiting.saw("BatchSettled").at - killed)
            running = waiting

    assert min(took) < TAKEN_OVER_WITHIN
    scene.conclude()


def test_another_takes_over_from_one_that_is_stopped(scene: Scene) -> None:
    """And there is no reason for any job to come again."""
    with scene.busy():
        running = scene.crew.start()
        running.reads()
        took = []
        for _ in range(TURNS):
            waiting = scene.crew.start()
            waiting.saw("StandingBy")
            scene.executed(30)
            assert running.stop() == 0
            stopped = time.monotonic()
            took.append(waiting.saw("BatchSettled").at - stopped)
            running = waiting

    assert min(took) < HANDED_OVER_WITHIN
    scene.conclude()


@pytest.mark.parametrize("fails", [0, 9])
def test_one_that_slept_while_another_took_over_records_nothing(scene: Scene, fails: int) -> None:
    """Its clock stood still in the middle of a call; its connections are gone when it wakes."""
    scene.ordered = False
    sleeper = scene.crew.start(wedged=True)
    sleeper.reads()
    jobs = scene.put(5, fails=fails)
    with scene.watched(), scene.losing_the_hold("sleep"):
        sleeper.saw("BatchStarted")
        sleeper.pause()
        scene.end_connections()
        other = scene.crew.start()
        scene.handled(jobs)
        (scene.truth.folder / "go").touch()
        sleeper.resume()
        # The call that it was in the middle of is cancelled, or ends in vain.
        sleeper.saw("StandingBy")

    assert not sleeper.told("OutcomesRecorded")
    other.at_work()
    scene.handled(scene.put(5))
    assert sleeper.alive
    scene.conclude()
