"""A producer, in a process of its own: commits a job now and then.

It takes a `Calls` as JSON on its standard input, and prints when each commit returned,
in nanoseconds of the monotonic clock, by the id of the job.
"""

import sys
import time
from typing import Final

import msgspec
from msgspec import Struct

from pgcdc_outbox.postgres.producer.client import Client

_PAUSE_SECONDS: Final = 0.02


class Calls(Struct, frozen=True, kw_only=True):
    """What to do."""

    conninfo: str
    schema: str
    count: int


def main() -> None:
    """Commit the jobs, one by one."""
    calls = msgspec.json.decode(sys.stdin.buffer.read(), type=Calls)
    returned: dict[int, int] = {}
    with Client(calls.conninfo, schema=calls.schema) as client:
        for number in range(calls.count):
            time.sleep(_PAUSE_SECONDS)
            job = client.enqueue({"order": number}, topic="bench")
            returned[job] = time.monotonic_ns()

    sys.stdout.buffer.write(msgspec.json.encode(returned))


if __name__ == "__main__":
    main()
