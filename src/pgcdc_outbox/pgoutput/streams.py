"""The messages that frame a transaction sent in pieces, before its end is known.

Protocol version 2; the parallel form of an abort is version 4.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple, Self

from .units import Lsn, Microseconds
from .wire import Buffer

_START: Final = Struct(">I?")
_COMMIT: Final = Struct(">IBQQq")
_ABORT: Final = Struct(">II")
_PARALLEL_ABORT: Final = Struct(">IIQq")


class StreamStart(NamedTuple):
    """``S``: a block of changes of one transaction, still in progress."""

    xid: int
    first_segment: bool

    @classmethod
    def decode(cls, buf: Buffer) -> Self:
        return cls._make(buf.take(_START))

    def encode(self) -> bytes:
        return b"S" + _START.pack(*self)


class StreamStop(NamedTuple):
    """``E``: the block ends; the transaction goes on."""

    @classmethod
    def decode(cls, buf: Buffer) -> Self:
        return cls()

    def encode(self) -> bytes:
        return b"E"


class StreamCommit(NamedTuple):
    """``c``: the streamed transaction committed. Its `end_lsn` is to acknowledge."""

    xid: int
    flags: int
    commit_lsn: Lsn
    end_lsn: Lsn
    committed_at: Microseconds

    @classmethod
    def decode(cls, buf: Buffer) -> Self:
        return cls._make(buf.take(_COMMIT))

    def encode(self) -> bytes:
        return b"c" + _COMMIT.pack(*self)


class StreamAbort(NamedTuple):
    """``A``: a streamed transaction, or a part of it, rolled back.

    If `subxid` is `xid`, nothing of the transaction remains; otherwise what
    goes is what bore `subxid`.

    PostgreSQL 18 also sends it, outside any block, for subtransactions it never
    streamed: those of a large transaction that it found to have rolled back. It
    does so even in version 1 of the protocol. There is nothing to drop then.
    """

    xid: int
    subxid: int
    abort_lsn: Lsn | None = None
    """Where the record of the abort starts. Like its time, in the parallel form only."""

    aborted_at: Microseconds | None = None

    @classmethod
    def decode(cls, buf: Buffer) -> Self:
        return cls(*buf.take(_PARALLEL_ABORT if buf.parallel else _ABORT))

    def encode(self) -> bytes:
        if self.abort_lsn is None or self.aborted_at is None:
            return b"A" + _ABORT.pack(self.xid, self.subxid)

        return b"A" + _PARALLEL_ABORT.pack(*self)
