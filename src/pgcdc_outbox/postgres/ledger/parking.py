"""Where jobs wait behind another of their key: a table, and who is waited for."""

from collections.abc import Mapping, Sequence

from pgcdc_outbox.core.held_keys import Finished, HeldKey
from pgcdc_outbox.errors import Fenced, OutboxError
from pgcdc_outbox.job import Job
from pgcdc_outbox.postgres.ledger.ledger import job_columns
from pgcdc_outbox.postgres.queries import query
from pgcdc_outbox.postgres.session import Session
from pgcdc_outbox.postgres.sqlstate import ledger_error
from pgcdc_outbox.postgres.statements import Row

# Few enough that a failure among them sends few back, many enough that a statement
# for each run costs little.
_RUN = 100


class PostgresParkingLot:
    """Writes to ``parked`` and ``held_key``, under the epoch of the hold."""

    def __init__(self, session: Session, *, consumer: str, schema: str) -> None:
        self._session = session
        self._consumer = consumer
        self._schema = schema

    async def held(self) -> Sequence[HeldKey]:
        """Every key that is held."""
        rows = await self._rows("held_keys", {}, doing="look which keys are held")
        return [HeldKey(*row) for row in rows]

    async def unheld(self) -> Sequence[str]:
        """Keys of which jobs are parked, although nothing holds them."""
        rows = await self._rows("unheld_keys", {}, doing="look for parked jobs")
        return [key for (key,) in rows]

    async def orphaned(self) -> Sequence[str]:
        """Keys that are held by a job which is nowhere to be found, or is dead."""
        rows = await self._rows("orphaned_keys", {}, doing="look for keys that wait for nobody")
        return [key for (key,) in rows]

    async def park(self, jobs: Sequence[Job], held: Sequence[HeldKey], *, epoch: int) -> None:
        """Write all of them, each behind what holds its key, or none."""
        ((current,),) = await self._rows(
            "park",
            {
                "epoch": epoch,
                **job_columns(jobs),
                "times": [job.parked + 1 for job in jobs],
                "positions": [job.position for job in jobs],
                "holders": [each.id for each in held],
                "untils": [each.until for each in held],
            },
            doing="park jobs behind a failed one",
        )
        if not current:
            raise self._fenced(epoch)

    async def release(self, finished: Sequence[Finished], *, epoch: int) -> Mapping[str, HeldKey]:
        """Put the next parked jobs of these keys back in line."""
        rows = await self._rows(
            "release_parked",
            {
                "epoch": epoch,
                "keys": [each.key for each in finished],
                "ids": [each.id for each in finished],
                "attempts": [each.attempt for each in finished],
                "limit": _RUN,
            },
            doing="let parked jobs go",
        )
        if not rows:
            raise self._fenced(epoch)

        return {key: HeldKey(key, id_, until) for key, id_, until, jobs in rows if jobs}

    def _fenced(self, epoch: int) -> Fenced:
        return Fenced(f"consumer {self._consumer}: epoch {epoch} is over")

    async def _rows(self, name: str, params: Mapping[str, object], *, doing: str) -> list[Row]:
        try:
            return await self._session.rows(
                query(name, self._schema), {"consumer": self._consumer, **params}, doing=doing
            )
        except OutboxError as error:
            raise ledger_error(error) from error
