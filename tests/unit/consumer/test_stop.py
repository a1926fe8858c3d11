"""A request to end, from anywhere."""

import signal
import threading

import anyio
import pytest
from anyio import to_thread

from pgcdc_outbox.consumer.stop import Stop
from tests.unit.consumer.fakes import PATIENCE


async def test_the_first_request_drains_and_the_second_insists() -> None:
    stop = Stop()
    assert not stop.asked

    stop.ask()
    assert stop.asked
    with anyio.fail_after(PATIENCE):
        await stop.wait()

    with anyio.move_on_after(0) as scope:
        await stop.wait_insisted()

    assert scope.cancelled_caught

    stop.ask()
    with anyio.fail_after(PATIENCE):
        await stop.wait_insisted()


async def test_it_wakes_who_waits() -> None:
    stop = Stop()

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(stop.wait)
            group.start_soon(stop.wait_insisted)
            await anyio.lowlevel.checkpoint()
            stop.ask()
            stop.ask()


@pytest.mark.parametrize("kind", ["worker", "foreign"])
async def test_another_thread_may_ask(kind: str) -> None:
    stop = Stop()
    thread = threading.Thread(target=stop.ask)

    with anyio.fail_after(PATIENCE):
        if kind == "worker":
            await to_thread.run_sync(stop.ask)
        else:
            thread.start()

        await stop.wait()
        if kind == "foreign":
            await to_thread.run_sync(thread.join)


async def test_a_signal_handler_may_ask() -> None:
    """Even while the loop sleeps, and nothing but the signal wakes it."""
    stop = Stop()
    before = signal.signal(signal.SIGUSR1, lambda *_: stop.ask())
    loop_thread = threading.get_ident()
    timer = threading.Timer(0.05, signal.pthread_kill, (loop_thread, signal.SIGUSR1))
    try:
        with anyio.move_on_after(PATIENCE) as scope:
            timer.start()
            await stop.wait()

        assert anyio.current_time() < scope.deadline, "the loop slept on"
    finally:
        signal.signal(signal.SIGUSR1, before)
        timer.join()
