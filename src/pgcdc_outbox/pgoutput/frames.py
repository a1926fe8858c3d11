"""The outer layer: what travels inside CopyData while a server replicates.

Source: "Streaming Replication Protocol" in the PostgreSQL manual.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple, Self, TypeAlias, TypeVar

from .errors import ProtocolError
from .units import Lsn, Microseconds
from .wire import Buffer

_XLOG_DATA: Final = Struct(">QQq")
_KEEPALIVE: Final = Struct(">Qq?")
_STATUS: Final = Struct(">QQQq?")
_FEEDBACK: Final = Struct(">qIIII")


class XLogData(NamedTuple):
    """``w``: a piece of the log, here one message of the output plugin.

    The positions are those of the one change it carries. They do not grow
    steadily, and are zero for some messages: never acknowledge them.
    """

    start: Lsn
    end: Lsn
    sent_at: Microseconds
    payload: bytes

    def encode(self) -> bytes:
        header = _XLOG_DATA.pack(self.start, self.end, self.sent_at)
        return b"".join((b"w", header, self.payload))


class PrimaryKeepalive(NamedTuple):
    """``k``: how far the server has got, and whether it wants an answer now."""

    wal_end: Lsn
    sent_at: Microseconds
    reply_requested: bool

    @classmethod
    def decode(cls, buf: Buffer) -> Self:
        return cls._make(buf.take(_KEEPALIVE))

    def encode(self) -> bytes:
        return b"k" + _KEEPALIVE.pack(*self)


class StandbyStatusUpdate(NamedTuple):
    """``r``: how far we have got. The server forgets what lies before `flushed`."""

    written: Lsn
    flushed: Lsn
    applied: Lsn
    sent_at: Microseconds
    reply_requested: bool = False

    @classmethod
    def decode(cls, buf: Buffer) -> Self:
        return cls._make(buf.take(_STATUS))

    def encode(self) -> bytes:
        return b"r" + _STATUS.pack(*self)


class HotStandbyFeedback(NamedTuple):
    """``h``: what a standby's queries still need to see.

    Here for completeness: a consumer of logical changes does not send it.
    """

    sent_at: Microseconds
    xmin: int
    xmin_epoch: int
    catalog_xmin: int
    catalog_xmin_epoch: int

    @classmethod
    def decode(cls, buf: Buffer) -> Self:
        return cls._make(buf.take(_FEEDBACK))

    def encode(self) -> bytes:
        return b"h" + _FEEDBACK.pack(*self)


class UnknownFrame(NamedTuple):
    """A frame that a newer server may send. Ignore it, and count it."""

    data: bytes

    def encode(self) -> bytes:
        return self.data


ServerFrame: TypeAlias = XLogData | PrimaryKeepalive | UnknownFrame
ClientFrame: TypeAlias = StandbyStatusUpdate | HotStandbyFeedback


def decode_frame(data: bytes | memoryview) -> ServerFrame:
    """Decode what a server sent.

    Raises `ProtocolError`, and nothing else, for bytes that make no sense.
    """
    size = len(data)
    if size >= 25 and data[0] == 119:  # w, by far the most frequent
        start, end, sent_at = _XLOG_DATA.unpack_from(data, 1)
        # The one copy: what follows outlives the buffer it arrived in.
        return XLogData(start, end, sent_at, bytes(data[25:]))

    match bytes(data[:1]):
        case b"":
            raise ProtocolError("no bytes at all", what="frame", offset=0)
        case b"w":
            raise ProtocolError(f"25 bytes expected, {size} found", what="XLogData", offset=size)
        case b"k":
            return _whole(PrimaryKeepalive, data)
        case _:
            return UnknownFrame(bytes(data))


def decode_client_frame(data: bytes | memoryview) -> ClientFrame:
    """Decode what a client sent, as a server would: for tests and for proxies.

    Unlike a server's, a client's frame of an unknown kind is an error.
    """
    match bytes(data[:1]):
        case b"r":
            return _whole(StandbyStatusUpdate, data)
        case b"h":
            return _whole(HotStandbyFeedback, data)
        case other:
            raise ProtocolError(f"unknown type {other!r}", what="frame", offset=0)


_Fixed = TypeVar("_Fixed", PrimaryKeepalive, StandbyStatusUpdate, HotStandbyFeedback)


def _whole(kind: type[_Fixed], data: bytes | memoryview) -> _Fixed:
    buf = Buffer(bytes(data), kind.__name__)
    frame = kind.decode(buf)
    buf.finish()
    return frame
