"""Jobs that kill the process which runs them: when to look for them, and when to give one up."""

from typing import Final

from msgspec import Struct

from pgcdc_outbox.core.retry import Jitter, Policy
from pgcdc_outbox.core.verdict import Failure
from pgcdc_outbox.job import Job
from pgcdc_outbox.outcome import Dead

CRASHED: Final = "crashed"

# One death may be an operator's, two a bad day. Three in a row, with nothing
# settled in between, look like a job.
CRASHES_ALLOWED: Final = 3

# Being killed costs everybody a restart, so a job has fewer tries of it than of failing.
_CRASHES_OF_A_JOB: Final = 3

# Enough for any backlog, and no more than a number can bear.
_MOST_DOUBLINGS: Final = 20


class Crashed(Exception):
    """Stands for the error of an execution that ended with its process."""

    def __init__(self) -> None:
        super().__init__("the process died while this job ran")


# What the history of a job calls it. A handler's own class has the module before its name.
_NAME: Final = Crashed.__name__


class Started(Struct, frozen=True, kw_only=True):
    """An execution that was noted before it began, and is not known to have ended."""

    id: int
    attempt: int
    ours: bool
    """Whether this process began it; else the process that did is gone."""
    once: bool = False
    """Whether it must not be repeated."""
    instance: str = ""
    """The process that began it."""
    started_at: str = ""
    """When, ISO 8601 in UTC, by the clock of the server."""


def careful_jobs(crashes: int, *, held: int) -> int:
    """How many jobs to execute one by one after so many crashes in a row.

    What killed the process was most likely among the ``held`` jobs that it had
    in memory, so that is enough at first. It may stand further behind, in a
    transaction that is larger: each further crash doubles the number.
    """
    if crashes < CRASHES_ALLOWED:
        return 0

    return held << min(crashes - CRASHES_ALLOWED, _MOST_DOUBLINGS)


def is_suspect(job: Job) -> bool:
    """Whether the last execution of the job ended with its process."""
    errors = job.errors
    return bool(errors) and errors[-1].error == _NAME


def judge_crash(job: Job, policy: Policy, *, jitter: Jitter) -> Failure:
    """Judge a job whose execution ended with its process: as a failure, within limits."""
    error = Crashed()
    fate = policy.judge(job, error, jitter=jitter)
    if isinstance(fate, Dead) or _crashes(job) + 1 >= _CRASHES_OF_A_JOB:
        fate = Dead(CRASHED)

    return Failure(job, fate, _NAME, str(error))


def _crashes(job: Job) -> int:
    """How often it crashed since a person last retried it."""
    return sum(
        failing.error == _NAME and failing.attempt > job.prior_attempts for failing in job.errors
    )
