"""Jobs that are executed at most once: what their failures mean."""

from collections.abc import Container, Mapping, Sequence
from typing import Final

import msgspec

from pgcdc_outbox.core.crash import Started
from pgcdc_outbox.core.verdict import Failure
from pgcdc_outbox.job import Job
from pgcdc_outbox.outcome import Dead, Outcome

IN_DOUBT: Final = "in_doubt"


class InDoubt(Exception):
    """Stands for the error of an execution that nobody knows the end of."""


def judge_once(
    failures: Sequence[Failure], once: Container[int], errors: Mapping[int, BaseException]
) -> Sequence[Failure]:
    """The failures of a call, in which some jobs were to run once.

    Whatever such a job did may have happened, unless its handler says otherwise: by
    an outcome of that very job. It is not tried again, and left to a person.
    """
    return [
        msgspec.structs.replace(failure, fate=Dead(IN_DOUBT))
        if failure.job.id in once and not _is_told(failure, errors[failure.job.id])
        else failure
        for failure in failures
    ]


def judge_unfinished(job: Job, note: Started) -> Failure:
    """Judge a job of which only the beginning is known."""
    text = (
        f"attempt {note.attempt} began at {note.started_at} in {note.instance}, "
        "and nobody knows how it ended: what it does may have happened, or not"
    )
    return Failure(job, Dead(IN_DOUBT), InDoubt.__name__, text)


def _is_told(failure: Failure, error: BaseException) -> bool:
    # An outcome that several jobs share was raised, and is about nobody knows which.
    return isinstance(error, Outcome) and failure.jobs == 1
