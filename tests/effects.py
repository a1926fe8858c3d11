"""Handlers that write rows together with the outcome of their jobs, and the rows."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import psycopg

from pgcdc_outbox import Job
from pgcdc_outbox.consumer.ports import UnitOfWork
from tests.harness import Outbox, Recorder
from tests.wait import eventually_async

Body = Callable[[Job, psycopg.AsyncConnection[Any]], Awaitable[Any]]


def make_ledger(outbox: Outbox) -> None:
    """A table of effects that says nothing against a second one of the same job."""
    outbox.rows(
        "create table public.effect (id bigint, attempt integer, note text, "
        "xid xid8 default pg_current_xact_id())"
    )


def effects(outbox: Outbox) -> list[tuple[int, int]]:
    """Which jobs had which effects, in the order of the ids."""
    return [(i, a) for i, a in outbox.rows("select id, attempt from public.effect order by 1, 2")]


async def write(job: Job, connection: psycopg.AsyncConnection[Any]) -> None:
    """The effect of a job."""
    await connection.execute(
        "insert into public.effect (id, attempt) values (%s, %s)", [job.id, job.attempt]
    )


class Effecting(Recorder):
    """Has an effect for each job, in a part of its own or, ``together``, in one for all."""

    def __init__(self, body: Body = write, *, together: bool = False) -> None:
        super().__init__()
        self._body = body
        self._together = together
        self.unit: UnitOfWork | None = None

    async def execute(self, jobs: Sequence[Job], unit: UnitOfWork) -> dict[int, Exception]:
        self.batches.append(list(jobs))
        self._changed.set()
        self.unit = unit
        if self._together:
            async with unit.effects(jobs) as part:
                connection = await part.connection(psycopg.AsyncConnection)
                return {job.id: said for job in jobs if (said := await self._body(job, connection))}

        errors: dict[int, Exception] = {}
        for job in jobs:
            try:
                async with unit.effects([job]) as part:
                    connection = await part.connection(psycopg.AsyncConnection)
                    if said := await self._body(job, connection):
                        errors[job.id] = said
            except Exception as error:
                errors[job.id] = error

        return errors


GATE = 42
GATED = f"""
create function public.wait_at_the_gate() returns trigger language plpgsql as $$
begin
    perform pg_advisory_xact_lock_shared({GATE});
    return null;
end $$;
create constraint trigger gate after insert on public.effect deferrable initially deferred
    for each row execute function public.wait_at_the_gate();
"""
WAITING = (
    "select pid from pg_stat_activity where datname = current_database() "
    "and query = 'commit' and wait_event = 'advisory'"
)


class Gate:
    """A commit stops here until it is opened."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._connection = psycopg.connect(outbox.dsn, autocommit=True)
        self._connection.execute("select pg_advisory_lock(%s)", [GATE])

    async def reached(self) -> int:
        """Wait until a commit has come here; the pid of its server process."""
        return int((await eventually_async(self._look))[0][0])

    async def _look(self) -> list[Any]:
        return self._outbox.rows(WAITING)

    def open(self) -> None:
        self._connection.close()
