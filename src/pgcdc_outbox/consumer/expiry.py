"""Jobs that come too late to be started."""

from collections.abc import Sequence
from datetime import UTC

from msgspec import Struct

from pgcdc_outbox.consumer.durably import durably
from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.consumer.ports import ServerClock
from pgcdc_outbox.core.verdict import Failure
from pgcdc_outbox.job import Job
from pgcdc_outbox.outcome import Dead

EXPIRED = "expired"


class Expiry(Struct, frozen=True, kw_only=True):
    """Looks at the clock of the server right before a call, if one of its jobs expires."""

    consumer: str
    clock: ServerClock
    notice: Notice

    async def judge(self, jobs: Sequence[Job]) -> list[Failure]:
        """The jobs whose time is over, as they are to be recorded: they are not executed."""
        now_us = await durably(
            self.clock.now_us,
            doing="ask what time it is",
            consumer=self.consumer,
            notice=self.notice,
        )
        return [
            Failure(job, Dead(EXPIRED), "Expired", f"not started before {_moment(job)}")
            for job in jobs
            if job.expires_us is not None and job.expires_us <= now_us
        ]


def _moment(job: Job) -> str:
    assert job.expires_at is not None
    return job.expires_at.astimezone(UTC).isoformat(timespec="milliseconds")
