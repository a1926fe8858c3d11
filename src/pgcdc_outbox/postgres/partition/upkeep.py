"""The chore of keeping the partitions, beside the jobs."""

from anyio import to_thread

from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.errors import OutboxError
from pgcdc_outbox.events import ChoreFailed, Maintained
from pgcdc_outbox.postgres.partition.maintenance import Maintenance, Report

# Somebody else is at it, and may be cut off.
_BUSY_SECONDS = 60.0


class Upkeep:
    """Runs maintenance now and then, in a thread and on a connection of its own."""

    name = "maintain the partitions"

    def __init__(
        self, maintenance: Maintenance, *, consumer: str, interval: float, notice: Notice
    ) -> None:
        self._maintenance = maintenance
        self._consumer = consumer
        self._interval = interval
        self._notice = notice

    async def once(self) -> float:
        """Maintain; come again after the interval, also when a person has to act first."""
        try:
            # Abandoned on a stop: it ends by itself, and nobody waits for it.
            report = await to_thread.run_sync(self._maintenance.once, abandon_on_cancel=True)
        except OutboxError as error:
            if error.transient:
                raise

            self._notice(
                ChoreFailed(
                    consumer=self._consumer,
                    chore=self.name,
                    error=f"{error}. {error.hint}",
                    delay_seconds=self._interval,
                )
            )
        else:
            if report.busy:
                return min(_BUSY_SECONDS, self._interval)

            self._tell(report)

        return self._interval

    def _tell(self, report: Report) -> None:
        parts = (report, report.audit)
        troubles = tuple(
            trouble for part in parts for trouble in (*part.delayed, *map(str, part.kept))
        )
        created = sum(len(part.created) for part in parts)
        dropped = sum(len(part.dropped) for part in parts)
        if created or dropped or troubles:
            self._notice(
                Maintained(
                    consumer=self._consumer,
                    created=created,
                    dropped=dropped,
                    kept=troubles,
                )
            )
