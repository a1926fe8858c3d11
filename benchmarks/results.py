"""Results, as they are kept: every sample, and what it was measured on."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from benchmarks.case import Sample
from benchmarks.machine import Facts


class Spread(Struct, frozen=True):
    """The middle of some figures, and how far they lie apart."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of one figure or more."""
        return cls(statistics.median(values), min(values), max(values))


class Standing(Struct, frozen=True, kw_only=True):
    """What one contender gave at one point."""

    name: str
    settings: str
    samples: list[Sample]

    @property
    def label(self) -> str:
        return f"{self.name} ({self.settings})" if self.settings else self.name

    @property
    def values(self) -> Spread:
        return Spread.of([sample.value for sample in self.samples])

    def also(self) -> dict[str, float]:
        """Medians of what was measured beside it."""
        names = dict.fromkeys(name for sample in self.samples for name in sample.also)
        return {
            name: statistics.median(s.also[name] for s in self.samples if name in s.also)
            for name in names
        }


class Measured(Struct, frozen=True, kw_only=True):
    """One point, measured."""

    name: str
    yardstick: str
    x: float | None
    standings: list[Standing]

    def ratio(self, standing: Standing) -> Spread | None:
        """To the yardstick, pair by pair of the same turn, so that what both suffer cancels out.

        Latencies below zero have none.
        """
        against = next((each for each in self.standings if each.name == self.yardstick), None)
        if against is None or against is standing:
            return None

        pairs = zip(standing.samples, against.samples, strict=True)
        ratios = [
            ours.value / theirs.value for ours, theirs in pairs if min(ours.value, theirs.value) > 0
        ]
        return Spread.of(ratios) if ratios else None


class Result(Struct, frozen=True, kw_only=True):
    """One case, measured."""

    case: str
    title: str
    unit: str
    counted: str
    durable: str
    growing: str
    points: list[Measured]
    load_before: float
    """Load average of the last minute, when the case began."""
    load_after: float


class Report(Struct, frozen=True, kw_only=True):
    """What one run of the harness gave."""

    taken_at: str
    command: str
    facts: Facts
    results: list[Result]

    def save(self, file: Path) -> None:
        """Write it as JSON that a person can read."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(msgspec.json.format(msgspec.json.encode(self)) + b"\n")

    @classmethod
    def load(cls, file: Path) -> "Report":
        """Read what `save` wrote."""
        return msgspec.json.decode(file.read_bytes(), type=cls)
