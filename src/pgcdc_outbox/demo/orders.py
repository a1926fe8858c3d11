"""The orders of the demo: which kinds there are, and how often each comes."""

from enum import StrEnum
from typing import Final

from msgspec import Struct

MAX_ATTEMPTS: Final = 3


class Kind(StrEnum):
    """What happens to an order, or to its job."""

    USUAL = "usual"
    SQL = "sql"
    """Its job is enqueued by plain SQL."""
    LATER = "later"
    """Its job is due a few seconds later."""
    STUMBLES = "stumbles"
    """Its job fails once."""
    HOPELESS = "hopeless"
    """Its job fails each time."""
    UNDONE = "undone"
    """Its transaction is rolled back, after the job was enqueued."""


class Placed(Struct, frozen=True):
    """The payload of a job."""

    run: str
    """Which run of the demo it belongs to: a kept data folder may hold several."""
    number: int
    kind: Kind


# Every so many orders, from which one on; whoever comes first has it.
_OFTEN: Final = (
    (Kind.HOPELESS, 50, 7),
    (Kind.STUMBLES, 25, 3),
    (Kind.LATER, 20, 5),
    (Kind.UNDONE, 10, 9),
    (Kind.SQL, 8, 6),
)


def kind_of(number: int) -> Kind:
    """The kind of an order, by its number, so that every run has some of each."""
    for kind, every, first in _OFTEN:
        if number % every == first:
            return kind

    return Kind.USUAL


def delay_of(number: int) -> float:
    """After how many seconds the job of a later order is due: 1, 1.5, 2, 2.5 or 3."""
    return 1.0 + number // 20 % 5 / 2
