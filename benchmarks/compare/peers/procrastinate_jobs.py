"""Procrastinate: fill its queue, or drain it. Run in its own environment; knows nothing of ours.

Takes JSON on standard input, prints JSON.
"""

import asyncio
import json
import sys
import time

from procrastinate import App, PsycopgConnector

AT_ONCE = 10_000
CONCURRENCY = 20


async def main():
    task = json.load(sys.stdin)
    # A connection for each job that runs, as its documentation advises.
    pool = {"max_size": CONCURRENCY + 2} if task["tuned"] else {}
    app = App(connector=PsycopgConnector(kwargs=task["place"], **pool))
    seen = 0

    @app.task(name="bench")
    async def handle(order, pad):
        nonlocal seen
        seen += 1

    async with app.open_async():
        if task["step"] == "fill":
            await app.schema_manager.apply_schema_async()
            for first in range(0, task["jobs"], AT_ONCE):
                numbers = range(first, min(first + AT_ONCE, task["jobs"]))
                await handle.batch_defer_async(
                    *({"order": number, "pad": "x" * 13} for number in numbers)
                )

            print("{}")
            return

        settings = {"concurrency": CONCURRENCY, "delete_jobs": "always"} if task["tuned"] else {}
        started = time.perf_counter()
        await app.run_worker_async(wait=False, install_signal_handlers=False, **settings)
        print(json.dumps({"jobs": seen, "seconds": time.perf_counter() - started}))


asyncio.run(main())
