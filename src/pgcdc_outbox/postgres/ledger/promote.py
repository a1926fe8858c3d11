"""Putting back in line what falls due."""

from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.events import Promoted
from pgcdc_outbox.postgres.clock import SessionClock
from pgcdc_outbox.postgres.queries import query


class Promotion:
    """The chore of moving due rows of ``scheduled`` and ``failed`` to ``immediate``."""

    name = "promote due jobs"

    def __init__(
        self,
        clock: SessionClock,
        *,
        consumer: str,
        schema: str,
        interval: float,
        limit: int,
        notice: Notice,
    ) -> None:
        self._clock = clock
        self._consumer = consumer
        self._promote = query("promote", schema)
        self._interval = interval
        self._limit = limit
        self._notice = notice

    async def once(self) -> float:
        """Promote what is due; again at once if there may be more."""
        return 0.0 if await self._some() else self._interval

    async def all(self) -> None:
        """Promote everything that is due by now."""
        while await self._some():
            pass

    async def _some(self) -> bool:
        """Promote as many as go in one statement; whether there may be more."""
        scheduled, failed = await self._clock.row(
            self._promote, {"consumer": self._consumer, "limit": self._limit}, doing=self.name
        )
        if scheduled or failed:
            self._notice(Promoted(consumer=self._consumer, scheduled=scheduled, failed=failed))

        return bool(max(scheduled, failed) >= self._limit)
