"""A router as the handler of a consumer: what fails is isolated, judged by topic, never lost."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import run as run_program
from typing import Any

import anyio
import pytest

from pgcdc_outbox import AsyncClient, Client, Context, Dead, Job, Retry, RetryPolicy, Router
from pgcdc_outbox.codec import Msgpack
from pgcdc_outbox.events import JobDead
from tests.harness import QUICK, Outbox, Watcher, consumer, running, streaming
from tests.wait import eventually_async

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version

IN_BOTH_MODES = True


@dataclass
class Order:
    order: int


def dead(outbox: Outbox) -> dict[int, tuple[str, int, str]]:
    """Reason, attempts and last text of each dead letter, by id."""
    return {
        id_: (reason, attempt, text)
        for id_, reason, attempt, text in outbox.rows(
            "select id, reason, attempt, errors -> -1 ->> 'text' from dead_letter"
        )
    }


async def test_each_job_goes_to_the_handler_of_its_topic(outbox: Outbox) -> None:
    router, seen = Router("order"), list[tuple[str, str, Any]]()

    @router.on("paid")
    async def paid(order: Order, job: Job) -> None:
        seen.append(("paid", job.topic, order))

    @router.on("*")
    def whatever(job: Job) -> None:
        seen.append(("*", job.topic, job.json()))

    @router.on("#", batch=True)
    async def rest(jobs: list[Job]) -> None:
        seen.extend(("#", job.topic, job.json()) for job in jobs)

    for topic in ("order.paid", "order.sent", "order", "order.a.b"):
        outbox.put([{"order": 1}], topic=topic)

    assert await consumer(outbox, router).run(once=True) == 0
    assert sorted(seen, key=str) == [
        ("#", "order", {"order": 1}),
        ("#", "order.a.b", {"order": 1}),
        ("*", "order.sent", {"order": 1}),
        ("paid", "order.paid", Order(1)),
    ]
    assert outbox.unsettled() == 0


async def test_what_fails_is_isolated_and_judged_by_its_topic(outbox: Outbox) -> None:
    """In one batch: neighbours are done once, each failure has its own attempts and fate."""
    router, seen = Router(), dict[int, list[tuple[str, int]]]()

    def note(job: Job) -> None:
        seen.setdefault(job.id, []).append((job.topic, job.attempt))

    @router.on("good")
    async def good(job: Job) -> None:
        note(job)

    @router.on("typed")
    async def typed(order: Order, job: Job) -> None:
        note(job)

    @router.on("patient", retry=RetryPolicy(max_attempts=5, first_delay=0.01, max_delay=0.05))
    async def patient(job: Job) -> None:
        note(job)
        raise ValueError("no luck")

    @router.on("hasty.#", retry=RetryPolicy(max_attempts=1))
    def hasty(job: Job) -> None:
        note(job)
        raise SystemExit(3)

    @router.on("twice")
    async def twice(job: Job) -> Retry | None:
        note(job)
        return Retry(after=0.01) if job.attempt == 1 else None

    @router.on("never")
    async def never(job: Job) -> None:
        note(job)
        raise Dead("unwanted")

    topics = ["good", "typed", "patient", "hasty.a", "twice", "never", "nobody", "good"]
    ids = [outbox.put([{"x": 1}], topic=topic)[0] for topic in topics]
    watcher = Watcher()
    async with streaming(consumer(outbox, router, observers=[watcher]), watcher):
        await watcher.saw(JobDead, 5)
        await eventually_async(lambda: _is(len(seen.get(ids[4], ())) == 2))

    assert seen == {
        ids[0]: [("good", 1)],
        ids[2]: [("patient", n) for n in range(1, 6)],
        ids[3]: [("hasty.a", 1)],
        ids[4]: [("twice", 1), ("twice", 2)],
        ids[5]: [("never", 1)],
        ids[7]: [("good", 1)],
    }
    letters = dead(outbox)
    assert {id_: letter[:2] for id_, letter in letters.items()} == {
        ids[1]: ("undecodable", 1),
        ids[2]: ("exhausted", 5),
        ids[3]: ("exhausted", 1),
        ids[5]: ("unwanted", 1),
        ids[6]: ("no_handler", 1),
    }
    assert "missing required field `order`" in letters[ids[1]][2]


async def test_an_unknown_topic_may_wait_for_its_handler(outbox: Outbox) -> None:
    """A producer was deployed first; a topic without a handler is kept until there is one."""
    before, after, seen = Router(unknown="retry"), Router(), list[int]()

    @before.on("known")
    @after.on("known")
    async def known(job: Job) -> None: ...

    @after.on("new")
    async def new(job: Job) -> None:
        seen.append(job.attempt)

    (id_,) = outbox.put(["x"], topic="new")
    await consumer(outbox, before, retry=RetryPolicy(first_delay=600)).run(once=True)
    assert outbox.rows("select id, errors -> 0 ->> 'text' from failed") == [
        (id_, "no handler for 'new'")
    ]

    outbox.rows("update failed set due_at = now()")
    async with running(consumer(outbox, after)):
        await eventually_async(lambda: _is(seen))

    assert seen == [2]


async def test_a_batch_that_raises_comes_back_one_by_one(outbox: Outbox) -> None:
    """Also beside jobs of other topics, and nobody dies of his neighbour's error."""
    router, calls, singles = Router(), list[list[int]](), list[int]()

    @router.on("many", batch=True, retry=RetryPolicy(max_attempts=2, first_delay=0.01))
    async def many(jobs: Sequence[Job]) -> None:
        calls.append([job.json() for job in jobs])
        if any(job.json() == 2 for job in jobs):
            raise ValueError("it is the second")

    @router.on("one")
    async def one(number: int) -> None:
        singles.append(number)

    with _transaction(outbox) as tx:
        ids = [
            outbox.client.enqueue(n, topic="one" if n % 2 == 0 and n > 3 else "many", tx=tx)
            for n in range(1, 7)
        ]

    watcher = Watcher()
    async with streaming(consumer(outbox, router, observers=[watcher]), watcher):
        await watcher.saw(JobDead)
        await eventually_async(lambda: _is(len(calls) == 5))

    assert calls[0] == [1, 2, 3, 5]
    assert sorted(calls[1:]) == [[1], [2], [3], [5]]
    assert singles == [4, 6]
    assert {id_: letter[:2] for id_, letter in dead(outbox).items()} == {ids[1]: ("exhausted", 2)}


