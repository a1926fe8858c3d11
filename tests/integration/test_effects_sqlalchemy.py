"""Sessions of SQLAlchemy in the transaction that the consumer owns."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from anyio import to_thread
from sqlalchemy import JSON, BigInteger, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from pgcdc_outbox import AsyncClient, Client, Job
from pgcdc_outbox.errors import TransactionOwned
from tests.effects import Effecting
from tests.harness import Outbox, consumer
from tests.integration.test_effects import LATER

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    note: Mapped[Any] = mapped_column(JSON)


@pytest.fixture
def outbox(outbox: Outbox) -> Outbox:
    outbox.rows("create table public.orders (id bigint primary key, note json)")
    return outbox


Body = Callable[[Job, Any], Any]


class InSession(Effecting):
    """Calls a function of a job and a session: awaited, or in a thread."""

    def __init__(self, kind: type, body: Body) -> None:
        super().__init__()
        self._kind = kind
        self._do = body

    async def execute(self, jobs: Any, unit: Any) -> Any:
        self.batches.append(list(jobs))
        errors: dict[int, Exception] = {}
        for job in jobs:
            try:
                async with unit.effects([job]) as part:
                    session = await part.connection(self._kind)
                    assert isinstance(session, self._kind)
                    if issubclass(self._kind, Session):
                        await to_thread.run_sync(self._do, job, session)
                    else:
                        await self._do(job, session)
            except Exception as error:
                errors[job.id] = error

        return errors


def orders(outbox: Outbox) -> list[tuple[int, Any]]:
    return outbox.rows("select id, note from public.orders order by id")


def add(job: Job, session: Any) -> None:
    session.add(Order(id=job.id, note={"attempt": job.attempt}))


async def add_async(job: Job, session: Any) -> None:
    add(job, session)


BOTH: list[tuple[type, Body]] = [(Session, add), (AsyncSession, add_async)]
KINDS = pytest.mark.parametrize(("kind", "body"), BOTH, ids=["sync", "async"])


@KINDS
async def test_what_a_session_holds_is_committed_with_the_outcome(
    outbox: Outbox, kind: type, body: Body
) -> None:
    """Without a flush, over parts and batches."""
    ids = outbox.put(range(25))

    await consumer(outbox, InSession(kind, body), batch_size=10).run(once=True)

    assert orders(outbox) == [(i, {"attempt": 1}) for i in ids]


@KINDS
async def test_an_error_at_the_last_flush_fails_that_job_alone(
    outbox: Outbox, kind: type, body: Body
) -> None:
    ids = outbox.put(range(3))
    outbox.rows("insert into public.orders values (%s)", [ids[1]])

    await consumer(outbox, InSession(kind, body), retry=LATER).run(once=True)

    assert [i for i, note in orders(outbox) if note] == [ids[0], ids[2]]
    assert outbox.rows("select id, errors -> -1 ->> 'error' from failed") == [
        (ids[1], "sqlalchemy.exc.IntegrityError")
    ]


@pytest.mark.parametrize(
    "method", ["commit", "rollback", "close", "begin", "begin_nested", "reset"]
)
async def test_what_ends_the_transaction_is_refused(outbox: Outbox, method: str) -> None:
    async def in_async(job: Job, session: Any) -> None:
        with pytest.raises(TransactionOwned):
            await end(session)

        add(job, session)

    async def end(session: Any) -> None:
        result = getattr(session, method)()
        if hasattr(result, "__aenter__"):
            async with result:
                pass
        else:
            await result

    def in_thread(job: Job, session: Any) -> None:
        with pytest.raises(TransactionOwned):
            getattr(session, method)()

        add(job, session)

    ids = outbox.put(["x"])
    await consumer(outbox, InSession(AsyncSession, in_async), retry=LATER).run(once=True)
    ids += outbox.put(["y"])
    await consumer(outbox, InSession(Session, in_thread), retry=LATER).run(once=True)

    assert [i for i, _ in orders(outbox)] == ids


REFUSED: dict[str, Callable[[Any], Any]] = {
    "text": lambda s: s.execute(text("commit")),
    "connection": lambda s: s.connection().commit(),
    "its transaction": lambda s: s.connection().get_transaction().commit(),
    "a savepoint": lambda s: s.connection().begin_nested(),
    "the driver": lambda s: s.connection().connection.driver_connection.commit(),
}


@pytest.mark.parametrize("how", REFUSED)
async def test_beneath_the_session_too(outbox: Outbox, how: str) -> None:
    def body(job: Job, session: Any) -> None:
        with pytest.raises(TransactionOwned):
            REFUSED[how](session)

        raise ValueError("refused")

    outbox.put(["x"])
    await consumer(outbox, InSession(Session, body), retry=LATER).run(once=True)

    assert outbox.value("select errors -> -1 ->> 'text' from failed") == "refused"


async def test_a_rollback_beneath_the_session_fails_the_call(outbox: Outbox) -> None:
    def body(job: Job, session: Any) -> None:
        add(job, session)
        session.flush()
        session.connection().rollback()

    outbox.put(["x"])
    await consumer(outbox, InSession(Session, body), retry=LATER).run(once=True)

    assert orders(outbox) == []
    assert "rolled back" in outbox.value("select errors -> -1 ->> 'text' from failed")


async def test_an_error_that_is_passed_over_fails_the_call(outbox: Outbox) -> None:
    async def body(job: Job, session: Any) -> None:
        session.add(Order(id=job.id, note=1))
        await session.flush()
        session.expunge_all()
        session.add(Order(id=job.id, note=2))
        with pytest.raises(IntegrityError):
            await session.flush()

    outbox.put(["x"])
    await consumer(outbox, InSession(AsyncSession, body), retry=LATER).run(once=True)

    assert orders(outbox) == []
    assert outbox.value("select count(*) from failed") == 1


async def test_guises_of_one_part_see_each_other(outbox: Outbox) -> None:
    (id_,) = outbox.put(["x"])
    seen: list[Any] = []

    class All(Effecting):
        async def execute(self, jobs: Any, unit: Any) -> Any:
            async with unit.effects(jobs) as part:
                session = await part.connection(AsyncSession)
                add(jobs[0], session)
                other = await part.connection(Session)
                seen.append(await to_thread.run_sync(lambda: other.scalars(select(Order.id)).all()))
                driver = await part.connection(psycopg.AsyncConnection)
                cursor = await driver.execute("select id from public.orders")
                seen.append(await cursor.fetchall())

    await consumer(outbox, All(), retry=LATER).run(once=True)

    assert outbox.rows("select errors -> -1 from failed") == []
    assert seen == [[id_], [(id_,)]]


async def test_jobs_are_enqueued_through_a_session(outbox: Outbox) -> None:
    async def body(job: Job, session: Any) -> None:
        if job.topic == "start":
            await AsyncClient().enqueue(1, topic="next", tx=session)

    def in_thread(job: Job, session: Any) -> None:
        Client().enqueue(2, topic="last", tx=session)

    outbox.put(["x"], topic="start")
    await consumer(outbox, InSession(AsyncSession, body)).run(once=True)
    outbox.put(["y"], topic="again")
    await consumer(outbox, InSession(Session, in_thread)).run(once=True)

    topics = {topic for (topic,) in outbox.rows("select topic from immediate")}
    assert topics == {"start", "next", "again", "last"}
