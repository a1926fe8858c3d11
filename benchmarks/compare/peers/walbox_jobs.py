"""walbox: fill its table behind a slot, or drain the slot. Run in its own environment.

Takes JSON on standard input, prints JSON. Its handler saves the position itself: after each
transaction, as all of its examples do; tuned, over a connection from a pool, and once a second.
"""

import asyncio
import json
import sys
import time
from contextlib import AsyncExitStack

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool
from walbox import ChangeKind, Walbox, WalboxOptions

AT_ONCE = 1000
SAVE_SECONDS = 1.0

TABLE = """
create table outbox (
    id bigserial primary key, entity_type text, entity_id text,
    event_type text, payload jsonb, created_at timestamptz default now()
)
"""
ROWS = """
insert into outbox (entity_type, entity_id, event_type, payload)
select 'bench', n::text, 'bench', jsonb_build_object('order', n, 'pad', repeat('x', 13))
from generate_series(%s::int, %s::int) as n
"""


def fill(dsn, task):
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(TABLE)
        connection.execute("create publication walbox_pub for table outbox")
        # Before the rows, for it reads nothing that was committed before its slot.
        connection.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [slot(dsn)])
        for first in range(1, task["jobs"] + 1, AT_ONCE):
            connection.execute(ROWS, [first, min(first + AT_ONCE - 1, task["jobs"])])

    return {}


async def drain(dsn, task):
    options = WalboxOptions(
        consumer_name="bench", dsn=dsn, slot_name=slot(dsn), publication_name="walbox_pub"
    )
    seen = 0
    ended = asyncio.Event()
    saved = started = time.perf_counter()

    async def handle(transaction, checkpoint):
        nonlocal seen, saved
        seen += sum(change.kind == ChangeKind.INSERT for change in transaction.changes)
        now = time.perf_counter()
        if not task["tuned"] or seen == task["jobs"] or now - saved > SAVE_SECONDS:
            saved = now
            await checkpoint.save(transaction.commit_lsn)

        if seen == task["jobs"]:
            ended.set()

    async with AsyncExitStack() as stack:
        if task["tuned"]:
            pool = await stack.enter_async_context(AsyncConnectionPool(dsn, min_size=1))
            client = Walbox.build_with_pool(options, pool)
        else:
            client = Walbox.build(options)

        running = asyncio.create_task(client.run(handle))
        waiting = asyncio.create_task(ended.wait())
        await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
        seconds = time.perf_counter() - started
        if running.done():
            running.result()

        # To stop it in good order takes up to ten seconds, which are not counted.
        client.close()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    return {"jobs": seen, "seconds": seconds}


def slot(dsn):
    """One name for each database: slots belong to the whole server."""
    return "walbox_" + psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]


def main():
    task = json.load(sys.stdin)
    dsn = make_conninfo(**task["place"])
    print(json.dumps(fill(dsn, task) if task["step"] == "fill" else asyncio.run(drain(dsn, task))))


main()
