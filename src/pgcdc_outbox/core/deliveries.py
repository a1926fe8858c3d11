"""Deliveries of a job, as numbers that grow: by attempt, and within one by how often it was parked.

The log may bring a row again. Whether what it asks for is settled is told by
comparing the number of the row with the highest that is known to be settled.
"""

from array import array
from collections.abc import Sequence
from typing import Final

from pgcdc_outbox.job import Job

_BITS: Final = 32
_ALL: Final = (1 << _BITS) - 1


def number(job: Job) -> int:
    """The number of the delivery that brought this job."""
    return job.attempt << _BITS | job.parked


def numbers(jobs: Sequence[Job]) -> "array[int]":
    """The numbers of several."""
    # Without a call for each: most were never tried.
    return array(
        "Q", [number(job) if job.history is not None else job.attempt << _BITS for job in jobs]
    )


def settled(attempt: int, parked: int | None) -> int:
    """The highest number that is settled; with None for ``parked`` all of the attempt are."""
    return attempt << _BITS | (_ALL if parked is None else parked)


def read(number: int) -> tuple[int, int]:
    """The attempt, and how often the job was parked."""
    return number >> _BITS, number & _ALL
