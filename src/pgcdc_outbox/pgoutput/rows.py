"""A row as it travels: bytes for each column, not yet converted to anything."""

from __future__ import annotations

import struct
from enum import Enum
from typing import Final, Literal, NamedTuple, TypeAlias

from .errors import ProtocolError


class Unchanged(Enum):
    """Stands where an update left a large value alone, and so did not send it."""

    UNCHANGED = "u"

    def __repr__(self) -> str:
        return self.name


UNCHANGED: Final[Literal[Unchanged.UNCHANGED]] = Unchanged.UNCHANGED

Cell: TypeAlias = bytes | Literal[Unchanged.UNCHANGED] | None

_LENGTH: Final = struct.Struct(">I")
_COUNT: Final = struct.Struct(">H")
_TEXT: Final = ord("t")


class Row(NamedTuple):
    """The columns of a row, in the order in which its `Relation` names them.

    Source: "TupleData" in the manual's chapter on logical replication message
    formats.
    """

    values: tuple[Cell, ...]
    """NULL is `None`; a value of no length is ``b""``."""

    formats: bytes
    """``t`` for each column whose value is in text form, ``b`` for every other.

    A column without a value counts as binary, so that the usual question, "is
    all of it binary?", is ``b"t" not in row.formats``.
    """

    def is_text(self, column: int) -> bool:
        return self.formats[column] == _TEXT

    def encode(self) -> bytes:
        parts = [_COUNT.pack(len(self.values))]
        for value, form in zip(self.values, self.formats, strict=True):
            match value:
                case None:
                    parts.append(b"n")
                case Unchanged():
                    parts.append(b"u")
                case _:
                    parts.append(b"t" if form == _TEXT else b"b")
                    parts.append(_LENGTH.pack(len(value)))
                    parts.append(value)

        return b"".join(parts)


_uint16: Final = _COUNT.unpack_from
_uint32: Final = _LENGTH.unpack_from


def read_row(data: bytes, at: int, what: str) -> tuple[Row, int]:
    """Read the row that begins at a place. Returns it, and where it ends.

    This is the hot loop of the package, once round for every column of every
    row, and it is written flat for that reason: a checked read for every field
    takes several times as long (``tests/fuzz/speed_pgoutput.py`` measures it).

    Ends are checked late. A slice past the end is merely short, so one look at
    the end of the row finds a length that lied, as does reading the column
    after it. A negative length reads as one of more than two gigabytes.
    """
    values: list[Cell] = []
    texts: list[int] = []
    try:
        (count,) = _uint16(data, at)
        at += 2
        for _ in range(count):
            kind = data[at]
            if kind == 98:  # b, binary
                (size,) = _uint32(data, at + 1)
                start = at + 5
                at = start + size
                values.append(data[start:at])
            elif kind == 110:  # n, NULL
                at += 1
                values.append(None)
            elif kind == 116:  # t, text
                texts.append(len(values))
                (size,) = _uint32(data, at + 1)
                start = at + 5
                at = start + size
                values.append(data[start:at])
            elif kind == 117:  # u, unchanged
                at += 1
                values.append(UNCHANGED)
            else:
                raise ProtocolError(f"unknown kind of column {kind:#04x}", what=what, offset=at)
    except (IndexError, struct.error):
        raise _cut_short(data, at, what) from None

    if at > len(data):
        raise _cut_short(data, at, what)

    # A row has one format throughout, save for types that lack a binary form.
    formats = _mark(count, texts) if texts else b"b" * count
    # What the named tuple itself would do, less the call in between.
    return tuple.__new__(Row, (tuple(values), formats)), at


def _cut_short(data: bytes, at: int, what: str) -> ProtocolError:
    # A length that lied may have put the next column anywhere at all.
    return ProtocolError("the row is cut short", what=what, offset=min(at, len(data)))


def _mark(count: int, texts: list[int]) -> bytes:
    formats = bytearray(b"b") * count
    for column in texts:
        formats[column] = _TEXT

    return bytes(formats)
