"""Routes whose effects commit with their outcome, routes that run once, and jobs that follow."""

from typing import Any

import psycopg
import pytest

from pgcdc_outbox import Context, Dead, Job, Retry, RetryPolicy, Router, Snooze
from pgcdc_outbox.events import JobDead
from tests.effects import effects, make_ledger
from tests.harness import Outbox, Watcher, consumer, running, streaming
from tests.wait import eventually_async

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version

IN_BOTH_MODES = True

INSERT = "insert into public.effect (id, attempt) values ({}, {})"
Async = psycopg.AsyncConnection[Any]


async def test_a_job_takes_correlation_and_cause_along(outbox: Outbox) -> None:
    """Over two hops, from async and from sync handlers; explicit headers win."""
    router, seen = Router(), list[Job]()

    @router.on("first")
    async def first(context: Context) -> None:
        seen.append(context.job)
        await context.enqueue({"n": 2}, topic="second", key="k")

    @router.on("second")
    def second(context: Context) -> None:
        seen.append(context.job)
        context.enqueue_sync({"n": 3}, topic="third", headers={"causation-id": "mine"})

    @router.on("third")
    async def third(job: Job) -> None:
        seen.append(job)

    outbox.put([{"n": 1}], topic="first", headers={"traceparent": "00-4bf9-01", "other": "x"})
    async with running(consumer(outbox, router)):
        await eventually_async(lambda: _is(len(seen) == 3))

    one, two, three = seen
    assert one.headers == {"traceparent": "00-4bf9-01", "other": "x"}
    inherited = {"correlation-id": str(one.id), "traceparent": "00-4bf9-01"}
    assert two.headers == {**inherited, "causation-id": str(one.id)}
    assert three.headers == {**inherited, "causation-id": "mine"}
    assert two.key == "k"


async def test_each_kind_of_connection_writes_in_the_transaction(outbox: Outbox) -> None:
    make_ledger(outbox)
    router = Router()

    @router.on("async", transactional=True)
    async def on_the_loop(job: Job, connection: Async) -> None:
        await connection.execute(INSERT.format("%s", "%s"), [job.id, job.attempt])

    @router.on("sync", transactional=True)
    def in_a_thread(job: Job, connection: psycopg.Connection[Any]) -> None:
        connection.execute(INSERT.format("%s", "%s"), [job.id, job.attempt])

    @router.on("many", transactional=True, batch=True)
    def many(jobs: list[Job], connection: psycopg.Connection[Any]) -> None:
        for job in jobs:
            connection.execute(INSERT.format("%s", "%s"), [job.id, job.attempt])

    with psycopg.connect(outbox.dsn) as tx:
        topics = ["async", "sync", "many"] * 3
        ids = [outbox.client.enqueue(n, topic=topic, tx=tx) for n, topic in enumerate(topics)]

    assert await consumer(outbox, router).run(once=True) == 0
    assert outbox.rows("select errors from failed") == []
    assert effects(outbox) == [(id_, 1) for id_ in ids]
    assert outbox.rows("select count(distinct xid) from public.effect") == [(1,)]


async def test_several_handlers_of_a_topic_share_one_transaction(outbox: Outbox) -> None:
    """Those before and after the transactional one too; a failure undoes what all of them did."""
    make_ledger(outbox)
    router, seen = Router(), list[str]()

    @router.on("t")
    async def before(context: Context) -> None:
        seen.append("before")
        await context.enqueue(context.attempt, topic="follows")

    @router.on("t", transactional=True)
    async def writes(job: Job, connection: Async) -> None:
        seen.append("writes")
        await connection.execute(INSERT.format("%s", "%s"), [job.id, job.attempt])

    @router.on("t")
    async def after(job: Job) -> None:
        seen.append("after")
        if job.attempt == 1:
            raise ValueError("not yet")

    followed: list[Any] = []

    @router.on("follows")
    async def follows(payload: Any) -> None:
        followed.append(payload)

    (id_,) = outbox.put(["x"], topic="t")
    async with running(consumer(outbox, router)):
        await eventually_async(lambda: _is(followed))

    assert seen == ["before", "writes", "after"] * 2
    assert effects(outbox) == [(id_, 2)], "those of the first attempt were undone"
    assert followed == [2], "and so was the job that followed from it"


