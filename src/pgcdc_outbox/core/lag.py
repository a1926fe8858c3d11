"""How much lag is too much."""

import re
from enum import IntEnum
from typing import Final

from msgspec import Struct

_UNITS: Final = {"": 0, "b": 0, "kb": 1, "mb": 2, "gb": 3, "tb": 4}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)


class Level(IntEnum):
    """How bad it is, as the exit codes of monitoring plugins go."""

    OK = 0
    WARNING = 1
    CRITICAL = 2


class Thresholds(Struct, frozen=True, kw_only=True):
    """Bytes of log that a consumer may be behind."""

    warn: int = 256 * 1024**2
    critical: int = 1024**3

    def judge(self, behind_bytes: int) -> Level:
        """The level of a lag; reaching a threshold counts."""
        if behind_bytes >= self.critical:
            return Level.CRITICAL

        return Level.WARNING if behind_bytes >= self.warn else Level.OK


def parse_size(text: str) -> int:
    """Read ``256MB``: bytes, in powers of 1024 as PostgreSQL counts.

    Raises `ValueError` for anything else.
    """
    match = _SIZE.fullmatch(text)
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError(f"{text!r} is not a size such as 256MB or 1GB")

    factor: int = 1024 ** _UNITS[match[2].lower()]
    return round(float(match[1]) * factor)
