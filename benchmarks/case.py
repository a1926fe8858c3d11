"""The words of a measurement: a case has points, a point has contenders, a run gives a sample."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, TypeVar

from msgspec import Struct

if TYPE_CHECKING:
    from benchmarks.place import Place

T = TypeVar("T")


class Sample(Struct, frozen=True, kw_only=True):
    """What one run gave."""

    value: float
    """In the unit of the case."""
    also: dict[str, float] = {}
    """What was measured beside it; the name says the unit."""
    series: dict[str, list[tuple[float, float]]] = {}
    """What changed during the run: seconds since its beginning, and the value."""


class Contender(Struct, frozen=True, kw_only=True):
    """Somebody who does the work of a point."""

    name: str
    run: Callable[[], Sample]
    settings: str = "defaults"

    @property
    def label(self) -> str:
        """What tells it from the others of its point."""
        return f"{self.name} ({self.settings})" if self.settings else self.name


class Point(Struct, frozen=True, kw_only=True):
    """Contenders that do the same work, so that their figures may be compared.

    It is measured before the next one is prepared.
    """

    name: str
    contenders: Sequence[Contender]
    yardstick: str = ""
    """Name of the contender that the others are divided by; empty if there is none."""
    x: float | None = None
    """What grows from point to point; None if nothing does."""


class Scale(Struct, frozen=True, kw_only=True):
    """How much is done in a run, as the command line says."""

    quick: bool = False
    """As little as shows that everything works. The figures mean nothing."""
    jobs: int | None = None
    seconds: float | None = None

    def size(self, usual: int, *, quick: int) -> int:
        """How many jobs."""
        if self.jobs is not None:
            return self.jobs

        return quick if self.quick else usual

    def duration(self, usual: float, *, quick: float) -> float:
        """How many seconds."""
        if self.seconds is not None:
            return self.seconds

        return quick if self.quick else usual

    def sizes(self, wanted: Sequence[int], *, usual: int, quick: int) -> list[int]:
        """Those that are not larger than the command line says; at least the first."""
        largest = self.size(usual, quick=quick)
        return [size for size in wanted if size <= largest] or [wanted[0]]

    def few(self, points: Sequence[T]) -> Sequence[T]:
        """All of them; the first alone if it is to be quick."""
        return points[:1] if self.quick else points


class Case:
    """One question, and how it is answered.

    A subclass says in words what is counted, and what of it is on disk when it is.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    unit: ClassVar[str]
    counted: ClassVar[str]
    durable: ClassVar[str]
    repetitions: ClassVar[int] = 3
    growing: ClassVar[str] = ""
    """What `Point.x` is; empty if nothing grows."""

    def points(self, place: "Place", scale: Scale) -> Iterator[Point]:
        """Prepare one point after the other; each is cleaned up when the next is asked for."""
        raise NotImplementedError
