"""The messages that say what the rows to follow look like. Protocol version 1."""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple, Self

from .wire import Buffer, in_stream, string

_UINT16: Final = Struct(">H")
_UINT32: Final = Struct(">I")
_COLUMN_TYPE: Final = Struct(">Ii")


class Column(NamedTuple):
    """A column of a `Relation`."""

    name: str
    type_oid: int
    type_modifier: int = -1
    """What is in brackets after the type's name, as the type encodes it; -1 for nothing."""

    flags: int = 0

    @property
    def is_key(self) -> bool:
        """Is it part of what identifies a row in an update or a delete?"""
        return bool(self.flags & 1)

    @classmethod
    def decode(cls, buf: Buffer) -> Self:
        return cls(flags=buf.u8(), name=buf.text(), type_oid=buf.u32(), type_modifier=buf.i32())

    def encode(self) -> bytes:
        types = _COLUMN_TYPE.pack(self.type_oid, self.type_modifier)
        return b"".join((bytes((self.flags,)), string(self.name), types))


class Relation(NamedTuple):
    """``R``: a table, before its first row and again whenever it may have changed.

    It always replaces what an earlier one said of the same table. A row of a
    partition published as its root is preceded by two: the root, whose number
    the row bears, and the partition.
    """

    oid: int
    namespace: str
    """The schema. It is empty for ``pg_catalog``."""

    name: str
    replica_identity: str
    """``d`` default, ``n`` nothing, ``f`` full, ``i`` index."""

    columns: tuple[Column, ...]
    xid: int | None = None
    """Inside a streamed block, the transaction that sees the table so."""

    @classmethod
    def decode(cls, buf: Buffer) -> Self:
        return cls(
            xid=buf.xid(),
            oid=buf.u32(),
            namespace=buf.text(),
            name=buf.text(),
            replica_identity=buf.one_of(b"dnfi"),
            columns=tuple(Column.decode(buf) for _ in range(buf.u16())),
        )

    def encode(self) -> bytes:
        return b"".join(
            (
                b"R",
                in_stream(self.xid),
                _UINT32.pack(self.oid),
                string(self.namespace),
                string(self.name),
                self.replica_identity.encode(),
                _UINT16.pack(len(self.columns)),
                *(column.encode() for column in self.columns),
            )
        )


class Type(NamedTuple):
    """``Y``: a type that is not built in, before a `Relation` that uses it.

    For a domain, the names are those of the type beneath it.
    """

    oid: int
    namespace: str
    name: str
    xid: int | None = None

    @classmethod
    def decode(cls, buf: Buffer) -> Self:
        return cls(xid=buf.xid(), oid=buf.u32(), namespace=buf.text(), name=buf.text())

    def encode(self) -> bytes:
        names = string(self.namespace) + string(self.name)
        return b"".join((b"Y", in_stream(self.xid), _UINT32.pack(self.oid), names))
