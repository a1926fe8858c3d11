"""The messages of two-phase commit. Protocol version 3.

`gid` is the name the client gave the transaction in ``PREPARE TRANSACTION``.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple, Self

from .units import Lsn, Microseconds
from .wire import Buffer, string

_BEGIN_PREPARE: Final = Struct(">QQqI")
_PREPARE: Final = Struct(">BQQqI")
_ROLLBACK: Final = Struct(">BQQqqI")


class BeginPrepare(NamedTuple):
    """``b``: a transaction follows, which has been prepared."""

    prepare_lsn: Lsn
    end_lsn: Lsn
    prepared_at: Microseconds
    xid: int
    gid: str

    @classmethod
    def decode(cls, buf: Buffer) -> Self:
        return cls(
            prepare_lsn=buf.lsn(),
            end_lsn=buf.lsn(),
            prepared_at=buf.time(),
            xid=buf.u32(),
            gid=buf.text(),
        )

    def encode(self) -> bytes:
        *fixed, gid = self
        return b"b" + _BEGIN_PREPARE.pack(*fixed) + string(gid)


class Prepare(NamedTuple):
    """``P``: the prepared transaction is complete, and awaits its fate."""

    flags: int
    prepare_lsn: Lsn
    end_lsn: Lsn
    prepared_at: Microseconds
    xid: int
    gid: str

    @classmethod
    def decode(cls, buf: Buffer) -> Self:
        return cls(
            flags=buf.u8(),
            prepare_lsn=buf.lsn(),
            end_lsn=buf.lsn(),
            prepared_at=buf.time(),
            xid=buf.u32(),
            gid=buf.text(),
        )

    def encode(self) -> bytes:
        *fixed, gid = self
        return b"P" + _PREPARE.pack(*fixed) + string(gid)


class CommitPrepared(NamedTuple):
    """``K``: a transaction prepared earlier committed."""

    flags: int
    commit_lsn: Lsn
    end_lsn: Lsn
    committed_at: Microseconds
    xid: int
    gid: str

    @classmethod
    def decode(cls, buf: Buffer) -> Self:
        return cls(
            flags=buf.u8(),
            commit_lsn=buf.lsn(),
            end_lsn=buf.lsn(),
            committed_at=buf.time(),
            xid=buf.u32(),
            gid=buf.text(),
        )

    def encode(self) -> bytes:
        *fixed, gid = self
        return b"K" + _PREPARE.pack(*fixed) + string(gid)


class RollbackPrepared(NamedTuple):
    """``r``: a transaction prepared earlier rolled back."""

    flags: int
    prepare_end_lsn: Lsn
    """Where its preparation ended, which tells it from a namesake."""

    end_lsn: Lsn
    prepared_at: Microseconds
    rolled_back_at: Microseconds
    xid: int
    gid: str

    @classmethod
    def decode(cls, buf: Buffer) -> Self:
        return cls(
            flags=buf.u8(),
            prepare_end_lsn=buf.lsn(),
            end_lsn=buf.lsn(),
            prepared_at=buf.time(),
            rolled_back_at=buf.time(),
            xid=buf.u32(),
            gid=buf.text(),
        )

    def encode(self) -> bytes:
        *fixed, gid = self
        return b"r" + _ROLLBACK.pack(*fixed) + string(gid)


class StreamPrepare(NamedTuple):
    """``p``: a transaction sent in pieces has been prepared."""

    flags: int
    prepare_lsn: Lsn
    end_lsn: Lsn
    prepared_at: Microseconds
    xid: int
    gid: str

    @classmethod
    def decode(cls, buf: Buffer) -> Self:
        return cls(
            flags=buf.u8(),
            prepare_lsn=buf.lsn(),
            end_lsn=buf.lsn(),
            prepared_at=buf.time(),
            xid=buf.u32(),
            gid=buf.text(),
        )

    def encode(self) -> bytes:
        *fixed, gid = self
        return b"p" + _PREPARE.pack(*fixed) + string(gid)