async def test_a_batch_at_its_only_attempt_is_made_one_by_one(outbox: Outbox) -> None:
    router, calls = Router(), list[list[int]]()

    @router.on("many", batch=True, retry=RetryPolicy(max_attempts=1))
    async def many(jobs: list[Job]) -> None:
        calls.append([job.json() for job in jobs])
        if jobs[0].json() == 2:
            raise ValueError("it is the second")

    ids = outbox.put([1, 2, 3], topic="many")
    await consumer(outbox, router).run(once=True)

    assert calls == [[1], [2], [3]]
    assert dead(outbox) == {ids[1]: ("exhausted", 1, "it is the second")}


async def test_jobs_of_one_key_keep_their_order_whatever_their_topics(outbox: Outbox) -> None:
    router, begun, ended = Router(), dict[str, list[int]](), dict[str, list[int]]()

    async def work(job: Job) -> None:
        assert job.key is not None
        assert begun.get(job.key, []) == ended.get(job.key, []), "they never overlap"
        begun.setdefault(job.key, []).append(job.id)
        await anyio.lowlevel.checkpoint()
        ended.setdefault(job.key, []).append(job.id)

    @router.on("a")
    async def a(job: Job) -> None:
        await work(job)

    @router.on("b")
    def b(job: Job) -> None:
        anyio.from_thread.run(work, job)

    @router.on("c", batch=True)
    async def c(jobs: list[Job]) -> None:
        for job in jobs:
            await work(job)

    with _transaction(outbox) as tx:
        expected: dict[str, list[int]] = {}
        for n in range(90):
            key = f"key-{n % 7}"
            id_ = outbox.client.enqueue(n, topic="abc"[n % 3], key=key, tx=tx)
            expected.setdefault(key, []).append(id_)

    await consumer(outbox, router).run(once=True)

    assert outbox.rows("select from failed") == []
    assert ended == expected


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
async def test_payloads_are_compressed_and_coded_on_the_way(
    outbox: Outbox, compression: Any
) -> None:
    router, seen = Router(), list[Any]()

    @router.on("typed")
    async def typed(orders: list[Order], job: Job) -> None:
        seen.append((job.content_type, orders))

    @router.on("any")
    async def anything(payload: Any) -> None:
        seen.append(payload)

    orders = [Order(n) for n in range(500)]
    with Client(
        outbox.dsn, schema=outbox.schema, compress_above=1000, compression=compression
    ) as client:
        client.enqueue(orders, topic="typed")
        client.enqueue([Order(1)], topic="typed")

    async with AsyncClient(
        outbox.dsn,
        schema=outbox.schema,
        codec=Msgpack(),
        compress_above=1000,
        compression=compression,
    ) as client:
        await client.enqueue(orders, topic="typed")
        await client.enqueue({"raw": b"\xff"}, topic="any")

    assert await consumer(outbox, router, retry=QUICK).run(once=True) == 0
    assert sorted(seen, key=str) == sorted(
        [
            (f"application/json+{compression}", orders),
            ("application/json", [Order(1)]),
            (f"application/msgpack+{compression}", orders),
            {"raw": b"\xff"},
        ],
        key=str,
    )


async def test_a_call_that_takes_too_long_is_a_failure(outbox: Outbox) -> None:
    router, seen = Router(), list[Any]()

    @router.on("slow", timeout=0.5, retry=RetryPolicy(max_attempts=1))
    async def slow(context: Context) -> None:
        seen.append(context.remaining)
        await anyio.sleep_forever()

    @router.on("quick", timeout=20)
    async def quick(job: Job) -> None: ...

    (id_,) = outbox.put(["x"], topic="slow")
    outbox.put(["x"], topic="quick")
    await consumer(outbox, router).run(once=True)

    ((reason, attempt, text),) = dead(outbox).values()
    assert (reason, attempt) == ("exhausted", 1)
    assert "slow was not done within 0.5 s" in text
    assert 0 < seen[0] <= 0.5
    assert list(dead(outbox)) == [id_]


async def test_the_commands_consume_with_a_router_and_show_it(
    outbox: Outbox, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(
        "from pgcdc_outbox import Job, Router\n"
        "router = Router('order')\n"
        "@router.on('*')\n"
        "async def handle(job: Job):\n"
        "    print('handled', job.topic)\n"
    )
    outbox.put(["x"], topic="order.paid")

    def command(*arguments: str) -> str:
        done = run_program(
            [sys.executable, "-m", "pgcdc_outbox", "--dsn", outbox.dsn, *arguments],
            cwd=tmp_path,
            env={"PYTHONPATH": str(Path(__file__).parents[2] / "src")},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    options = ("consume", "--handler", "shop:router", "--mode", outbox.mode, "--no-maintain")
    assert await anyio.to_thread.run_sync(lambda: command(*options, "--once")) == (
        "handled order.paid\n"
    )
    assert "order.*" in command("routes", "shop:router")


def _transaction(outbox: Outbox) -> Any:
    import psycopg

    return psycopg.connect(outbox.dsn)


async def _is(value: Any) -> bool:
    return bool(value)
