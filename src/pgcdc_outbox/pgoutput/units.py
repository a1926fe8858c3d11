"""The two units of the protocol: positions in the log, and times.

Both are plain integers here. A position is a byte offset into the write-ahead
log; a time is a count of microseconds since the beginning of the year 2000, UTC.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

Lsn: TypeAlias = int
Microseconds: TypeAlias = int

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_EPOCH_AS_UNIX_SECONDS: Final = 946_684_800
_LSN: Final = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


def parse_lsn(text: str) -> Lsn:
    """Read the ``16/B374D848`` form, as strictly as the server does."""
    if (match := _LSN.fullmatch(text)) is None:
        raise ValueError(f"not a log sequence number: {text!r}")

    return int(match[1], 16) << 32 | int(match[2], 16)


def format_lsn(lsn: Lsn) -> str:
    """Write the ``16/B374D848`` form."""
    if not 0 <= lsn < 1 << 64:
        raise ValueError(f"a log sequence number has 64 bits: {lsn!r}")

    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def to_datetime(time: Microseconds) -> datetime:
    """The moment a server's time stands for.

    Raises `OverflowError` for one beyond the years that Python can express.
    """
    return _EPOCH + timedelta(microseconds=time)


def from_datetime(moment: datetime) -> Microseconds:
    """A moment, as the server counts it. The moment must know its time zone."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def from_unix(seconds: float) -> Microseconds:
    """What a system clock such as `time.time` says, as the server counts it."""
    return round((seconds - _EPOCH_AS_UNIX_SECONDS) * 1_000_000)
