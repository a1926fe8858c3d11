"""One call of the handler: when, how long, and which of its jobs it finished."""

from collections.abc import Sequence

from msgspec import Struct

from pgcdc_outbox.job import Job


class Call(Struct, frozen=True):
    """A call of the handler that ended, or was given up."""

    began: float
    """Seconds of ``time.perf_counter``."""
    seconds: float
    """How long it took."""


class Execution(Struct, frozen=True):
    """Jobs that one call finished, so that nothing else is recorded about them."""

    jobs: Sequence[Job]
    call: Call
    shared: int
    """How many jobs shared the call, those that failed included."""

    def only(self, jobs: Sequence[Job]) -> "Execution":
        """The same call, for these jobs."""
        return Execution(jobs, self.call, self.shared)
