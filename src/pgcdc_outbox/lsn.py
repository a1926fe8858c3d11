"""A position in the write-ahead log."""

import re
from typing import Final, Self

_FORM: Final = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


class LSN(int):
    """A log sequence number: a byte offset into the write-ahead log.

    It compares and subtracts as the integer it is -- ``b - a`` is the number
    of bytes of WAL between two positions -- and prints as PostgreSQL does.

    Source: PostgreSQL manual, "pg_lsn Type".
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the ``16/B374D848`` form.

        Raises `ValueError` for anything else.
        """
        # Not by int() alone: it takes signs, blanks, underscores and any length.
        if (match := _FORM.fullmatch(text)) is None:
            raise ValueError(f"not an LSN: {text!r}")

        return cls(int(match[1], 16) << 32 | int(match[2], 16))

    def __str__(self) -> str:
        return f"{self >> 32:X}/{self & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        return f"LSN({str(self)!r})"
