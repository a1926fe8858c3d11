"""The producers' processes, started, followed and ended."""

import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Final

import anyio
import msgspec
from anyio.abc import ByteReceiveStream, Process

from pgcdc_outbox.demo.producer import Task
from pgcdc_outbox.demo.record import Order, Record
from pgcdc_outbox.errors import OutboxError

COUNT: Final = 2

_decode = msgspec.json.Decoder(Order).decode


class ProducerFailed(OutboxError):
    """A producer ended before it was told to."""

    default_hint = "What it printed is above; the log of the server may say more."


class Producers:
    """Processes that place the orders of one run, and note them in a record."""

    def __init__(self, dsn: str, run: str, record: Record, *, orders: int | None) -> None:
        self._tasks = [
            Task(dsn=dsn, run=run, first=first, step=COUNT, last=orders)
            for first in range(1, COUNT + 1)
        ]
        self._record = record

    async def run(self, ended: anyio.Event) -> None:
        """Follow them until they are out of numbers, or until ``ended`` is set."""
        async with anyio.create_task_group() as group:
            for task in self._tasks:
                group.start_soon(self._follow, task, ended)

    async def _follow(self, task: Task, ended: anyio.Event) -> None:
        command = [
            sys.executable,
            "-m",
            "pgcdc_outbox.demo.producer",
            msgspec.json.encode(task).decode(),
        ]
        # In a session of its own: Ctrl-C is for us, and we end it in good order.
        process = await anyio.open_process(
            command, stdin=subprocess.PIPE, stderr=None, start_new_session=True
        )
        async with process, anyio.create_task_group() as group:
            group.start_soon(_end, process, ended)
            assert process.stdout is not None
            async for order in _orders(process.stdout):
                self._record.note_order(order)

            code = await process.wait()
            group.cancel_scope.cancel()

        if code:
            raise ProducerFailed(f"a producer ended with code {code}")


async def _end(process: Process, ended: anyio.Event) -> None:
    await ended.wait()
    assert process.stdin is not None
    await process.stdin.aclose()


async def _orders(stream: ByteReceiveStream) -> AsyncIterator[Order]:
    rest = b""
    async for chunk in stream:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield _decode(line)
