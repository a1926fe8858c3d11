"""What is known to be wrong with some releases of PostgreSQL, and of its client library."""

from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from pgcdc_outbox.postgres.doctor.finding import Finding, note, warning

OLDEST: Final = 14
NEWEST: Final = 18
"""The majors that this library is tested with."""


class Bug(Struct, frozen=True, kw_only=True):
    """Something that later minor releases mend."""

    fixed: dict[int, int]
    """For each major the first minor without it."""
    only: bool = False
    """It was in the minor before, and in no other."""
    severe: bool
    what: str
    detail: str

    def is_in(self, major: int, minor: int) -> bool:
        """Whether a release has it."""
        fixed = self.fixed.get(major, 0)
        return fixed - 1 <= minor < fixed if self.only else minor < fixed


_SERVER: Final = (
    Bug(
        fixed={14: 19, 15: 14, 16: 10, 17: 6},
        only=True,
        severe=True,
        what="DDL can make logical decoding take memory without end",
        detail="Making partitions is DDL.",
    ),
    Bug(
        fixed={14: 19, 15: 14, 16: 10, 17: 6},
        severe=False,
        what="a slot can be moved back by an old report",
        detail="Jobs may come again that were done; none is lost.",
    ),
    Bug(
        fixed={14: 21, 15: 16, 16: 12, 17: 8, 18: 2},
        severe=False,
        what="a checkpoint can invalidate a slot that is just being made",
        detail="The consumer makes another one.",
    ),
    Bug(
        fixed={14: 23, 15: 18, 16: 14, 17: 10, 18: 4},
        severe=False,
        what="a shutdown can wait for a logical reader for ever",
        detail="Stop the consumers before the server.",
    ),
)

_LIBPQ: Final = Bug(
    fixed={14: 24, 15: 19, 16: 15, 17: 11, 18: 5},
    severe=False,
    what="with TLS, bytes that have arrived may wait until more do",
    detail="The consumer looks again every second, so that a job may come a second late.",
)


def server(major: int, minor: int) -> Iterator[Finding]:
    """What is wrong with this release of the server."""
    for bug in _SERVER:
        if bug.is_in(major, minor):
            finding = warning if bug.severe else note
            yield finding(
                f"PostgreSQL {major}.{minor}: {bug.what}",
                f"# install PostgreSQL {major}.{_newest_fix(major)} or a later minor release",
                detail=bug.detail,
            )


def libpq(version: int, *, tls: bool) -> Iterator[Finding]:
    """What is wrong with this release of libpq, whose number is such as 180006."""
    major, minor = divmod(version, 10000)
    if tls and (major < OLDEST or _LIBPQ.is_in(major, minor)):
        yield note(
            f"libpq {major}.{minor}: {_LIBPQ.what}",
            "pip install --upgrade 'psycopg[binary]'",
            detail=_LIBPQ.detail,
        )


def _newest_fix(major: int) -> int:
    return max(bug.fixed.get(major, 0) for bug in _SERVER)
