"""What was measured, as values."""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct


class Figure(Struct, frozen=True, kw_only=True):
    """One number, and what it counts."""

    name: str
    value: float
    unit: Literal["jobs/s", "ms"]
    durable: str
    """What was on disk when it was counted."""


class Skipped(Struct, frozen=True, kw_only=True):
    """What could not be measured here."""

    name: str
    reason: str
    hint: str


class Durability(Struct, frozen=True, kw_only=True):
    """Settings of the server, as a session of ours has them."""

    version: str
    fsync: str
    synchronous_commit: str
    wal_level: str

    @property
    def of_commits(self) -> str:
        """What a commit has waited for when it returns."""
        if self.synchronous_commit == "off":
            return "not yet: synchronous_commit is off"

        if self.fsync == "off":
            return "not yet: fsync is off"

        return f"every job (synchronous_commit {self.synchronous_commit})"


class Measured(Struct, frozen=True, kw_only=True):
    """What one run of `bench` found."""

    schema: str
    server: Durability
    figures: list[Figure]
    skipped: list[Skipped]


def percentile(ascending: Sequence[float], percent: int) -> float:
    """The smallest value that so many per cent do not exceed."""
    rank = -(-len(ascending) * percent // 100)  # rounded up
    return ascending[max(rank, 1) - 1]
