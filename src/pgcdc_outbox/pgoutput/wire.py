"""Reading a message from front to back, with every read checked against its end."""

from __future__ import annotations

import struct
from typing import Any, Final

from .errors import ProtocolError
from .rows import Row, read_row
from .units import Lsn, Microseconds

_UINT16: Final = struct.Struct(">H")
_INT32: Final = struct.Struct(">i")
_UINT32: Final = struct.Struct(">I")
_UINT64: Final = struct.Struct(">Q")
_INT64: Final = struct.Struct(">q")


class Buffer:
    """The bytes of one message, and how far they have been read.

    It also knows the two things about the connection that change what a
    message looks like: whether it stands inside a streamed block, and whether
    the client asked for streaming in the parallel form.
    """

    __slots__ = ("_at", "_data", "_what", "parallel", "streaming")

    def __init__(
        self,
        data: bytes,
        what: str,
        *,
        at: int = 1,
        streaming: bool = False,
        parallel: bool = False,
    ) -> None:
        self._data = data
        self._what = what
        self._at = at
        self.streaming = streaming
        self.parallel = parallel

    def take(self, layout: struct.Struct) -> tuple[Any, ...]:
        """Read the fields of a fixed layout."""
        try:
            fields = layout.unpack_from(self._data, self._at)
        except struct.error:
            raise self._short(layout.size) from None

        self._at += layout.size
        return fields

    def u8(self) -> int:
        try:
            value = self._data[self._at]
        except IndexError:
            raise self._short(1) from None

        self._at += 1
        return value

    def u16(self) -> int:
        value: int = self.take(_UINT16)[0]
        return value

    def i32(self) -> int:
        value: int = self.take(_INT32)[0]
        return value

    def u32(self) -> int:
        value: int = self.take(_UINT32)[0]
        return value

    def lsn(self) -> Lsn:
        value: Lsn = self.take(_UINT64)[0]
        return value

    def time(self) -> Microseconds:
        value: Microseconds = self.take(_INT64)[0]
        return value

    def xid(self) -> int | None:
        """The transaction a change belongs to, which only streamed ones name."""
        return self.u32() if self.streaming else None

    def one_of(self, letters: bytes) -> str:
        """Read a letter out of a few."""
        letter = self.u8()
        if letter not in letters:
            raise self.error(f"expected one of {letters.decode()!r}, found {letter:#04x}", back=1)

        return chr(letter)

    def text(self) -> str:
        """Read a string, which ends with a NUL."""
        begin = self._at
        end = self._data.find(0, begin)
        if end < 0:
            raise self.error("the string does not end")

        try:
            value = self._data[begin:end].decode()
        except UnicodeDecodeError as error:
            raise self.error(f"the string is not UTF-8: {error.reason}") from None

        self._at = end + 1
        return value

    def blob(self) -> bytes:
        """Read bytes preceded by their number."""
        size = self.i32()
        if size < 0:
            raise self.error(f"a negative length, {size}", back=4)

        begin = self._at
        if size > len(self._data) - begin:
            raise self._short(size)

        self._at += size
        return self._data[begin : self._at]

    def row(self) -> Row:
        row, self._at = read_row(self._data, self._at, self._what)
        return row

    def finish(self) -> None:
        """Check that nothing is left over."""
        if left := len(self._data) - self._at:
            raise self.error(f"{left} bytes too many")

    def error(self, problem: str, *, back: int = 0) -> ProtocolError:
        """An error about the place reached, or some bytes before it."""
        return ProtocolError(problem, what=self._what, offset=self._at - back)

    def _short(self, wanted: int) -> ProtocolError:
        left = max(len(self._data) - self._at, 0)
        return self.error(f"{wanted} bytes expected, {left} left")


def string(text: str) -> bytes:
    """A string as the protocol writes it."""
    if "\0" in text:
        raise ValueError(f"a string on the wire ends at its first NUL: {text!r}")

    return text.encode() + b"\0"


def in_stream(xid: int | None) -> bytes:
    """The transaction a change belongs to, which only streamed ones name."""
    return b"" if xid is None else _UINT32.pack(xid)
