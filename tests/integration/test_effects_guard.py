"""The connection that a handler gets refuses whatever begins or ends its transaction."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import psycopg
import pytest
from anyio import to_thread

from pgcdc_outbox import Job
from pgcdc_outbox.errors import HandlerInvalid, TransactionOver, TransactionOwned
from pgcdc_outbox.postgres.effects.keywords import transaction_command
from tests.effects import Effecting, effects, make_ledger, write
from tests.harness import Outbox, consumer
from tests.integration.test_effects import LATER

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version

Async = psycopg.AsyncConnection[Any]
Sync = psycopg.Connection[Any]


@pytest.fixture
def outbox(outbox: Outbox) -> Outbox:
    make_ledger(outbox)
    return outbox


async def run(outbox: Outbox, body: Callable[[Job, Any], Awaitable[Any]]) -> None:
    """Run a body for one job."""
    outbox.put(["x"])
    await consumer(outbox, Effecting(body), retry=LATER).run(once=True)


def error_of(outbox: Outbox) -> tuple[str, str]:
    """What the failure of the only job says."""
    ((error, text),) = outbox.rows(
        "select errors -> -1 ->> 'error', errors -> -1 ->> 'text' from failed"
    )
    return error, text


async def entered(connection: Any) -> None:
    async with connection:
        pass


async def in_transaction(connection: Any) -> None:
    async with connection.transaction():
        pass


async def through_a_cursor(connection: Any) -> None:
    async with connection.cursor() as cursor:
        await cursor.connection.commit()


async def many(connection: Any) -> None:
    async with connection.cursor() as cursor:
        await cursor.executemany("rollback to x", [()])


async def streamed(connection: Any) -> None:
    async with connection.cursor() as cursor:
        async for _ in cursor.stream("commit"):
            pass


REFUSED: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "commit": lambda c: c.commit(),
    "rollback": lambda c: c.rollback(),
    "close": lambda c: c.close(),
    "transaction": in_transaction,
    "set_autocommit": lambda c: c.set_autocommit(True),
    "tpc_begin": lambda c: c.tpc_begin("x"),
    "tpc_prepare": lambda c: c.tpc_prepare(),
    "tpc_commit": lambda c: c.tpc_commit(),
    "tpc_rollback": lambda c: c.tpc_rollback(),
    "async with": entered,
    "cursor": through_a_cursor,
    "executemany": many,
    "stream": streamed,
    "text": lambda c: c.execute("commit"),
    "bytes": lambda c: c.execute(b" -- now\n ROLLBACK"),
    "composed": lambda c: c.execute(
        psycopg.sql.SQL("savepoint {}").format(psycopg.sql.Identifier("s"))
    ),
    "second": lambda c: c.execute("select 1; commit"),
}


@pytest.mark.parametrize("how", REFUSED)
async def test_what_ends_the_transaction_is_refused(outbox: Outbox, how: str) -> None:
    async def body(job: Job, connection: Async) -> None:
        with pytest.raises(TransactionOwned, match="belongs to the consumer") as refused:
            await REFUSED[how](connection)

        assert "unsafe" in refused.value.hint
        await write(job, connection)

    await run(outbox, body)

    assert len(effects(outbox)) == 1


def sync_entered(connection: Sync) -> None:
    with connection:
        pass


def sync_in_transaction(connection: Sync) -> None:
    with connection.transaction():
        pass


REFUSED_IN_THREADS: dict[str, Callable[[Any], Any]] = {
    "commit": lambda c: c.commit(),
    "rollback": lambda c: c.rollback(),
    "close": lambda c: c.close(),
    "transaction": sync_in_transaction,
    "set_autocommit": lambda c: c.set_autocommit(True),
    "autocommit": lambda c: setattr(c, "autocommit", True),
    "tpc_begin": lambda c: c.tpc_begin("x"),
    "tpc_prepare": lambda c: c.tpc_prepare(),
    "tpc_commit": lambda c: c.tpc_commit(),
    "tpc_rollback": lambda c: c.tpc_rollback(),
    "with": sync_entered,
    "cursor": lambda c: c.cursor().connection.commit(),
    "executemany": lambda c: c.cursor().executemany("end", [()]),
    "stream": lambda c: list(c.cursor().stream("abort")),
    "text": lambda c: c.execute("start transaction"),
}


class InThread(Effecting):
    """Calls a function of the job and a connection, in a thread."""

    def __init__(self, call: Callable[[Job, Sync], Any]) -> None:
        super().__init__()
        self._call = call

    async def execute(self, jobs: Any, unit: Any) -> Any:
        async with unit.effects(jobs) as part:
            connection = await part.connection(psycopg.Connection)
            await to_thread.run_sync(self._call, jobs[0], connection)


def write_in_thread(job: Job, connection: Sync) -> None:
    connection.execute("insert into public.effect values (%s, %s)", [job.id, job.attempt])


@pytest.mark.parametrize("how", REFUSED_IN_THREADS)
async def test_in_a_thread_too(outbox: Outbox, how: str) -> None:
    def call(job: Job, connection: Sync) -> None:
        with pytest.raises(TransactionOwned):
            REFUSED_IN_THREADS[how](connection)

        write_in_thread(job, connection)

    outbox.put(["x"])
    await consumer(outbox, InThread(call), retry=LATER).run(once=True)

    assert len(effects(outbox)) == 1


async def test_the_connections_are_of_the_classes_that_were_asked_for(outbox: Outbox) -> None:
    seen: list[bool] = []

    class Looks(Effecting):
        async def execute(self, jobs: Any, unit: Any) -> Any:
            async with unit.effects(jobs) as part:
                one = await part.connection(psycopg.AsyncConnection)
                other = await part.connection(psycopg.Connection)
                seen.append(isinstance(one, psycopg.AsyncConnection))
                seen.append(isinstance(other, psycopg.Connection))
                seen.append(await part.connection(Async) is one)
                await write(jobs[0], one)
                # The same transaction: each sees what the other did.
                (count,) = await to_thread.run_sync(
                    lambda: other.execute("select count(*) from public.effect").fetchone()
                )
                seen.append(count == 1)
                with pytest.raises(HandlerInvalid, match="'dict' is not known"):
                    await part.connection(dict)

    outbox.put(["x"])
    await consumer(outbox, Looks(), retry=LATER).run(once=True)

    assert seen == [True] * 4
    assert len(effects(outbox)) == 1


async def test_statements_are_prepared_in_every_guise_of_a_connection(outbox: Outbox) -> None:
    """They share the names of what is prepared, over parts and over batches."""
    ids = outbox.put(range(30))

    class Both(Effecting):
        async def execute(self, jobs: Any, unit: Any) -> Any:
            for job in jobs:
                async with unit.effects([job]) as part:
                    await write(job, await part.connection(psycopg.AsyncConnection))
                    sync = await part.connection(psycopg.Connection)
                    await to_thread.run_sync(write_in_thread, job, sync)
                    for n in range(7):
                        sync.execute("select %s::int", [n])

    await consumer(outbox, Both(), batch_size=10).run(once=True)

    assert effects(outbox) == [(i, 1) for i in ids for _ in range(2)]


async def test_savepoints_are_for_the_unsafe_connection(outbox: Outbox) -> None:
    async def body(job: Job, connection: Any) -> None:
        await write(job, connection)
        with suppress(psycopg.errors.DivisionByZero):
            async with connection.unsafe.transaction():
                await write(job, connection)
                await connection.execute("select 1 / 0")

    await run(outbox, body)

    assert len(effects(outbox)) == 1


@pytest.mark.parametrize("command", ["commit", "rollback", "commit; begin", "rollback; begin"])
async def test_who_ends_the_transaction_all_the_same_has_failed(
    outbox: Outbox, command: str
) -> None:
    async def body(job: Job, connection: Any) -> None:
        await write(job, connection)
        await connection.unsafe.execute(command)

    await run(outbox, body)

    error, text = error_of(outbox)
    assert error == "pgcdc_outbox.errors.TransactionOwned"
    assert "has ended a transaction" in text
    assert outbox.rows("select * from trace") == []


async def test_a_transaction_put_in_place_of_ours_is_noticed_at_the_commit(outbox: Outbox) -> None:
    async def body(job: Job, connection: Any) -> None:
        await connection.unsafe.execute("commit; begin; savepoint pgcdc_part")
        await write(job, connection)

    await run(outbox, body)

    assert error_of(outbox)[0] == "pgcdc_outbox.errors.TransactionOwned"
    assert effects(outbox) == []


async def test_a_failed_statement_cannot_be_passed_over(outbox: Outbox) -> None:
    async def body(job: Job, connection: Async) -> None:
        await write(job, connection)
        with pytest.raises(psycopg.errors.DivisionByZero):
            await connection.execute("select 1 / 0")

    await run(outbox, body)

    assert "the call went on as if it had not" in error_of(outbox)[1]
    assert effects(outbox) == []


async def test_a_connection_is_of_no_use_after_its_part(outbox: Outbox) -> None:
    kept: list[Any] = []

    async def body(job: Job, connection: Async) -> None:
        for old in kept:
            with pytest.raises(TransactionOver):
                await write(job, old)

        kept.append(connection)
        await write(job, connection)

    outbox.put(range(3))
    await consumer(outbox, Effecting(body), retry=LATER).run(once=True)

    assert len(effects(outbox)) == 3


async def test_parts_are_not_nested(outbox: Outbox) -> None:
    class Nests(Effecting):
        async def execute(self, jobs: Any, unit: Any) -> Any:
            async with unit.effects(jobs):
                with pytest.raises(TransactionOwned, match="within another"):
                    async with unit.effects(jobs):
                        pass

                self.batches.append(list(jobs))

    outbox.put(["x"])
    handler = Nests()
    await consumer(outbox, handler, retry=LATER).run(once=True)

    assert len(handler.jobs) == 1
    assert outbox.rows("select * from failed") == []


async def test_parts_of_tasks_take_turns(outbox: Outbox) -> None:
    ids = outbox.put(range(20))

    class SideBySide(Effecting):
        async def execute(self, jobs: Any, unit: Any) -> Any:
            async def one(job: Job) -> None:
                async with unit.effects([job]) as part:
                    await write(job, await part.connection(psycopg.AsyncConnection))

            async with anyio.create_task_group() as group:
                for job in jobs:
                    group.start_soon(one, job)

    await consumer(outbox, SideBySide(), batch_size=20).run(once=True)

    assert effects(outbox) == [(i, 1) for i in ids]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("select 1", None),
        ("COMMIT", "COMMIT"),
        ("  begin work", "BEGIN WORK"),
        ("/* a */ -- b\n rollback to savepoint x", "ROLLBACK TO"),
        ("select ';commit'", None),
        ("select 'it''s; commit'", None),
        (r"select e'\'; commit; '", None),
        ('select ";commit"', None),
        ("do $$ begin; commit; end $$", None),
        ("do $x$ begin; $$; commit; end $x$", None),
        ("insert into t values (1);\nend", "END"),
        ("prepare p as select 1", None),
        ("prepare transaction 'x'", "PREPARE TRANSACTION"),
        ("release s", "RELEASE S"),
        ("endless()", None),
        ("", None),
    ],
)
def test_statements_that_end_a_transaction_are_found_in_the_text(
    text: str, found: str | None
) -> None:
    assert transaction_command(text) == found
