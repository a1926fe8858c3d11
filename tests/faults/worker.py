"""A consumer in a process of its own, that can be killed at any event.

    python -m tests.faults.worker ORDER

``ORDER`` is a file, so that what a failed test started can be started again.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import msgspec
from msgspec import Struct

from pgcdc_outbox import Consumer, Job, RetryPolicy
from pgcdc_outbox.events import Event
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.observers.log import LogObserver
from tests.faults.truth import Body, Execution, append


class Order(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a worker is to do."""

    name: str
    dsn: str
    folder: str
    consumer: dict[str, Any]
    """Settings of the `Consumer`."""
    max_attempts: int
    kill_at: tuple[str, int] | None = None
    """The event, and the how manyth of it, at which the process kills itself."""
    seconds: float = 0.0
    """How long a call takes."""
    blocks: bool = False
    """Whether it blocks the event loop for that long."""
    wedged: bool = False
    """Whether a call never ends, unless there is a file ``go``."""
    once: bool = False


class Told(Struct, frozen=True, kw_only=True):
    """An event as a worker writes it down."""

    at: float
    event: str
    detail: dict[str, Any]


class Teller:
    """An observer that writes down every event, and dies at one."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._folder = Path(order.folder)
        self._seen = 0

    def __call__(self, event: Event) -> None:
        name = type(event).__name__
        told = Told(at=time.monotonic(), event=name, detail=_plain(event))
        append(self._folder / f"{self._order.name}.events", [told])
        if self._order.kill_at is not None and self._order.kill_at[0] == name:
            self._seen += 1
            if self._seen == self._order.kill_at[1]:
                os.kill(os.getpid(), signal.SIGKILL)


def _plain(event: Event) -> dict[str, Any]:
    values = {field: getattr(event, field) for field in event.__struct_fields__}
    # A position in the log is an integer with a text of its own.
    return {name: int(v) if isinstance(v, LSN) else v for name, v in values.items()}


class Handler:
    """A handler that writes down what it got, just before it returns."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._folder = Path(order.folder)

    async def __call__(self, jobs: Sequence[Job]) -> list[int]:
        began = time.monotonic()
        if self._order.blocks:
            time.sleep(self._order.seconds)
        elif self._order.seconds:
            await anyio.sleep(self._order.seconds)

        while self._order.wedged and not (self._folder / "go").exists():
            await anyio.sleep(0.02)

        runs = [self._execution(job, began) for job in jobs]
        append(self._folder / "executed", runs)
        return [run.id for run in runs if run.failed]

    def _execution(self, job: Job, began: float) -> Execution:
        body = job.json(Body)
        return Execution(
            worker=self._order.name,
            pid=os.getpid(),
            seq=body.seq,
            id=job.id,
            topic=job.topic,
            key=job.key,
            attempt=job.attempt,
            failed=job.attempt <= body.fails,
            began=began,
            at=time.monotonic(),
        )


async def main(order: Order) -> int:
    """Consume until a signal asks to stop; returns the exit code."""
    policy = RetryPolicy(max_attempts=order.max_attempts, first_delay=0.05, max_delay=0.2)
    consumer = Consumer(
        order.dsn,
        Handler(order),
        retry=policy,
        observers=[Teller(order), LogObserver()],
        **order.consumer,
    )
    async with anyio.create_task_group() as group:

        async def heed_signals() -> None:
            async for _ in signals:
                consumer.stop()

        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            group.start_soon(heed_signals)
            abandoned = await consumer.run(once=order.once)
            group.cancel_scope.cancel()

    return 1 if abandoned else 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s")
    sys.exit(anyio.run(main, msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Order)))
