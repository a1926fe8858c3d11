"""faststream-outbox: fill its table, or drain it. Run in its own environment.

It knows nothing of ours. Takes JSON on standard input, prints JSON.
"""

import asyncio
import json
import sys
import time

from faststream_outbox import OutboxBroker, make_outbox_table, outbox_autovacuum_ddl
from sqlalchemy import URL, MetaData, text
from sqlalchemy.ext.asyncio import create_async_engine

AT_ONCE = 1000

# What its pages advise for many jobs of idempotent handlers: rows are claimed, and
# deleted, by the batch. More workers need a connection each, and win nothing beside that.
TUNED = {"fetch_batch_size": 1000, "terminal_flush_batch_size": 100}


async def fill(engine, metadata, broker, task):
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        if task["tuned"]:
            await connection.execute(text(outbox_autovacuum_ddl("outbox")))

    for first in range(0, task["jobs"], AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, task["jobs"]))
        async with engine.begin() as connection:
            await broker.publish_batch(
                *({"order": number, "pad": "x" * 13} for number in numbers),
                queue="bench",
                session=connection,
            )

    return {}


async def drain(engine, metadata, broker, task):
    seen = 0
    ended = asyncio.Event()

    @broker.subscriber("bench", **(TUNED if task["tuned"] else {}))
    async def handle(body: dict):
        nonlocal seen
        seen += 1
        if seen == task["jobs"]:
            ended.set()

    started = time.perf_counter()
    await broker.start()
    await ended.wait()
    # Ends when the last row is deleted.
    await broker.stop()
    return {"jobs": seen, "seconds": time.perf_counter() - started}


async def main():
    task = json.load(sys.stdin)
    place = task["place"]
    url = URL.create(
        "postgresql+asyncpg",
        username=place.get("user"),
        password=place.get("password"),
        database=place["dbname"],
        # Not as the host: that may be the folder of a socket.
        query={name: place[name] for name in ("host", "port") if name in place},
    )
    engine = create_async_engine(url)
    metadata = MetaData()
    table = make_outbox_table(metadata, table_name="outbox")
    broker = OutboxBroker(engine, outbox_table=table, logger=None)
    step = {"fill": fill, "drain": drain}[task["step"]]
    told = await step(engine, metadata, broker, task)
    await engine.dispose()
    print(json.dumps(told))


asyncio.run(main())
