"""Where executions are noted that may end the process."""

from collections.abc import Mapping, Sequence

from pgcdc_outbox.core.crash import Started
from pgcdc_outbox.errors import Fenced, OutboxError
from pgcdc_outbox.job import Job
from pgcdc_outbox.postgres.queries import query
from pgcdc_outbox.postgres.session import Session
from pgcdc_outbox.postgres.sqlstate import ledger_error
from pgcdc_outbox.postgres.statements import Row


class PostgresRegister:
    """Writes to ``started``, under the epoch of the hold."""

    def __init__(self, session: Session, *, consumer: str, schema: str, instance: str) -> None:
        self._session = session
        self._consumer = consumer
        self._schema = schema
        self._instance = instance

    async def left(self) -> Sequence[Started]:
        """What was noted and not forgotten, in this process or in one before it."""
        rows = await self._rows(
            "left_started", {"instance": self._instance}, doing="look what was running"
        )
        return [
            Started(
                id=id_,
                attempt=attempt,
                ours=ours,
                once=once,
                instance=instance,
                started_at=started_at,
            )
            for id_, attempt, ours, once, instance, started_at in rows
        ]

    async def start(self, job: Job, *, ended: Mapping[int, int], epoch: int) -> None:
        """Note that a job is about to be executed; forget these attempts, by id."""
        about = {"id": job.id, "attempt": job.attempt, "instance": self._instance}
        await self._write(
            "start", {**about, **_columns(ended)}, epoch=epoch, doing="note what is about to run"
        )

    async def start_once(self, jobs: Sequence[Job], *, epoch: int) -> None:
        """Note that jobs are about to be executed, and must not be again."""
        about = {
            "ids": [job.id for job in jobs],
            "attempts": [job.attempt for job in jobs],
            "instance": self._instance,
        }
        await self._write("start_once", about, epoch=epoch, doing="note what is to run once")

    async def forget(self, ended: Mapping[int, int], *, epoch: int) -> None:
        """Forget these attempts, by id: they ended."""
        await self._write(
            "forget_started", _columns(ended), epoch=epoch, doing="forget what has ended"
        )

    async def calm(self, *, epoch: int) -> None:
        """Count crashes from nothing: there was progress."""
        await self._write("calm", {}, epoch=epoch, doing="note that there is progress")

    async def _write(
        self, name: str, params: Mapping[str, object], *, epoch: int, doing: str
    ) -> None:
        rows = await self._rows(name, {"epoch": epoch, **params}, doing=doing)
        if not rows or not rows[0][0]:
            raise Fenced(f"consumer {self._consumer}: epoch {epoch} is over")

    async def _rows(self, name: str, params: Mapping[str, object], *, doing: str) -> list[Row]:
        try:
            return await self._session.rows(
                query(name, self._schema), {"consumer": self._consumer, **params}, doing=doing
            )
        except OutboxError as error:
            raise ledger_error(error) from error


def _columns(ended: Mapping[int, int]) -> dict[str, object]:
    return {"ended_ids": list(ended), "ended_attempts": list(ended.values())}
