"""How fast jobs can be put into the outbox."""

import time
from typing import Final

from pgcdc_outbox.job import NewJob
from pgcdc_outbox.postgres.producer.client import Client

TOPIC: Final = "bench"
_AT_ONCE: Final = 10_000


def one_by_one(conninfo: str, schema: str, jobs: int) -> float:
    """Jobs a second, each committed on its own over one connection."""
    with Client(conninfo, schema=schema) as client:
        client.enqueue({"order": 0}, topic=TOPIC)  # connects, and is not counted
        started = time.perf_counter()
        for number in range(jobs):
            client.enqueue({"order": number}, topic=TOPIC)

        return jobs / (time.perf_counter() - started)


def many_at_once(conninfo: str, schema: str, jobs: int) -> float:
    """Jobs a second with `enqueue_many`, ten thousand in a transaction."""
    rows = [NewJob(payload={"order": number}, topic=TOPIC) for number in range(jobs)]
    with Client(conninfo, schema=schema) as client:
        client.enqueue({"order": 0}, topic=TOPIC)
        started = time.perf_counter()
        for first in range(0, jobs, _AT_ONCE):
            client.enqueue_many(rows[first : first + _AT_ONCE])

        return jobs / (time.perf_counter() - started)
