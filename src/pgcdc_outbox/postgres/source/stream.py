"""A replication connection: libpq's, made to wait on the event loop.

It knows frames and commands, not jobs. Every call of libpq here is synchronous
and runs on the event loop's thread, so two tasks never meet inside it; one task
reads, another reports.
"""

import select
import time
from collections.abc import Callable
from typing import Any

import anyio
import psycopg
from psycopg import pq

from pgcdc_outbox.errors import (
    OutboxError,
    PermissionMissing,
    PublicationMissing,
    SlotInvalidated,
    SlotMissing,
    SourceUnavailable,
)
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.pgoutput import StandbyStatusUpdate, commands, from_unix
from pgcdc_outbox.postgres.opening import connect, is_local
from pgcdc_outbox.postgres.sqlstate import map_error, map_result

# Text that comes from the server must not depend on how its roles are set up.
_OPTIONS = "-c datestyle=ISO -c timezone=UTC -c bytea_output=hex -c lock_timeout=30s"

_TLS_SECONDS = 1.0

# How long the server may take to answer a command. To make a slot it waits for every
# transaction that writes, and for each at most as long as lock_timeout says.
_COMMAND_SECONDS = 120.0

Frame = bytes | memoryview

Next = Callable[[int], tuple[int, Frame]]
"""libpq's ``PQgetCopyData``: the size of the next frame, and the frame. Not above 0: none."""

Receive = Callable[[], None]
"""libpq's ``PQconsumeInput``: takes from the socket what is there, without waiting."""

Take = Callable[[Next, Receive, int], tuple[int, int]]
"""Takes in frames, so many at most. Gives how many, and the last size."""


