"""Whether a job that failed is tried again, and when."""

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from pgcdc_outbox.errors import PayloadInvalid, SettingsError
from pgcdc_outbox.job import Job
from pgcdc_outbox.outcome import Dead, Retry

Jitter = Callable[[float, float], float]
"""A number between the two, such as `random.uniform`."""

EXHAUSTED = "exhausted"
UNDECODABLE = "undecodable"


class Policy(Protocol):
    """Judges failures. `RetryPolicy` is one; any object with these two is another."""

    def judge(self, job: Job, error: BaseException, *, jitter: Jitter) -> Retry | Dead:
        """Say what becomes of ``job``, which was just executed and failed with ``error``."""
        ...

    def is_last(self, job: Job) -> bool:
        """Say whether a failure of this attempt is final. Such a job is executed alone."""
        ...


class RetryPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Exponential backoff with jitter, capped, then the dead letters.

    Delays are seconds. The delay after attempt n is ``first_delay * factor **
    (n - 1)``, at most ``max_delay``, of which the part ``jitter`` (0 to 1) is
    left to chance. ``max_attempts`` counts executions, the first included.
    Raises `SettingsError` for values that make no sense.
    """

    max_attempts: int = 10
    first_delay: float = 1.0
    factor: float = 2.0
    max_delay: float = 3600.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        _require("max_attempts", self.max_attempts, int, 1, 1_000_000)
        _require("first_delay", self.first_delay, float, 0, 1e9)
        _require("factor", self.factor, float, 1, 1e6)
        _require("max_delay", self.max_delay, float, 0, 1e9)
        _require("jitter", self.jitter, float, 0, 1)

    def judge(self, job: Job, error: BaseException, *, jitter: Jitter) -> Retry | Dead:
        """Retry with a delay, or Dead: at the last attempt, or if trying again cannot help."""
        if isinstance(error, Dead):
            return error

        if isinstance(error, PayloadInvalid):
            return Dead(UNDECODABLE)

        if self.is_last(job):
            return Dead(EXHAUSTED)

        if isinstance(error, Retry) and error.after is not None:
            return error

        return Retry(self._delay(job.attempt - job.prior_attempts, jitter))

    def is_last(self, job: Job) -> bool:
        """Whether the attempts are used up with this one."""
        return job.attempt - job.prior_attempts >= self.max_attempts

    def _delay(self, attempt: int, jitter: Jitter) -> float:
        # Bounded before the power, not after: 2.0 ** 1024 overflows.
        exponent = min(max(attempt, 1) - 1, 40)
        ceiling = min(self.first_delay * min(self.factor**exponent, 1e12), self.max_delay)
        return jitter(ceiling * (1 - self.jitter), ceiling)


def _require(field: str, value: float, kind: type, least: float, most: float) -> None:
    allowed = isinstance(value, int | kind) and not isinstance(value, bool)
    if not allowed or not least <= value <= most:
        noun = "a whole number" if kind is int else "a number"
        raise SettingsError(
            f"RetryPolicy.{field}: {value!r} is not {noun} from {least:g} to {most:g}"
        )
