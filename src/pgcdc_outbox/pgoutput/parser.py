"""From the bytes of a message to its value."""

from __future__ import annotations

from typing import Final, TypeAlias

from .changes import (
    Delete,
    Insert,
    LogicalMessage,
    Truncate,
    Update,
    insert_at_once,
)
from .errors import ProtocolError
from .prepared import (
    BeginPrepare,
    CommitPrepared,
    Prepare,
    RollbackPrepared,
    StreamPrepare,
)
from .relations import Relation, Type
from .streams import StreamAbort, StreamCommit, StreamStart, StreamStop
from .transactions import BEGIN, COMMIT, Begin, Commit, Origin
from .wire import Buffer

Message: TypeAlias = (
    Begin | Commit | Origin | Relation | Type | Insert | Update | Delete | Truncate
    | LogicalMessage | StreamStart | StreamStop | StreamCommit | StreamAbort
    | BeginPrepare | Prepare | CommitPrepared | RollbackPrepared | StreamPrepare
)  # fmt: skip

_KINDS: Final[dict[int, type[Message]]] = {
    ord("A"): StreamAbort,
    ord("B"): Begin,
    ord("C"): Commit,
    ord("D"): Delete,
    ord("E"): StreamStop,
    ord("I"): Insert,
    ord("K"): CommitPrepared,
    ord("M"): LogicalMessage,
    ord("O"): Origin,
    ord("P"): Prepare,
    ord("R"): Relation,
    ord("S"): StreamStart,
    ord("T"): Truncate,
    ord("U"): Update,
    ord("Y"): Type,
    ord("b"): BeginPrepare,
    ord("c"): StreamCommit,
    ord("p"): StreamPrepare,
    ord("r"): RollbackPrepared,
}


def decode(data: bytes | memoryview, *, streaming: bool = False, parallel: bool = False) -> Message:
    """Decode one message.

    Two things about a message are not in it: whether it stands inside a
    streamed block, and whether the client asked for ``streaming 'parallel'``,
    which makes a `StreamAbort` longer. `Parser` keeps both in mind.

    Raises `ProtocolError`, and nothing else, for bytes that make no sense.
    """
    if type(data) is not bytes:
        data = bytes(data)

    if not data:
        raise ProtocolError("no bytes at all", what="message", offset=0)

    # The three messages of nearly every transaction, in as few steps as there
    # are. What is odd about one of them is left to the longer way to say.
    tag, size = data[0], len(data)
    if tag == 73:  # I
        if (insert := insert_at_once(data, streaming)) is not None:
            return insert
    elif tag == 66 and size == 21:  # B
        return tuple.__new__(Begin, BEGIN.unpack_from(data, 1))
    elif tag == 67 and size == 26:  # C
        return tuple.__new__(Commit, COMMIT.unpack_from(data, 1))

    return _decode_any(data, streaming=streaming, parallel=parallel)


def _decode_any(data: bytes, *, streaming: bool, parallel: bool) -> Message:
    if (kind := _KINDS.get(data[0])) is None:
        raise ProtocolError(f"unknown type {data[:1]!r}", what="message", offset=0)

    buf = Buffer(data, kind.__name__, streaming=streaming, parallel=parallel)
    message = kind.decode(buf)
    buf.finish()
    return message


class Parser:
    """Decodes the messages of one connection, in their order.

    All it remembers is whether a streamed block is open. It does not know
    tables, nor does it gather what belongs to a transaction.
    """

    __slots__ = ("_parallel", "in_stream")

    def __init__(self, *, parallel: bool = False) -> None:
        self._parallel = parallel
        self.in_stream = False

    def decode(self, data: bytes | memoryview) -> Message:
        """Decode the next message."""
        message = decode(data, streaming=self.in_stream, parallel=self._parallel)
        tag = data[0]
        if self.in_stream:
            if tag not in _INSIDE:
                raise ProtocolError(
                    "it cannot stand inside a streamed block",
                    what=type(message).__name__,
                    offset=0,
                )

            self.in_stream = tag != _STOP
        elif tag == _START:
            self.in_stream = True
        elif tag == _STOP:
            raise ProtocolError("no streamed block is open", what="StreamStop", offset=0)

        return message


_START: Final = ord("S")
_STOP: Final = ord("E")
_INSIDE: Final = b"RYIUDTMOE"
