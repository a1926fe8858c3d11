"""A server that restarts, crashes or loses a process costs no job, and hardly a second."""

import time

import pytest

from pgcdc_outbox.testing import PostgresServer
from tests.faults.crew import PATIENCE
from tests.faults.scene import Scene
from tests.faults.worker import Told
from tests.wait import eventually

STOPPED_WITHIN = 45.0
"""Seconds that a server may take to stop, whatever a consumer does: less than its patience."""

BACK_WITHIN = 45.0
"""Seconds after which a consumer has to be at work again: less than the server's patience."""


@pytest.fixture(params=["fast", pytest.param("immediate", marks=pytest.mark.slow), "kill"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def stop(server: PostgresServer, how: str) -> None:
    """Stop a server in one of three ways, and see that it goes."""
    started = time.monotonic()
    if how == "kill":
        server.kill()
    else:
        server.stop("fast" if how == "fast" else "immediate", timeout=STOPPED_WITHIN)

    assert time.monotonic() - started < STOPPED_WITHIN, "the server had to wait for the consumer"


def test_restarted_while_idle(own_server: PostgresServer, own_scene: Scene, how: str) -> None:
    worker = own_scene.crew.start()
    own_scene.handled(own_scene.put(3))
    with own_scene.truth.breaking(how, resets=True):
        stop(own_server, how)
        own_server.resume()

    own_scene.handled(own_scene.put(3), timeout=BACK_WITHIN)
    assert worker.alive
    own_scene.conclude()


def test_restarted_while_busy(own_server: PostgresServer, own_scene: Scene, how: str) -> None:
    """The consumer lives on, so nothing that it has finished comes again."""
    worker = own_scene.crew.start(seconds=0.01)
    with own_scene.busy():
        for _ in range(2):
            own_scene.executed(50)
            with own_scene.truth.breaking(how, resets=True):
                stop(own_server, how)
                own_server.resume()

        own_scene.executed(50, timeout=BACK_WITHIN)

    assert worker.alive
    own_scene.conclude()


def test_restarted_while_a_call_does_not_end(
    own_server: PostgresServer, own_scene: Scene, how: str
) -> None:
    """The server need not wait for it longer than for the consumer's drain."""
    worker = own_scene.crew.start(wedged=True, consumer={"drain_timeout": 1.0})
    worker.reads()
    own_scene.put(25)
    eventually(lambda: own_scene.crew.told("BatchStarted"), PATIENCE)
    with own_scene.truth.breaking(how, resets=True):
        stop(own_server, how)
        own_server.resume()

    eventually(lambda: own_scene.crew.told("HandlersAbandoned"), PATIENCE)
    (own_scene.truth.folder / "go").touch()
    own_scene.conclude()


@pytest.mark.any_version
def test_the_server_and_the_consumer_die_together(
    own_server: PostgresServer, own_scene: Scene
) -> None:
    """What the server had not saved is known from the checkpoint alone."""
    with own_scene.busy():
        for _ in range(2):
            worker = own_scene.crew.start()
            own_scene.executed(100)
            with own_scene.forgetting("all"):
                own_server.kill()
                worker.kill()
                own_server.resume()

    own_scene.conclude()


@pytest.mark.any_version
def test_stopped_while_the_server_is_away(own_server: PostgresServer, own_scene: Scene) -> None:
    """Nobody can be told then what was finished: it is as if the process had died."""
    worker = own_scene.crew.start()
    with own_scene.busy():
        own_scene.executed(100)
        with own_scene.forgetting("away"):
            own_server.kill()
            worker.saw("Disconnected")
            worker.process.terminate()
            assert worker.process.wait(PATIENCE) == 0, worker.log.read_text()
            own_server.resume()

        own_scene.crew.start()
        own_scene.executed(50)

    own_scene.conclude()


@pytest.mark.any_version
@pytest.mark.parametrize("event", ["ChoreFailed", "Disconnected"])
def test_stopped_while_failures_cannot_be_recorded(
    own_server: PostgresServer, own_scene: Scene, event: str
) -> None:
    """The call has ended, so none is abandoned; its jobs come again."""
    worker = own_scene.crew.start(wedged=True, consumer={"drain_timeout": 3.0})
    worker.reads()
    own_scene.put(5, fails=1)
    worker.saw("BatchStarted")
    with own_scene.forgetting("away"):
        # Its time to drain must not begin before the call is allowed to end.
        worker.pause()
        own_server.kill()
        (own_scene.truth.folder / "go").touch()
        worker.resume()
        eventually(
            lambda: [told for told in worker.told(event) if _names_the_ledger(told)], PATIENCE
        )
        assert worker.stop() == 0, worker.log.read_text()
        own_server.resume()

    assert not worker.told("HandlersAbandoned")
    own_scene.conclude()


def _names_the_ledger(told: Told) -> bool:
    """Whether it tells that failures could not be recorded, if it tells of a chore."""
    return told.detail.get("chore", "record outcomes") == "record outcomes"


@pytest.mark.parametrize("mode", ["logical"])
def test_the_reader_s_process_is_ended(own_scene: Scene) -> None:
    worker = own_scene.crew.start()
    with own_scene.busy():
        for _ in range(2):
            own_scene.executed(50)
            with own_scene.truth.breaking("terminate"):
                own_scene.outbox.end_slot_reader()

        own_scene.executed(50, timeout=BACK_WITHIN)

    assert worker.alive
    own_scene.conclude()


@pytest.mark.parametrize("mode", ["logical"])
def test_the_reader_s_process_is_killed(own_scene: Scene) -> None:
    """The server then ends every connection, and recovers as after a crash."""
    worker = own_scene.crew.start()
    with own_scene.busy():
        own_scene.executed(100)
        worker.reads()
        with own_scene.truth.breaking("kill the walsender", resets=True):
            own_scene.kill_the_reader()

        own_scene.executed(100, timeout=BACK_WITHIN)

    assert worker.alive
    own_scene.conclude()
