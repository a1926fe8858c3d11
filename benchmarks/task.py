"""What a process that reads jobs is told, and what it tells."""

import struct
from typing import Any, Final, Literal

from msgspec import Struct

from benchmarks.usage import Usage

MARK: Final = struct.Struct("!iq")
"""How the payload of a job begins that is to be recognised: its producer, and a number."""

Reader = Literal["ours", "bare"]
Work = Literal["nothing", "file", "routed", "tenth fails", "note"]


class Task(Struct, frozen=True, kw_only=True):
    """Read the jobs of an outbox."""

    dsn: str
    jobs: int | None
    """How many there are, to the end of which it reads; None to read until told to stop."""
    reader: Reader = "ours"
    work: Work = "nothing"
    settings: dict[str, Any] = {}
    """Those of `Consumer`."""
    slot: str = ""
    """Which slot to read, for a reader that is not ours."""
    publication: str = ""
    """Which publication it reads, if not that of the outbox."""


class Sighting(Struct, frozen=True, array_like=True):
    """A batch, as it came to the handler."""

    clock: int
    """Nanoseconds since 1970."""
    monotonic: int
    """Nanoseconds of a clock that all processes of a machine share, and nobody sets."""
    marks: list[bytes]


class Outcome(Struct, frozen=True, kw_only=True):
    """What became of it."""

    jobs: int
    seconds: float
    """From the beginning of the reading to its end, connecting and ending included."""
    usage: Usage
    peak_memory: int
    """In bytes, of the whole process."""
    sightings: list[Sighting]
