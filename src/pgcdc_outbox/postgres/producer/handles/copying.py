"""Placed jobs in the binary format of COPY, the same for every driver. Pure.

``created_at`` is sent although it has a default: a volatile default would make
PostgreSQL insert row by row instead of many at a time.
"""

import struct
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from psycopg import sql

from pgcdc_outbox.postgres.producer.handles.placing import Placed, Placing

_OTHERS: Final = ("topic", "payload", "key", "headers", "content_type", "expires_at")
_COLUMNS: Final = {
    "immediate": ("id", "created_at", *_OTHERS),
    "scheduled": ("id", "created_at", "due_at", *_OTHERS),
}
_CHUNK_BYTES: Final = 128 * 1024

# Signature, flags, length of the header extension.
_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER: Final = b"\xff\xff"
_NULL: Final = b"\xff\xff\xff\xff"
_NULLS: Final = 4 * _NULL
_LENGTH: Final = struct.Struct("!i").pack
# The number of fields, then 8 bytes each: id, created_at and, if scheduled, due_at.
_NOW: Final = struct.Struct("!hiqiq").pack
_LATER: Final = struct.Struct("!hiqiqiq").pack
_MOMENT: Final = struct.Struct("!iq").pack
_JSONB_VERSION: Final = b"\x01"

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Copy:
    """The rows that one table takes, and the statement to send them with."""

    def __init__(
        self, table: str, jobs: Sequence[Placed], clock: datetime, encoding: str = "utf-8"
    ) -> None:
        self.table = table
        self.columns = _COLUMNS[table]
        self._jobs = jobs
        self._created = _timestamp(clock)
        self._encoding = encoding

    def statement(self, schema: str) -> str:
        """COPY, as psycopg takes it."""
        return _statement(schema, self.table)

    def chunks(self) -> Iterator[bytes]:
        """The data, in pieces of a size that a socket likes.

        Written flat, because each call in it would be one for each job: so it takes less
        than half of the time (guarded by `benchmarks/cases/bulk.py`).
        """
        created = self._created
        topics = _Fields(self._encoding)
        data = bytearray(_HEADER)
        for job in self._jobs:
            if job.due_at is None:
                data += _NOW(8, 8, job.id, 8, created)
            else:
                data += _LATER(9, 8, job.id, 8, created, 8, _timestamp(job.due_at))

            data += topics[job.topic]
            data += _LENGTH(len(job.payload))
            data += job.payload
            if (
                job.key is None
                and job.headers is None
                and job.content_type is None
                and job.expires_at is None
            ):
                data += _NULLS
            else:
                data += self._rest(job)

            if len(data) >= _CHUNK_BYTES:
                yield bytes(data)
                data.clear()

        yield bytes(data + _TRAILER)

    def _rest(self, job: Placed) -> bytes:
        """What most jobs do not have: key, headers, content type and expiry."""
        return b"".join(
            (
                self._text(job.key),
                self._text(job.headers, _JSONB_VERSION),
                self._text(job.content_type),
                _NULL if job.expires_at is None else _MOMENT(8, _timestamp(job.expires_at)),
            )
        )

    def _text(self, text: str | None, prefix: bytes = b"") -> bytes:
        return _NULL if text is None else _field(prefix + text.encode(self._encoding))


class _Fields(dict[str, bytes]):
    """Fields by their text, each made once."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding

    def __missing__(self, text: str) -> bytes:
        self[text] = field = _field(text.encode(self._encoding))
        return field


def copies(placing: Placing, encoding: str = "utf-8") -> list[Copy]:
    """One for each table that takes some of the jobs.

    Text is in the encoding of the client, as the binary format wants it.
    """
    tables = {"immediate": placing.immediate, "scheduled": placing.scheduled}
    return [Copy(table, jobs, placing.clock, encoding) for table, jobs in tables.items() if jobs]


@lru_cache(maxsize=256)
def _statement(schema: str, table: str) -> str:
    text = sql.SQL("copy {} ({}) from stdin (format binary)").format(
        sql.Identifier(schema, table), sql.SQL(", ").join(map(sql.Identifier, _COLUMNS[table]))
    )
    return text.as_string(None)


def _field(data: bytes) -> bytes:
    return _LENGTH(len(data)) + data


def _timestamp(instant: datetime) -> int:
    return (instant - _EPOCH) // _MICROSECOND
