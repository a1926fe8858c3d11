"""A consumer that is killed at any moment loses nothing, and repeats only what was not settled."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pgcdc_outbox import events
from tests.faults.conftest import MODES
from tests.faults.crew import PATIENCE, Worker
from tests.faults.scene import Scene

KILLS: dict[str, int] = {
    "Connecting": 1,
    "Polling": 1,
    "SlotCreated": 1,
    "Reconciling": 1,
    "Reconciled": 1,
    "Streaming": 1,
    "BatchStarted": 3,
    "BatchHandled": 3,
    "OutcomesRecorded": 2,
    "BatchSettled": 3,
    "JobDead": 1,
    "Reported": 5,
    "CheckpointSaved": 2,
    "Promoted": 1,
    "Maintained": 1,
}
"""Events of an ordinary life, and the how manyth of them is the last."""

ONLY = {
    "SlotCreated": "logical",
    "Reconciling": "logical",
    "Reconciled": "logical",
    "Streaming": "logical",
    "Reported": "logical",
    "LoopStalled": "logical",
    "Polling": "polling",
}
"""Events that one way of reading has, and the other has not."""

AUTO = {
    "SlotReleased": "the slot keeps too much log, and polling begins",
    "LogUnavailable": "the log cannot be read, and polling begins",
}
"""Events of a consumer that changes how it reads. What follows is killed as `Polling`."""

PROVOKED = {
    "StandingBy": "another instance holds the consumer",
    "ChoreFailed": "a table is away",
    "LoopStalled": "a handler blocks the event loop",
    "Disconnected": "the connection is ended",
    "Stopping": "a stop is asked for",
    "HandlersAbandoned": "a stop is asked for, and a call does not end",
    "Stopped": "a stop is asked for",
}
"""Events that need something else to happen first."""


ELSEWHERE = {
    "CarefulBegan": "test_crashes.py kills it again and again",
    "CarefulEnded": "test_crashes.py kills it again and again",
    "JobCrashed": "test_crashes.py kills it again and again",
    "PredecessorEnded": "the one that it ends was killed already",
    "JobsParked": "test_ordering.py kills at it, where the order is strict",
    "JobsReleased": "test_ordering.py kills at it, where the order is strict",
    "OrderGivenUp": "told at a start, before anything runs",
    "SchedulesFired": "one statement, of which test_schedules.py runs five at once",
    "ServerDraining": "the server is about to end, and test_server_deaths.py ends both",
}
"""Events of a life that is not ordinary, and where it ends otherwise."""


def test_every_event_is_a_moment_to_be_killed_at() -> None:
    kinds = {kind.__name__ for kind in events.Event.__subclasses__()}

    assert kinds == KILLS.keys() | PROVOKED.keys() | AUTO.keys() | ELSEWHERE.keys()


@pytest.mark.any_version
@pytest.mark.parametrize(
    ("mode", "event"),
    [(mode, event) for mode in MODES for event in KILLS if ONLY.get(event, mode) == mode],
)
def test_killed_at(scene: Scene, event: str) -> None:
    scene.put(25)
    scene.put(2, fails=9)
    consumer = {"maintenance": event == "Maintained"}
    if event == "Maintained":
        # Not in a first start, whose hold may be over before its maintenance is.
        assert scene.crew.start(once=True).process.wait(PATIENCE) == 0

    with scene.busy():
        scene.crew.start(kill_at=(event, KILLS[event]), consumer=consumer).died()
        scene.crew.start()
        scene.executed(30)

    scene.conclude(rerun=False)


@contextmanager
def another_instance(scene: Scene) -> Iterator[None]:
    scene.crew.start().reads()
    yield


@contextmanager
def without_a_table(scene: Scene) -> Iterator[None]:
    scene.crew.start(once=True).process.wait(PATIENCE)
    scene.outbox.rows("alter table scheduled rename to scheduled_away")
    yield
    scene.outbox.rows("alter table scheduled_away rename to scheduled")


@contextmanager
def an_impatient_server(scene: Scene) -> Iterator[None]:
    """Reports are due after a third of the server's patience; what blocks them longer is told."""
    # With a slot there is no backlog to be read from the table first, where nothing reports.
    assert scene.crew.start(once=True).process.wait(PATIENCE) == 0
    name = scene.outbox.value("select quote_ident(current_database())")
    scene.outbox.rows(f"alter database {name} set wal_sender_timeout = '600ms'")
    yield
    scene.outbox.rows(f"alter database {name} reset wal_sender_timeout")


@contextmanager
def nothing(scene: Scene) -> Iterator[None]:
    yield


def end_the_connection(scene: Scene, worker: Worker) -> None:
    worker.reads()
    scene.end_connections()


def ask_to_stop(scene: Scene, worker: Worker) -> None:
    # Not between what it read from the table and from the log: it then runs nothing.
    worker.reads()
    worker.process.send_signal(signal.SIGTERM)


def ask_to_stop_in_a_call(scene: Scene, worker: Worker) -> None:
    worker.saw("BatchStarted")
    worker.process.send_signal(signal.SIGTERM)


def leave_it(scene: Scene, worker: Worker) -> None:
    pass


@pytest.mark.any_version
@pytest.mark.parametrize(
    ("event", "around", "provoke", "order"),
    [
        ("StandingBy", another_instance, leave_it, {}),
        ("ChoreFailed", without_a_table, leave_it, {}),
        ("LoopStalled", an_impatient_server, leave_it, {"blocks": True, "seconds": 1.0}),
        ("Disconnected", nothing, end_the_connection, {}),
        ("Stopping", nothing, ask_to_stop, {}),
        (
            "HandlersAbandoned",
            nothing,
            ask_to_stop_in_a_call,
            {"wedged": True, "consumer": {"drain_timeout": 0.2}},
        ),
        ("Stopped", nothing, ask_to_stop, {}),
    ],
    ids=PROVOKED,
)
def test_killed_when_something_else_went_wrong_before(
    scene: Scene,
    event: str,
    around: Callable[[Scene], Any],
    provoke: Callable[[Scene, Worker], None],
    order: dict[str, Any],
) -> None:
    if ONLY.get(event, scene.mode) != scene.mode:
        pytest.skip(f"there is no {event} when {scene.mode}")

    scene.put(5)
    with around(scene), scene.busy():
        worker = scene.crew.start(kill_at=(event, 1), **order)
        provoke(scene, worker)
        worker.died()

    scene.conclude(rerun=False)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_killed_again_and_again(scene: Scene, concurrency: int) -> None:
    """At no particular moment, five times; with several calls at once, too."""
    scene.ordered = concurrency == 1
    with scene.busy(pause=0.003):
        for n in range(5):
            worker = scene.crew.start(
                consumer={"concurrency": concurrency, "batch_size": 3}, seconds=0.005
            )
            worker.saw("Connecting")
            time.sleep(0.15 * n)  # the moment is the test, and nothing is awaited
            worker.kill()

    scene.conclude()
