"""PgQueuer: fill its queue, or drain it. Run in its own environment; knows nothing of ours.

Takes JSON on standard input, prints JSON.
"""

import asyncio
import json
import sys
import time

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode

AT_ONCE = 10_000


async def fill(connection, task):
    queries = Queries(AsyncpgDriver(connection))
    await queries.install()
    if task["tuned"]:
        await queries.optimize_autovacuum()

    for first in range(0, task["jobs"], AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, task["jobs"]))
        payloads = [json.dumps({"order": number, "pad": "x" * 13}).encode() for number in numbers]
        await queries.enqueue(["bench"] * len(payloads), payloads, [0] * len(payloads))

    return {}


async def drain(connection, task):
    queuer = PgQueuer.from_asyncpg_connection(connection)
    seen = 0

    @queuer.entrypoint("bench")
    async def handle(job):
        nonlocal seen
        seen += 1

    settings = {"batch_size": 1000} if task["tuned"] else {}
    started = time.perf_counter()
    await queuer.qm.run(mode=QueueExecutionMode.drain, **settings)
    return {"jobs": seen, "seconds": time.perf_counter() - started}


async def main():
    task = json.load(sys.stdin)
    place = task["place"]
    connection = await asyncpg.connect(
        host=place.get("host"),
        port=place.get("port"),
        user=place.get("user"),
        password=place.get("password"),
        database=place["dbname"],
    )
    step = {"fill": fill, "drain": drain}[task["step"]]
    print(json.dumps(await step(connection, task)))
    await connection.close()


asyncio.run(main())
