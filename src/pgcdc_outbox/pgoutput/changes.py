"""The messages that carry what a transaction did. Protocol version 1.

Inside a streamed block each bears the number of the transaction, or of the
subtransaction, that made the change; elsewhere that number is `None`.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple, Self

from .rows import Row, read_row
from .units import Lsn
from .wire import Buffer, in_stream, string

_UINT32: Final = struct.Struct(">I")
_UINT64: Final = struct.Struct(">Q")
_INT32: Final = struct.Struct(">i")
_TRUNCATE: Final = struct.Struct(">IB")
_INSERT: Final = struct.Struct(">IB")
_STREAMED_INSERT: Final = struct.Struct(">IIB")
_NEW: Final = ord("N")


class Insert(NamedTuple):
    """``I``: a new row."""

    relation: int
    """The number of the table, as the last `Relation` that bore it describes it."""

    row: Row
    xid: int | None = None

    @classmethod
    def decode(cls, buf: Buffer) -> Self:
        xid, relation, _ = buf.xid(), buf.u32(), buf.one_of(b"N")
        return cls(xid=xid, relation=relation, row=buf.row())

    def encode(self) -> bytes:
        table = _UINT32.pack(self.relation)
        return b"".join((b"I", in_stream(self.xid), table, b"N", self.row.encode()))


def insert_at_once(data: bytes, streaming: bool) -> Insert | None:
    """Decode an `Insert` in as few steps as there are, or leave it alone.

    Nearly all that a server sends is inserts, so this does what `Insert.decode`
    does without the calls. For what is odd it returns `None`; the longer way
    then says what is wrong.
    """
    xid, at = None, 6
    try:
        if streaming:
            xid, relation, new = _STREAMED_INSERT.unpack_from(data, 1)
            at = 10
        else:
            relation, new = _INSERT.unpack_from(data, 1)
    except struct.error:
        return None

    if new != _NEW:
        return None

    row, end = read_row(data, at, "Insert")
    if end != len(data):
        return None

    return tuple.__new__(Insert, (relation, row, xid))


class Update(NamedTuple):
    """``U``: a row as it is now, and what is said of how it was.

    Of `key` and `old` there is one at most: the key if the update changed it,
    the whole old row if the table's replica identity is full.
    """

    relation: int
    row: Row
    key: Row | None = None
    old: Row | None = None
    xid: int | None = None

    @classmethod
    def decode(cls, buf: Buffer) -> Self:
        xid, relation = buf.xid(), buf.u32()
        key = old = None
        match buf.one_of(b"KON"):
            case "K":
                key, _ = buf.row(), buf.one_of(b"N")
            case "O":
                old, _ = buf.row(), buf.one_of(b"N")

        return cls(xid=xid, relation=relation, key=key, old=old, row=buf.row())

    def encode(self) -> bytes:
        table, new = _UINT32.pack(self.relation), self.row.encode()
        before = _before(self.key, self.old)
        return b"".join((b"U", in_stream(self.xid), table, before, b"N", new))


class Delete(NamedTuple):
    """``D``: a row that is no more: its key, or all of it, but never both."""

    relation: int
    key: Row | None = None
    old: Row | None = None
    xid: int | None = None

    @classmethod
    def decode(cls, buf: Buffer) -> Self:
        xid, relation = buf.xid(), buf.u32()
        if buf.one_of(b"KO") == "K":
            return cls(xid=xid, relation=relation, key=buf.row())

        return cls(xid=xid, relation=relation, old=buf.row())

    def encode(self) -> bytes:
        if not (before := _before(self.key, self.old)):
            raise ValueError("a delete names a key or an old row")

        return b"".join((b"D", in_stream(self.xid), _UINT32.pack(self.relation), before))


class Truncate(NamedTuple):
    """``T``: tables that were emptied together."""

    relations: tuple[int, ...]
    flags: int = 0

    xid: int | None = None

    @property
    def cascade(self) -> bool:
        return bool(self.flags & 1)

    @property
    def restart_identity(self) -> bool:
        return bool(self.flags & 2)

    @classmethod
    def decode(cls, buf: Buffer) -> Self:
        xid = buf.xid()
        count, flags = buf.take(_TRUNCATE)
        return cls(xid=xid, flags=flags, relations=tuple(buf.u32() for _ in range(count)))

    def encode(self) -> bytes:
        header = _TRUNCATE.pack(len(self.relations), self.flags)
        tables = map(_UINT32.pack, self.relations)
        return b"".join((b"T", in_stream(self.xid), header, *tables))


class LogicalMessage(NamedTuple):
    """``M``: what a session wrote with ``pg_logical_emit_message``.

    One that is not transactional stands outside any transaction, is sent even
    if the transaction that wrote it rolls back, and never bears an xid.
    """

    flags: int
    lsn: Lsn
    prefix: str
    content: bytes
    xid: int | None = None

    @property
    def transactional(self) -> bool:
        return bool(self.flags & 1)

    @classmethod
    def decode(cls, buf: Buffer) -> Self:
        return cls(
            xid=buf.xid(),
            flags=buf.u8(),
            lsn=buf.lsn(),
            prefix=buf.text(),
            content=buf.blob(),
        )

    def encode(self) -> bytes:
        return b"".join(
            (
                b"M",
                in_stream(self.xid),
                bytes((self.flags,)),
                _UINT64.pack(self.lsn),
                string(self.prefix),
                _INT32.pack(len(self.content)),
                self.content,
            )
        )


def _before(key: Row | None, old: Row | None) -> bytes:
    match key, old:
        case None, None:
            return b""
        case Row(), None:
            return b"K" + key.encode()
        case None, Row():
            return b"O" + old.encode()
        case _:
            raise ValueError("there is a key or an old row, never both")
