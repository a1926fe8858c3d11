"""One run: producers and a consumer side by side, until there is nothing left to wait for."""

import secrets
import signal
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import anyio
import psycopg
from anyio import to_thread

from pgcdc_outbox.app import Consumer
from pgcdc_outbox.core.retry import RetryPolicy
from pgcdc_outbox.demo.handler import OrderHandler
from pgcdc_outbox.demo.orders import MAX_ATTEMPTS
from pgcdc_outbox.demo.producers import Producers
from pgcdc_outbox.demo.record import Record
from pgcdc_outbox.demo.screen import Screen
from pgcdc_outbox.events import Event, Streaming
from pgcdc_outbox.postgres.report.lag import measure

# The longest delay of a job, its retries, and patience with a busy machine.
_SETTLE_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.05
_SHOW_SECONDS: Final = 0.2

_PASSED: Final = """
select bool_and(confirmed_flush_lsn >= %s::pg_lsn)
from pg_replication_slots
where database = current_database()
"""


class Trial:
    """Places orders and handles their jobs.

    Ends the orders after ``seconds``, after so many ``orders``, or at the first
    signal; a second signal raises KeyboardInterrupt.
    """

    def __init__(
        self, dsn: str, *, seconds: float | None, orders: int | None, screen: Screen
    ) -> None:
        self.name = secrets.token_hex(4)
        self.record = Record()
        self.lag_bytes: int | None = None
        self._dsn = dsn
        self._seconds = seconds
        self._orders = orders
        self._screen = screen
        self._consumer = Consumer(
            dsn,
            OrderHandler(self.name, self.record),
            # Nobody waits while the failures of another batch are written down.
            concurrency=4,
            retry=RetryPolicy(max_attempts=MAX_ATTEMPTS, first_delay=0.2),
            observers=[self._watch],
        )

    async def run(self) -> None:
        """Run it to the end, which is when every job is settled, or overdue."""
        self._streaming, self._consumed = anyio.Event(), anyio.Event()
        self._ended = anyio.Event()
        self._started = time.monotonic()
        interrupted = False
        async with anyio.create_task_group() as group:

            async def heed_signals() -> None:
                nonlocal interrupted
                async for _ in signals:
                    interrupted = self._ended.is_set()
                    self._ended.set()
                    if interrupted:
                        group.cancel_scope.cancel()

            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                group.start_soon(heed_signals)
                group.start_soon(self._consume)
                await self._streaming.wait()
                group.start_soon(self._show_progress)
                await self._place_orders()
                await self._settle()
                self._consumer.stop()
                await self._consumed.wait()
                group.cancel_scope.cancel()

        if interrupted:
            raise KeyboardInterrupt

        self._show(last=True)

    def _watch(self, event: Event) -> None:
        if isinstance(event, Streaming):
            self._streaming.set()

    async def _consume(self) -> None:
        try:
            await self._consumer.run()
        finally:
            self._ended.set()
            self._consumed.set()

    async def _place_orders(self) -> None:
        producers = Producers(self._dsn, self.name, self.record, orders=self._orders)
        self._started = time.monotonic()
        async with anyio.create_task_group() as group:
            if self._seconds is not None:
                group.start_soon(self._end_after, self._seconds)

            await producers.run(self._ended)
            group.cancel_scope.cancel()

        self._ended.set()

    async def _end_after(self, seconds: float) -> None:
        await anyio.sleep(seconds)
        self._ended.set()

    async def _settle(self) -> None:
        """Wait until every job was handled or given up, and the log confirmed up to there."""

        async def decided() -> bool:
            return not self.record.waiting

        async def passed() -> bool:
            return bool(await _value(connection, _PASSED, end))

        with anyio.move_on_after(_SETTLE_SECONDS):
            await _until(decided)
            async with await psycopg.AsyncConnection.connect(
                self._dsn, autocommit=True
            ) as connection:
                end = await _value(connection, "select pg_current_wal_lsn()::text")
                await _until(passed)

        lag = await to_thread.run_sync(partial(measure, self._dsn, consumer=self._consumer.name))
        self.lag_bytes = lag.consumers[0].lag_bytes if lag.consumers else None

    async def _show_progress(self) -> None:
        while True:
            self._show()
            await anyio.sleep(_SHOW_SECONDS)

    def _show(self, *, last: bool = False) -> None:
        record = self.record
        committed, handled, dead = (
            len(record.committed),
            len(record.succeeded),
            len(record.exhausted),
        )
        self._screen.show(
            time.monotonic() - self._started,
            {
                "committed": committed,
                "rolled back": len(record.rolled_back),
                "handled": handled,
                "dead": dead,
                "to come": max(0, committed - handled - dead),
            },
            last=last,
        )


async def _until(holds: Callable[[], Awaitable[bool]]) -> None:
    while not await holds():  # noqa: ASYNC110 -- half of it only the server knows
        await anyio.sleep(_POLL_SECONDS)


async def _value(
    connection: psycopg.AsyncConnection[tuple[object, ...]], statement: str, *parameters: object
) -> object:
    row = await (await connection.execute(statement.encode(), parameters)).fetchone()
    assert row is not None
    return row[0]
