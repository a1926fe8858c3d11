"""What enqueueing costs, against the same INSERT written by hand in the same driver."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Final

import asyncpg
import msgspec
import psycopg
from psycopg.conninfo import conninfo_to_dict

from benchmarks import outbox
from benchmarks.case import Case, Contender, Point, Sample, Scale
from benchmarks.place import Place
from benchmarks.slots import read_all
from benchmarks.usage import Usage
from pgcdc_outbox import AsyncClient, Client

YARDSTICK: Final = "INSERT by hand"
TOPIC: Final = "order.paid"

_INSERT: Final = "insert into outbox.immediate (topic, payload) values (%s, %s) returning id"
_INSERT_ASYNCPG: Final = _INSERT.replace("%s", "$1", 1).replace("%s", "$2", 1)

# How many jobs a transaction has, and whether its commit waits for the disk.
SHAPES: Final = ((1, "on"), (1, "off"), (100, "off"))

Run = Callable[[str, str, int, int], float]
"""DSN, synchronous_commit, jobs and jobs in a transaction: seconds."""


class Enqueue(Case):
    """One call a job, in the transaction of the caller."""

    name = "enqueue"
    title = "Enqueueing one job after the other"
    unit = "jobs/s"
    counted = (
        "Jobs over the time of all calls and commits on one open connection. By hand: the same "
        "INSERT of topic and payload, which returns the id, and the same encoder of JSON."
    )
    durable = (
        "With synchronous_commit on, every job is on disk; with off, it is in the memory of the "
        "server, and on disk within a second."
    )

    def points(self, place: Place, scale: Scale) -> Iterator[Point]:
        with place.database() as dsn:
            outbox.create(dsn)
            read_all(dsn)
            for size, synchronous in scale.few(SHAPES):
                jobs = scale.size(3000 if synchronous == "on" else 20_000, quick=100)
                count = f"{size} {'job' if size == 1 else 'jobs'} in a transaction"
                for driver, (ours, by_hand) in DRIVERS.items():
                    yield Point(
                        name=f"{driver}, {count}, synchronous_commit {synchronous}",
                        yardstick=YARDSTICK,
                        contenders=[
                            Contender(
                                name=name,
                                run=partial(_timed, run, dsn, synchronous, jobs, size),
                                settings="",
                            )
                            for name, run in ((YARDSTICK, by_hand), ("Client.enqueue", ours))
                        ],
                    )


def _timed(run: Run, dsn: str, synchronous: str, jobs: int, size: int) -> Sample:
    before = Usage.own()
    seconds = run(dsn, synchronous, jobs, size)
    used = Usage.own() - before
    return Sample(value=jobs / seconds, also={"client CPU µs/job": 1e6 * used.cpu_seconds / jobs})


def _psycopg(dsn: str, synchronous: str, jobs: int, size: int) -> float:
    client = Client()

    def enqueue(connection: psycopg.Connection, number: int) -> None:
        client.enqueue({"order": number}, topic=TOPIC, tx=connection)

    return _in_transactions(dsn, synchronous, jobs, size, enqueue)


def _psycopg_by_hand(dsn: str, synchronous: str, jobs: int, size: int) -> float:
    def insert(connection: psycopg.Connection, number: int) -> None:
        connection.execute(_INSERT, [TOPIC, msgspec.json.encode({"order": number})]).fetchone()

    return _in_transactions(dsn, synchronous, jobs, size, insert)


def _in_transactions(
    dsn: str,
    synchronous: str,
    jobs: int,
    size: int,
    put: Callable[[psycopg.Connection, int], None],
) -> float:
    with psycopg.connect(dsn, options=f"-c synchronous_commit={synchronous}") as connection:
        started = time.perf_counter()
        for first in range(0, jobs, size):
            for number in range(first, min(first + size, jobs)):
                put(connection, number)

            connection.commit()

        return time.perf_counter() - started


def _async_psycopg(dsn: str, synchronous: str, jobs: int, size: int) -> float:
    client = AsyncClient()

    async def enqueue(connection: psycopg.AsyncConnection, number: int) -> None:
        await client.enqueue({"order": number}, topic=TOPIC, tx=connection)

    return asyncio.run(_in_async_transactions(dsn, synchronous, jobs, size, enqueue))


def _async_psycopg_by_hand(dsn: str, synchronous: str, jobs: int, size: int) -> float:
    async def insert(connection: psycopg.AsyncConnection, number: int) -> None:
        payload = msgspec.json.encode({"order": number})
        await (await connection.execute(_INSERT, [TOPIC, payload])).fetchone()

    return asyncio.run(_in_async_transactions(dsn, synchronous, jobs, size, insert))


async def _in_async_transactions(
    dsn: str,
    synchronous: str,
    jobs: int,
    size: int,
    put: Callable[[psycopg.AsyncConnection, int], Awaitable[None]],
) -> float:
    options = f"-c synchronous_commit={synchronous}"
    async with await psycopg.AsyncConnection.connect(dsn, options=options) as connection:
        started = time.perf_counter()
        for first in range(0, jobs, size):
            for number in range(first, min(first + size, jobs)):
                await put(connection, number)

            await connection.commit()

        return time.perf_counter() - started


def _asyncpg(dsn: str, synchronous: str, jobs: int, size: int) -> float:
    client = AsyncClient()

    async def enqueue(connection: asyncpg.Connection, number: int) -> None:
        await client.enqueue({"order": number}, topic=TOPIC, tx=connection)

    return asyncio.run(_with_asyncpg(dsn, synchronous, jobs, size, enqueue))


def _asyncpg_by_hand(dsn: str, synchronous: str, jobs: int, size: int) -> float:
    async def insert(connection: asyncpg.Connection, number: int) -> None:
        await connection.fetchval(_INSERT_ASYNCPG, TOPIC, msgspec.json.encode({"order": number}))

    return asyncio.run(_with_asyncpg(dsn, synchronous, jobs, size, insert))


async def _with_asyncpg(
    dsn: str,
    synchronous: str,
    jobs: int,
    size: int,
    put: Callable[[asyncpg.Connection, int], Awaitable[None]],
) -> float:
    place = conninfo_to_dict(dsn)
    connection = await asyncpg.connect(
        host=place.get("host"),
        port=place.get("port"),
        user=place.get("user"),
        password=place.get("password"),
        database=place.get("dbname"),
        server_settings={"synchronous_commit": synchronous},
    )
    try:
        started = time.perf_counter()
        for first in range(0, jobs, size):
            async with connection.transaction():
                for number in range(first, min(first + size, jobs)):
                    await put(connection, number)

        return time.perf_counter() - started
    finally:
        await connection.close()


DRIVERS: Final[dict[str, tuple[Run, Run]]] = {
    "psycopg": (_psycopg, _psycopg_by_hand),
    "psycopg, async": (_async_psycopg, _async_psycopg_by_hand),
    "asyncpg": (_asyncpg, _asyncpg_by_hand),
}
