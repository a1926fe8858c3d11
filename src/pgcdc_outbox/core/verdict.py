"""What a call of the handler means for each of its jobs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from pgcdc_outbox.core.call import Call
from pgcdc_outbox.core.retry import Jitter, Policy
from pgcdc_outbox.errors import ResultInvalid
from pgcdc_outbox.job import Job
from pgcdc_outbox.outcome import Dead, Done, Outcome, Retry, Snooze

Redact = Callable[[str], str]
"""Takes out of a text what must not be kept."""

TEXT_LIMIT = 4000
"""Characters kept of the text of one error."""


class Failure(Struct, frozen=True):
    """A job that was executed and is not done, and what is to become of it."""

    job: Job
    fate: Retry | Dead | Snooze
    error: str
    text: str
    jobs: int = 1
    call: Call | None = None
    """The call that failed, if that is to be kept."""


class Failed(Exception):
    """Stands for the error of a job whose id the handler returned without saying more."""


class Raised(Exception):
    """Stands for an error that a handler got from a call of its own, for some of its jobs.

    With several jobs in that call nobody knows which of them it was about.
    """

    def __init__(self, error: BaseException, jobs: int = 1) -> None:
        super().__init__(str(error))
        self.error = error
        self.jobs = jobs


def read(result: Any, jobs: Sequence[Job]) -> Mapping[int, BaseException]:
    """Turn what a handler returned into an error for each job that failed.

    Raises `ResultInvalid` for anything but None, ids, or outcomes by id: a
    result that says nothing must not pass for success.
    """
    if result is None:
        return {}

    if isinstance(result, Mapping):
        outcomes = list(result.items())
    elif isinstance(result, Iterable) and not isinstance(result, str | bytes | bytearray):
        outcomes = [(id_, Failed("the handler returned its id")) for id_ in result]
    else:
        raise ResultInvalid(f"the handler returned {_kind(result)}")

    known = {job.id for job in jobs}
    for id_, outcome in outcomes:
        if isinstance(id_, bool) or not isinstance(id_, int) or id_ not in known:
            raise ResultInvalid(f"the handler returned {id_!r}, which is no id of its jobs")

        if not isinstance(outcome, Exception):
            raise ResultInvalid(f"the handler returned {_kind(outcome)} for job {id_}")

    return {id_: outcome for id_, outcome in outcomes if not isinstance(outcome, Done)}


def judge(
    jobs: Sequence[Job],
    errors: Mapping[int, BaseException],
    policy: Policy,
    *,
    jitter: Jitter,
    redact: Redact | None = None,
) -> list[Failure]:
    """Judge the jobs of one call that failed, each by its own error."""
    return [
        _judged(job, error, policy, jitter, redact)
        for job in jobs
        if (error := errors.get(job.id)) is not None
    ]


def judge_raised(
    jobs: Sequence[Job],
    error: BaseException,
    policy: Policy,
    *,
    jitter: Jitter,
    redact: Redact | None = None,
) -> list[Failure]:
    """Judge a call that raised.

    With several jobs nobody knows whose fault it was: each comes back alone,
    and none is dead-lettered for what may be its neighbour's error.
    """
    if len(jobs) == 1:
        if isinstance(error, Done):
            return []

        return judge(jobs, {jobs[0].id: error}, policy, jitter=jitter, redact=redact)

    return [_judged_in_company(job, error, len(jobs), policy, jitter, redact) for job in jobs]


def _fate(job: Job, error: BaseException, policy: Policy, jitter: Jitter) -> Retry | Dead | Snooze:
    # Nothing failed: there is nothing for a policy to judge.
    return error if isinstance(error, Snooze) else policy.judge(job, error, jitter=jitter)


def goes_alone(job: Job, policy: Policy) -> bool:
    """Whether a job must not share a call: its last failure was shared, or this is its last try."""
    errors = job.errors
    return bool(errors and errors[-1].jobs > 1) or policy.is_last(job)


def _judged(
    job: Job, error: BaseException, policy: Policy, jitter: Jitter, redact: Redact | None
) -> Failure:
    if isinstance(error, Raised):
        if error.jobs > 1:
            return _judged_in_company(job, error.error, error.jobs, policy, jitter, redact)

        error = error.error

    return _failure(job, error, _fate(job, error, policy, jitter), 1, redact)


def _judged_in_company(
    job: Job,
    error: BaseException,
    jobs: int,
    policy: Policy,
    jitter: Jitter,
    redact: Redact | None,
) -> Failure:
    fate = policy.judge(job, error, jitter=jitter)
    if isinstance(fate, Dead):
        fate = Retry(0.0)

    return _failure(job, error, fate, jobs, redact)


def _failure(
    job: Job, error: BaseException, fate: Retry | Dead | Snooze, jobs: int, redact: Redact | None
) -> Failure:
    if isinstance(fate, Dead):
        fate = Dead(_text(fate, redact))

    return Failure(job, fate, _name(error), _text(error, redact), jobs)


def _name(error: BaseException) -> str:
    kind = type(error)
    module = "" if kind.__module__ in ("builtins", __name__) else f"{kind.__module__}."
    return f"{module}{kind.__qualname__}"


def _text(error: BaseException, redact: Redact | None) -> str:
    try:
        return bounded(str(error), redact)
    except Exception as failure:
        return f"(its text could not be had: {type(failure).__name__})"


def bounded(text: str, redact: Redact | None = None) -> str:
    """Make a text fit to be kept: redacted, no longer than `TEXT_LIMIT`, storable."""
    text = text if redact is None else redact(text)
    # PostgreSQL keeps neither NUL nor half a surrogate pair.
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    text = text.encode("utf-8", "replace").decode("utf-8")
    if len(text) <= TEXT_LIMIT:
        return text

    return f"{text[:TEXT_LIMIT]}... ({len(text) - TEXT_LIMIT} more characters)"


def _kind(value: Any) -> str:
    if isinstance(value, Outcome):
        return repr(value)

    return f"a {type(value).__name__}"