class ReplicationStream:
    """A connection in replication mode: commands first, then frames and status updates."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self.skips_rows = False
        """Whether the server has warned that it leaves rows out (18 and later)."""
        self._pgconn.notice_handler = self._on_notice
        self.server_version = self._pgconn.server_version
        self.fd = self._pgconn.socket
        self.is_local = is_local(connection)
        """Whether the server is reached by a Unix socket."""

    @classmethod
    async def open(
        cls, conninfo: str, *, name: str, timeout: float | None = None
    ) -> "ReplicationStream":
        """Connect. Raises `OutboxError`.

        ``timeout`` is the ``wal_sender_timeout`` of this connection in seconds; None
        leaves it as it is.
        """
        connection = await connect(
            conninfo,
            name=name,
            doing="open the replication connection",
            options=_OPTIONS,
            replication="database",
            client_encoding="UTF8",
        )
        stream = cls(connection)
        if timeout is not None:
            try:
                await stream.query(
                    f"set wal_sender_timeout = '{round(timeout * 1000)}ms'",
                    doing="set wal_sender_timeout",
                )
            except BaseException:
                stream.close()
                raise

        return stream

    def close(self) -> None:
        """Close the connection at once; what was not read is still in the log."""
        if self._pgconn.status != pq.ConnStatus.BAD:
            anyio.notify_closing(self.fd)

        self._pgconn.finish()

    async def query(self, command: str, *, doing: str) -> list[tuple[str | None, ...]]:
        """Run a command that gives rows. Raises `OutboxError`."""
        result = await self._result(command, doing=doing)
        if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
            raise _map_command(result, doing=doing)

        while await self._next_result(doing) is not None:
            pass

        return [
            tuple(_text(result.get_value(row, column)) for column in range(result.nfields))
            for row in range(result.ntuples)
        ]

    async def start(self, slot: str, *, publication: str, position: LSN) -> None:
        """Begin to stream from a position, or from the slot's if that is later.

        Raises `SlotInvalidated` if the log that the slot needs is gone, and other `OutboxError`.
        """
        doing = f"start replication from slot {slot}"
        result = await self._result(
            commands.start_replication(
                slot, publications=[publication], start_lsn=position, binary=True
            ),
            doing=doing,
        )
        if result.status != pq.ExecStatus.COPY_BOTH:
            raise _map_stream(result, doing=doing)

    def drain(self, take: Take, limit: int) -> int:
        """Let ``take`` have the frames that are there, so many at most.

        Returns how many. Raises `PublicationMissing` when the server leaves rows
        out for want of it, and other `OutboxError` when it ended the stream.
        """
        try:
            count, size = take(self._pgconn.get_copy_data, self._pgconn.consume_input, limit)
        except psycopg.Error as error:
            raise map_error(error, doing="read the stream") from error

        if self.skips_rows:
            # Version 18 only warns, and goes on without the rows.
            raise PublicationMissing("the publication is missing: the server leaves jobs out")

        if size < 0:
            raise self._ended()

        return count

    async def readable(self) -> None:
        """Wait for bytes."""
        if not self._pgconn.ssl_in_use:
            await anyio.wait_readable(self.fd)
            return

        # Under TLS older versions of libpq may hold bytes that the socket does not
        # show any more: look again now and then.
        with anyio.move_on_after(_TLS_SECONDS):
            await anyio.wait_readable(self.fd)

    @property
    def has_more(self) -> bool:
        """Whether there are bytes that nobody has read yet, or the end of the connection."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return bool(poll.poll(0))

    async def report(self, *, received: LSN, flushed: LSN, ask: bool = False) -> None:
        """Send a status update."""
        update = StandbyStatusUpdate(
            written=received,
            flushed=flushed,
            applied=flushed,
            sent_at=from_unix(time.time()),
            reply_requested=ask,
        )
        try:
            while not self._pgconn.put_copy_data(update.encode()):
                await self._flush()

            await self._flush()
        except psycopg.Error as error:
            raise map_error(error, doing="report the position") from error

    async def end(self) -> None:
        """End the stream in good order: the server answers once it has seen every report.

        What it still sends is thrown away: it was not acknowledged. When it is done with the
        command it has let go of the slot, which others may want at once.
        """
        try:
            self._pgconn.put_copy_end()
            await self._flush()
            while True:
                size, _ = self._pgconn.get_copy_data(1)
                if size < 0:
                    break

                if size == 0:
                    await self.readable()
                    self._pgconn.consume_input()

            while await self._next_result("end the stream") is not None:
                pass
        except psycopg.Error as error:
            raise map_error(error, doing="end the stream") from error

    def _ended(self) -> OutboxError:
        """Why the server ended the stream."""
        result = self._pgconn.get_result()
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            error = _map_stream(result, doing="read the stream")
            # Once a slot streams, the only object it can miss is the publication.
            return PublicationMissing(str(error)) if isinstance(error, SlotMissing) else error

        return SourceUnavailable("the server ended the stream")

    async def _flush(self) -> None:
        while self._pgconn.flush():
            await anyio.wait_writable(self.fd)

    async def _result(self, command: str, *, doing: str) -> pq.abc.PGresult:
        try:
            self._pgconn.send_query(command.encode())
            await self._flush()
        except psycopg.Error as error:
            raise map_error(error, doing=doing) from error

        result = None
        with anyio.move_on_after(_COMMAND_SECONDS):
            result = await self._next_result(doing)

        if result is None:
            raise SourceUnavailable(f"{doing}: the server gave no answer")

        return result

    async def _next_result(self, doing: str) -> pq.abc.PGresult | None:
        try:
            while self._pgconn.is_busy():
                await self.readable()
                self._pgconn.consume_input()

            return self._pgconn.get_result()
        except psycopg.Error as error:
            raise map_error(error, doing=doing) from error

    def _on_notice(self, result: pq.abc.PGresult) -> None:
        # Called from inside libpq: note it, look at it later, never raise. By the
        # SQLSTATE (object_not_in_prerequisite_state), for the text is translated.
        if result.error_field(pq.DiagnosticField.SQLSTATE) == b"55000":
            self.skips_rows = True


def _map_command(result: pq.abc.PGresult, *, doing: str) -> OutboxError:
    error = map_result(result, doing=doing)
    if result.error_field(pq.DiagnosticField.SQLSTATE) == b"42501":
        return PermissionMissing(
            str(error),
            hint="The role needs REPLICATION, and output_plugin_libraries, if the server has it, "
            "must include pgoutput.",
        )

    return error


def _map_stream(result: pq.abc.PGresult, *, doing: str) -> OutboxError:
    error = _map_command(result, doing=doing)
    # A file is missing, and what a slot reads is the log.
    if result.error_field(pq.DiagnosticField.SQLSTATE) == b"58P01":
        return SlotInvalidated(str(error))

    return error


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()
