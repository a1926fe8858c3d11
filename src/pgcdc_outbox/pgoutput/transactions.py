"""The messages that frame a transaction sent whole.

Source: "Logical Replication Message Formats" in the PostgreSQL manual, as for
every message of this package. Protocol version 1.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple, Self

from .units import Lsn, Microseconds
from .wire import Buffer, string

BEGIN: Final = Struct(">QqI")
COMMIT: Final = Struct(">BQQq")
_ORIGIN: Final = Struct(">Q")


class Begin(NamedTuple):
    """``B``: a transaction follows, which has already committed."""

    final_lsn: Lsn
    """Where its commit record starts: the `Commit.commit_lsn` to come."""

    committed_at: Microseconds
    xid: int

    @classmethod
    def decode(cls, buf: Buffer) -> Self:
        return cls._make(buf.take(BEGIN))

    def encode(self) -> bytes:
        return b"B" + BEGIN.pack(*self)


class Commit(NamedTuple):
    """``C``: the transaction is complete."""

    flags: int
    """Unused so far, and zero."""

    commit_lsn: Lsn
    end_lsn: Lsn
    """The first byte after the commit record: the position to acknowledge."""

    committed_at: Microseconds

    @classmethod
    def decode(cls, buf: Buffer) -> Self:
        return cls._make(buf.take(COMMIT))

    def encode(self) -> bytes:
        return b"C" + COMMIT.pack(*self)


class Origin(NamedTuple):
    """``O``: the transaction was applied here, but began on another server.

    It follows what opens the transaction, and there may be several.
    """

    commit_lsn: Lsn
    """The position of the commit on the server it came from; zero in a stream."""

    name: str

    @classmethod
    def decode(cls, buf: Buffer) -> Self:
        return cls(commit_lsn=buf.lsn(), name=buf.text())

    def encode(self) -> bytes:
        return b"O" + _ORIGIN.pack(self.commit_lsn) + string(self.name)