@pytest.mark.parametrize("how", ["raised", "returned", "undecodable"])
async def test_what_fails_leaves_nothing_and_its_neighbours_stay(outbox: Outbox, how: str) -> None:
    make_ledger(outbox)
    router = Router()

    @router.on("t", transactional=True)
    async def handle(number: int, job: Job, connection: Async) -> Dead | None:
        await connection.execute(INSERT.format("%s", "%s"), [job.id, job.attempt])
        if number != 2:
            return None

        if how == "raised":
            raise Dead("no")

        return Dead("no")

    ids = outbox.put([1, "x" if how == "undecodable" else 2, 3], topic="t")
    await consumer(outbox, router).run(once=True)

    assert effects(outbox) == [(ids[0], 1), (ids[2], 1)]
    reason = "undecodable" if how == "undecodable" else "no"
    assert outbox.rows("select id, reason from dead_letter") == [(ids[1], reason)]


@pytest.mark.parametrize("forbidden", ["commit", "rollback", "close"])
async def test_the_transaction_is_the_consumers(outbox: Outbox, forbidden: str) -> None:
    make_ledger(outbox)
    router = Router()

    @router.on("t", transactional=True, retry=RetryPolicy(max_attempts=1))
    async def handle(job: Job, connection: Async) -> None:
        await connection.execute(INSERT.format("%s", "%s"), [job.id, job.attempt])
        await getattr(connection, forbidden)()

    outbox.put(["x"], topic="t")
    await consumer(outbox, router).run(once=True)

    assert effects(outbox) == []
    assert outbox.value("select count(*) from dead_letter") == 1


@pytest.mark.parametrize("batch", [False, True])
async def test_what_runs_once_and_fails_is_in_doubt(outbox: Outbox, batch: bool) -> None:
    """Unless it says itself what became of it; and nothing of it runs a second time."""
    router, seen = Router(), list[tuple[Any, int]]()

    def pay(job: Job) -> Any:
        seen.append((job.json(), job.attempt))
        match job.json():
            case "fails":
                raise OSError("connection reset")
            case "retry" if job.attempt == 1:
                return Retry(0.01)
            case "dead":
                return Dead("refused")

        return None

    async def one(job: Job) -> Any:
        return pay(job)

    async def many(jobs: list[Job]) -> Any:
        return {job.id: said for job in jobs if (said := pay(job))}

    router.on("pay", delivery="at_most_once", batch=batch)(many if batch else one)
    watcher = Watcher()
    async with streaming(consumer(outbox, router, batch_size=1, observers=[watcher]), watcher):
        ids = [outbox.put([p], topic="pay")[0] for p in ("fails", "retry", "dead", "fine")]
        await watcher.saw(JobDead, 2)
        await eventually_async(lambda: _is(len(seen) == 5))

    assert sorted(seen) == [("dead", 1), ("fails", 1), ("fine", 1), ("retry", 1), ("retry", 2)]
    letters = "select id, reason, errors -> -1 ->> 'text' from dead_letter order by id"
    assert outbox.rows(letters) == [
        (ids[0], "in_doubt", "connection reset"),
        (ids[2], "refused", "refused"),
    ]
    assert outbox.rows("select * from started") == []


async def test_a_batch_that_runs_once_and_raises_is_in_doubt_as_a_whole(outbox: Outbox) -> None:
    router, calls = Router(), list[int]()

    @router.on("pay", delivery="at_most_once", batch=True)
    async def pay(jobs: list[Job]) -> None:
        calls.append(len(jobs))
        raise Retry(0.01, error="whose?")

    outbox.put(range(3), topic="pay")
    await consumer(outbox, router).run(once=True)

    assert calls == [3]
    assert outbox.rows("select reason from dead_letter") == [("in_doubt",)] * 3


async def test_a_snooze_uses_up_no_attempt(outbox: Outbox) -> None:
    router, seen = Router(), list[int]()

    @router.on("t", retry=RetryPolicy(max_attempts=1))
    async def handle(job: Job) -> None:
        seen.append(job.attempt)
        if len(seen) < 3:
            raise Snooze(after=0.01)

    outbox.put(["x"], topic="t")
    async with running(consumer(outbox, router)):
        await eventually_async(lambda: _is(len(seen) == 3))

    assert outbox.rows("select * from dead_letter") == []


async def _is(value: Any) -> bool:
    return bool(value)
