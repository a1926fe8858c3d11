"""A server that is told to stop gets to stop, whatever its consumers are doing."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import anyio
import pytest
from anyio import to_thread

from pgcdc_outbox import Job
from pgcdc_outbox.core.shutdown import Burst
from pgcdc_outbox.events import Disconnected, ServerDraining, StandingBy, Streaming
from pgcdc_outbox.postgres.migrate import migrate
from pgcdc_outbox.postgres.source.checkpoint import Checkpointer
from tests.harness import Outbox, Recorder, Watcher, consumer, running, streaming
from tests.wait import eventually_async

pytestmark = pytest.mark.anyio

MODES = pytest.mark.parametrize("mode", ["smart", "fast"])
GRACE = 1.0
# To notice a smart shutdown takes five seconds, a fast one a second. Then the grace, and
# a few seconds to close; machines that run tests are slow. Whoever waits for a wedged call,
# or for a consumer to confirm, takes a minute or for ever.
NOTICED = {"smart": 5.0, "fast": 1.0}
SLACK = 40.0


class Wedged(Recorder):
    """Takes the job "wedged" and does not return while the first hold lasts."""

    def __init__(self) -> None:
        super().__init__()
        self.release = anyio.Event()

    async def __call__(self, jobs: Sequence[Job]) -> Any:
        await super().__call__(jobs)
        if any(job.json() == "wedged" for job in jobs):
            await self.release.wait()


@pytest.fixture
def stopping(fresh_server: Any) -> tuple[Any, Outbox]:
    server = fresh_server()
    migrate(server.dsn())
    return server, Outbox(server.dsn())


async def stop(server: Any, mode: str, within: float) -> float:
    """Stop the server; how long it took. A harder mode would be no answer."""
    begun = time.monotonic()
    await to_thread.run_sync(lambda: server.stop(mode, timeout=within))
    took = time.monotonic() - begun
    assert took < within, f"the server did not stop within {within} s of {mode!r}"
    return took


@MODES
async def test_it_stops_beside_an_idle_consumer(stopping: tuple[Any, Outbox], mode: str) -> None:
    server, outbox = stopping
    recorder, watcher = Recorder(), Watcher()
    async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
        before = outbox.put([1])
        await recorder.got(1)
        await stop(server, mode, NOTICED[mode] + SLACK)
        await watcher.saw(Disconnected)
        await to_thread.run_sync(server.resume)
        await watcher.saw(Streaming, 2, timeout=120)
        after = outbox.put([2])
        await recorder.got(2)

    assert recorder.ids == before + after


@MODES
async def test_it_stops_beside_a_wedged_call(stopping: tuple[Any, Outbox], mode: str) -> None:
    server, outbox = stopping
    handler, watcher = Wedged(), Watcher()
    subject = consumer(
        outbox,
        handler,
        observers=[watcher],
        batch_size=1,
        concurrency=2,
        drain_timeout=60,
        shutdown_grace=GRACE,
    )
    async with streaming(subject, watcher):
        (wedged,) = outbox.put(["wedged"])
        await handler.got(1)
        done = [id_ for n in range(5) for id_ in outbox.put([n])]
        await handler.got(6)
        await stop(server, mode, NOTICED[mode] + GRACE + SLACK)
        draining = await watcher.saw(ServerDraining)
        assert draining.grace_seconds == GRACE
        await to_thread.run_sync(server.resume)
        handler.release.set()
        await watcher.saw(Streaming, 2, timeout=120)
        last = outbox.put(["last"])
        await handler.until(lambda: last[0] in handler.ids)

    # The wedged call ended at last, and counts.
    assert handler.ids == [wedged, *done, *last]


@MODES
async def test_an_abandoned_call_is_all_that_comes_again(
    stopping: tuple[Any, Outbox], mode: str
) -> None:
    server, outbox = stopping
    handler, watcher = Wedged(), Watcher()
    subject = consumer(
        outbox,
        handler,
        observers=[watcher],
        batch_size=1,
        concurrency=2,
        drain_timeout=2,
        shutdown_grace=GRACE,
    )
    async with streaming(subject, watcher):
        wedged = outbox.put(["wedged"])
        await handler.got(1)
        done = [id_ for n in range(5) for id_ in outbox.put([n])]
        await handler.got(6)
        await stop(server, mode, NOTICED[mode] + GRACE + SLACK)
        await watcher.saw(Disconnected)
        handler.release.set()
        await to_thread.run_sync(server.resume)
        await handler.until(lambda: handler.ids.count(wedged[0]) == 2, timeout=120)

    assert handler.ids == [*wedged, *done, *wedged]


@MODES
async def test_it_stops_beside_a_huge_backlog(stopping: tuple[Any, Outbox], mode: str) -> None:
    server, outbox = stopping
    handler, watcher = Wedged(), Watcher()
    subject = consumer(
        outbox,
        handler,
        observers=[watcher],
        batch_size=1,
        prefetch=10,
        drain_timeout=2,
        shutdown_grace=GRACE,
    )
    async with streaming(subject, watcher):
        (wedged,) = outbox.put(["wedged"])
        await handler.got(1)
        # Far more than fits between the two: the server cannot send it.
        await to_thread.run_sync(
            outbox.rows,
            "insert into immediate (payload) select convert_to(to_json(repeat('x', 1000))::text, "
            "'UTF8') from generate_series(1, 100000)",
        )
        await stop(server, mode, NOTICED[mode] + GRACE + SLACK)
        await watcher.saw(Disconnected)
        handler.release.set()
        await to_thread.run_sync(server.resume)
        await handler.until(lambda: handler.ids.count(wedged) == 2, timeout=120)
        assert outbox.value("select count(*) from immediate") == 100_001


@MODES
async def test_it_stops_beside_one_that_polls(stopping: tuple[Any, Outbox], mode: str) -> None:
    server, outbox = stopping
    handler, watcher = Wedged(), Watcher()
    subject = consumer(
        outbox,
        handler,
        observers=[watcher],
        mode="polling",
        drain_timeout=60,
        shutdown_grace=GRACE,
    )
    async with streaming(subject, watcher):
        (wedged,) = outbox.put(["wedged"])
        await handler.got(1)
        await stop(server, mode, NOTICED[mode] + GRACE + SLACK)
        if mode == "smart":  # after a fast one there is soon nobody left to ask
            await watcher.saw(ServerDraining)

        handler.release.set()
        await to_thread.run_sync(server.resume)
        (last,) = outbox.put(["last"])
        await handler.until(lambda: last in handler.ids, timeout=120)

    assert handler.ids == [wedged, last]


async def test_keepalives_in_a_burst_tell_of_a_shutdown(
    stopping: tuple[Any, Outbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Looked at so seldom, the connection of the lock tells nothing.
    monkeypatch.setattr("pgcdc_outbox.postgres.source.shutdown._LOOK_SECONDS", 600.0)
    monkeypatch.setattr("pgcdc_outbox.postgres.source.lock._CHECK_SECONDS", 600.0)
    monkeypatch.setattr("pgcdc_outbox.postgres.source.lock.IDLE_SECONDS", 600)
    monkeypatch.setattr(Checkpointer, "OTHERS_SECONDS", 600.0)
    # A loaded machine does not answer twenty times in a second.
    monkeypatch.setattr("pgcdc_outbox.postgres.source.reader.Burst", partial(Burst, within=10.0))
    server, outbox = stopping
    handler, watcher = Wedged(), Watcher()
    subject = consumer(
        outbox,
        handler,
        observers=[watcher],
        drain_timeout=2,
        shutdown_grace=GRACE,
        checkpoint_interval=600,
    )
    async with streaming(subject, watcher):
        outbox.put(["wedged"])
        await handler.got(1)
        # From here on nothing is asked on that connection.
        await eventually_async(lambda: _rests(outbox))
        await stop(server, "fast", NOTICED["fast"] + GRACE + SLACK)
        draining = await watcher.saw(ServerDraining)
        handler.release.set()

    assert draining.sign == "it asks for nothing but our position"


async def test_a_consumer_that_stands_by_lets_the_server_stop_too(
    stopping: tuple[Any, Outbox],
) -> None:
    server, outbox = stopping
    first, second = Watcher(), Watcher()
    async with (
        streaming(consumer(outbox, Recorder(), observers=[first]), first),
        running(consumer(outbox, Recorder(), observers=[second])),
    ):
        await second.saw(StandingBy)
        await stop(server, "smart", NOTICED["smart"] + SLACK)
        await first.saw(Disconnected)
        await second.saw(Disconnected)


async def _rests(outbox: Outbox) -> bool:
    return bool(
        outbox.rows(
            "select from pg_stat_activity where application_name like 'pgcdc-outbox/%%' "
            "and backend_type = 'client backend' and state = 'idle' "
            "and clock_timestamp() - state_change > '1 second'"
        )
    )
