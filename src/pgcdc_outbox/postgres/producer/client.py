"""Enqueueing: jobs that commit with the caller's rows, or on their own."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from pgcdc_outbox.codec import Codec, encoder
from pgcdc_outbox.compression import Compression
from pgcdc_outbox.errors import SettingsError
from pgcdc_outbox.job import NewJob, OnDuplicate
from pgcdc_outbox.postgres.migrate import check_schema
from pgcdc_outbox.postgres.producer.enqueue import MAX_PAYLOAD_BYTES, check, check_limit, check_many
from pgcdc_outbox.postgres.producer.handles.address import Address
from pgcdc_outbox.postgres.producer.handles.joining import join, join_async
from pgcdc_outbox.postgres.producer.handles.own import AsyncKept, AsyncPooled, Kept, Pooled
from pgcdc_outbox.postgres.producer.handles.port import AsyncHandle, Handle


class Client:
    """Enqueues jobs. Threads may share it.

    ``conninfo_or_pool`` is only used for calls without ``tx``: a conninfo, for
    which one connection is opened when first needed and kept; or a
    ``psycopg_pool.ConnectionPool``, which stays the caller's. Without it, the
    environment tells: ``PGCDC_OUTBOX_DSN``, else libpq's own variables.

    ``schema`` is the schema of the outbox; ``max_payload_bytes`` refuses
    payloads that are larger once encoded. ``codec`` writes payloads in place of
    JSON; those that are larger than ``compress_above`` bytes are compressed.
    """

    def __init__(
        self,
        conninfo_or_pool: Any = None,
        *,
        schema: str = "outbox",
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
        codec: Codec | None = None,
        compress_above: int | None = None,
        compression: Compression = "gzip",
    ) -> None:
        check_schema(schema)
        self._schema = schema
        self._limit = check_limit(max_payload_bytes)
        self._encode = encoder(codec, compress_above=compress_above, compression=compression)
        self._own: Kept | Pooled
        if _is_pool(conninfo_or_pool):
            self._own = Pooled(conninfo_or_pool, schema)
        else:
            self._own = Kept(Address(conninfo_or_pool), schema)

    def enqueue(
        self,
        payload: Any,
        *,
        topic: str = "default",
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        run_at: datetime | None = None,
        delay: timedelta | float | None = None,
        expires_at: datetime | None = None,
        time_to_live: timedelta | float | None = None,
        dedup_key: str | None = None,
        dedup_for: timedelta | float | None = None,
        on_duplicate: OnDuplicate | None = None,
        tx: Any = None,
    ) -> int:
        """Enqueue one job, and return its id.

        With ``tx`` the job is part of the transaction open there and commits
        with it: a psycopg Connection, Cursor or Transaction, or a SQLAlchemy
        Session, scoped_session or Connection. Without it, it is committed when
        this returns.

        ``payload`` becomes JSON, except bytes, which stay as they are. ``key``
        says what the job is about, and is kept for the handler. ``run_at``, an aware datetime, or
        ``delay``, a timedelta or seconds by the clock of the server, schedule
        it for later; at most one of them. After ``expires_at``, an aware
        datetime, or ``time_to_live``, counted by the same clock from the moment
        when it may run, it is not started any more, but a dead letter.

        Of the jobs of a topic that have the same ``dedup_key``, one is enqueued
        within ``dedup_for`` (an hour if not given). A later one is left out, and
        the id of the first returned (``on_duplicate="ignore"``, the default); or
        it takes the place of the first if that still waits for its time, and is
        enqueued behind it otherwise ("replace"); or it is refused ("error"). Of
        two transactions at once, the second waits for the first to end.

        Raises `JobInvalid` before anything is sent, `JobDuplicate` if it is
        refused because of its key, `TransactionMissing` if
        ``tx`` would commit the job on its own, and what the driver raises on
        ``tx``. Without ``tx``, raises `SourceUnavailable`, `SchemaBehind` or
        `PermissionMissing`; the first may leave open whether it was committed,
        and then its message says so.
        """
        row = check(
            payload,
            topic,
            key,
            headers,
            run_at,
            delay,
            expires_at,
            time_to_live,
            dedup_key,
            dedup_for,
            on_duplicate,
            max_payload_bytes=self._limit,
            encode=self._encode,
        )
        return self._handle(tx).insert(row)

    def enqueue_many(self, jobs: Sequence[NewJob], *, tx: Any = None) -> list[int]:
        """Enqueue several jobs at once, and return their ids in the same order.

        All of them or none, also without ``tx``. Raises as `enqueue` does; a
        `JobInvalid` names the job, as in ``jobs[3].topic``.
        """
        rows = check_many(jobs, max_payload_bytes=self._limit, encode=self._encode)
        return self._handle(tx).insert_many(rows) if rows else []

    def close(self) -> None:
        """Close the connection that was kept, if any. Calls with ``tx`` work as before."""
        self._own.close()

    def _handle(self, tx: Any) -> Handle:
        return self._own if tx is None else join(tx, self._schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._own!r}, schema={self._schema!r})"


class AsyncClient:
    """Enqueues jobs from asyncio. Tasks of one event loop may share it.

    Takes what `Client` takes, and an ``AsyncConnectionPool`` for a pool.
    """

    def __init__(
        self,
        conninfo_or_pool: Any = None,
        *,
        schema: str = "outbox",
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
        codec: Codec | None = None,
        compress_above: int | None = None,
        compression: Compression = "gzip",
    ) -> None:
        check_schema(schema)
        self._schema = schema
        self._limit = check_limit(max_payload_bytes)
        self._encode = encoder(codec, compress_above=compress_above, compression=compression)
        self._own: AsyncKept | AsyncPooled
        if _is_pool(conninfo_or_pool):
            self._own = AsyncPooled(conninfo_or_pool, schema)
        else:
            self._own = AsyncKept(Address(conninfo_or_pool), schema)

    async def enqueue(
        self,
        payload: Any,
        *,
        topic: str = "default",
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        run_at: datetime | None = None,
        delay: timedelta | float | None = None,
        expires_at: datetime | None = None,
        time_to_live: timedelta | float | None = None,
        dedup_key: str | None = None,
        dedup_for: timedelta | float | None = None,
        on_duplicate: OnDuplicate | None = None,
        tx: Any = None,
    ) -> int:
        """Enqueue one job, and return its id.

        As `Client.enqueue`, except for ``tx``: a psycopg AsyncConnection,
        AsyncCursor or AsyncTransaction, an asyncpg Connection, or a SQLAlchemy
        AsyncSession, async_scoped_session or AsyncConnection.
        """
        row = check(
            payload,
            topic,
            key,
            headers,
            run_at,
            delay,
            expires_at,
            time_to_live,
            dedup_key,
            dedup_for,
            on_duplicate,
            max_payload_bytes=self._limit,
            encode=self._encode,
        )
        return await self._handle(tx).insert(row)

    async def enqueue_many(self, jobs: Sequence[NewJob], *, tx: Any = None) -> list[int]:
        """Enqueue several jobs at once, and return their ids in the same order.

        All of them or none, also without ``tx``. Raises as `enqueue` does; a
        `JobInvalid` names the job, as in ``jobs[3].topic``.
        """
        rows = check_many(jobs, max_payload_bytes=self._limit, encode=self._encode)
        return await self._handle(tx).insert_many(rows) if rows else []

    async def aclose(self) -> None:
        """Close the connection that was kept, if any. Calls with ``tx`` work as before."""
        await self._own.close()

    def _handle(self, tx: Any) -> AsyncHandle:
        return self._own if tx is None else join_async(tx, self._schema)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"AsyncClient({self._own!r}, schema={self._schema!r})"


def _is_pool(given: Any) -> bool:
    """Whether it is a pool; raises `SettingsError` if it is no conninfo either."""
    if given is None or isinstance(given, str):
        return False

    if not hasattr(given, "connection") or isinstance(given, type):
        raise SettingsError(
            f"conninfo_or_pool: a {type(given).__name__} is given",
            hint="Give a conninfo, a pool of psycopg_pool, or nothing; a connection goes into tx.",
        )

    return True
