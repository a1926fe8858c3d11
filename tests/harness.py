"""An outbox to test against, a handler that remembers, and a consumer that is stopped again."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import psycopg

from pgcdc_outbox import Client, Consumer, Job, RetryPolicy
from pgcdc_outbox.events import Event, Polling, Streaming
from pgcdc_outbox.postgres.names import slot_name
from tests.wait import eventually_async

MODES = ("logical", "polling")

QUICK = RetryPolicy(max_attempts=3, first_delay=0.05, max_delay=0.2)
"""Three attempts, close together."""


class Outbox:
    """A migrated schema in a database of the test's own."""

    def __init__(self, dsn: str, schema: str = "outbox", mode: str = "logical") -> None:
        self.dsn = dsn
        self.schema = schema
        self.mode = mode
        self.client = Client(dsn, schema=schema)

    def rows(self, statement: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement in a transaction of its own, with the schema first in the path."""
        with psycopg.connect(self.dsn) as connection:
            connection.execute("select set_config('search_path', %s, false)", [quoted(self.schema)])
            cursor = connection.execute(statement.encode(), params)
            return cursor.fetchall() if cursor.description is not None else []

    def value(self, statement: str, params: Sequence[Any] = ()) -> Any:
        """The only value of the only row."""
        ((value,),) = self.rows(statement, params)
        return value

    def put(self, payloads: Iterable[Any], **options: Any) -> list[int]:
        """Enqueue payloads in one transaction."""
        with psycopg.connect(self.dsn) as connection:
            return [self.client.enqueue(payload, tx=connection, **options) for payload in payloads]

    def unsettled(self) -> int:
        """How many rows the durable position does not know to be settled."""
        return int(
            self.value(
                "select count(*) from immediate as i left join checkpoint as k on true "
                "where not pg_visible_in_snapshot(i.xid, coalesce(k.snapshot, '1:1:'))"
            )
        )

    async def settled(self) -> None:
        """Wait until the durable position has passed every job."""
        await eventually_async(self._is_settled)

    async def _is_settled(self) -> bool:
        return not self.unsettled()

    def slot(self) -> dict[str, Any]:
        """What the server says of the outbox's only slot."""
        slots = self.rows(
            "select to_jsonb(s) from pg_replication_slots s where database = current_database()"
        )
        assert len(slots) == 1, slots
        return dict(slots[0][0])

    def cut_off_reader(self) -> None:
        """End the connection that jobs come through, as an administrator might."""
        if self.mode == "logical":
            self.end_slot_reader()
        else:
            self.rows(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and application_name like 'pgcdc-outbox/%%'"
            )

    def end_slot_reader(self) -> None:
        """End the walsender, as an administrator might."""
        self.rows(
            "select pg_terminate_backend(active_pid) from pg_replication_slots "
            "where database = current_database() and active_pid is not null"
        )


class Recorder:
    """A handler that remembers what it got, and does what ``then`` says."""

    def __init__(self, then: Callable[[Sequence[Job]], Any] | None = None) -> None:
        self.batches: list[list[Job]] = []
        self._then = then
        self._changed = anyio.Event()

    async def __call__(self, jobs: Sequence[Job]) -> Any:
        self.batches.append(list(jobs))
        self._changed.set()
        return self._then(jobs) if self._then else None

    @property
    def jobs(self) -> list[Job]:
        return [job for batch in self.batches for job in batch]

    @property
    def ids(self) -> list[int]:
        return [job.id for job in self.jobs]

    @property
    def values(self) -> list[Any]:
        return [job.json() for job in self.jobs]

    async def got(self, count: int, timeout: float = 60.0) -> None:
        """Wait until so many jobs came."""
        await self.until(lambda: len(self.jobs) >= count, timeout)

    async def until(self, condition: Callable[[], bool], timeout: float = 60.0) -> None:
        """Wait until something holds that can change with a batch."""
        with anyio.fail_after(timeout):
            while not condition():
                self._changed = anyio.Event()
                await self._changed.wait()


Kind = type[Event] | tuple[type[Event], ...]

READING = (Streaming, Polling)
"""Either says that what is committed from now on is read as it comes."""


class Watcher:
    """An observer that remembers events, and lets a test wait for one."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._changed = anyio.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._changed.set()

    def of(self, kind: Kind) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    async def saw(self, kind: Kind, count: int = 1, timeout: float = 60.0) -> Any:
        """Wait until so many events of a kind were told; the last of them."""
        with anyio.fail_after(timeout):
            while len(self.of(kind)) < count:
                self._changed = anyio.Event()
                await self._changed.wait()

        return self.of(kind)[count - 1]


def consumer(outbox: Outbox, handler: Any, **options: Any) -> Consumer:
    """A consumer with settings that suit tests; any may be overridden."""
    defaults: dict[str, Any] = {
        "schema": outbox.schema,
        "mode": outbox.mode,
        "retry": QUICK,
        "checkpoint_interval": 0.1,
        "promote_interval": 0.05,
        "drain_timeout": 20.0,
        "maintenance": False,
        "observers": (),
    }
    return Consumer(outbox.dsn, handler, **{**defaults, **options})


@asynccontextmanager
async def running(subject: Consumer, timeout: float = 60.0) -> AsyncIterator[None]:
    """Run a consumer during a block, and stop it in good order afterwards."""
    failure: list[BaseException] = []
    ended = anyio.Event()

    async def run() -> None:
        try:
            await subject.run()
        except Exception as error:
            failure.append(error)
            group.cancel_scope.cancel()  # the test must not wait for what cannot come
        finally:
            ended.set()

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await anyio.lowlevel.checkpoint()  # it runs now, and hears a stop
        try:
            yield
        finally:
            subject.stop()
            with anyio.move_on_after(timeout, shield=True) as scope:
                await ended.wait()

            group.cancel_scope.cancel()

    assert not scope.cancelled_caught, "the consumer did not stop in time"
    if failure:
        raise failure[0]


@asynccontextmanager
async def streaming(subject: Consumer, watcher: Watcher) -> AsyncIterator[None]:
    """Run a consumer that tells ``watcher``; the block begins when it streams, or polls."""
    before = len(watcher.of(READING))
    async with running(subject):
        await watcher.saw(READING, before + 1)
        yield


def slot_of(outbox: Outbox, consumer: str = "default") -> str:
    """The slot that a consumer of this outbox has, or will have."""
    oid = outbox.value("select oid::bigint from pg_database where datname = current_database()")
    return slot_name(outbox.schema, consumer, oid)


def quoted(name: str) -> str:
    """An identifier as SQL spells it."""
    return psycopg.sql.Identifier(name).as_string(None)
