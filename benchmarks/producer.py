"""A process that commits a job now and then: `python -m benchmarks.producer`.

It takes a `Calls` as JSON on its standard input, and prints when each commit returned.
"""

import subprocess
import sys
import time
from pathlib import Path

import msgspec
import psycopg
from msgspec import Struct

from benchmarks.task import MARK

INSERT = "insert into outbox.immediate (topic, payload) values ('bench', %s)"
_ROOT = Path(__file__).parents[1]


class Calls(Struct, frozen=True, kw_only=True):
    """What to do."""

    dsn: str
    producer: int
    """By which its jobs are told from those of others."""
    count: int
    pause_seconds: float


def run(calls: Calls) -> list[int]:
    """Let a process do it; nanoseconds of the monotonic clock at which each commit returned."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.producer"],
        input=msgspec.json.encode(calls),
        stdout=subprocess.PIPE,
        cwd=_ROOT,
        check=True,
    )
    return msgspec.json.decode(done.stdout, type=list[int])


def main() -> None:
    """Commit them, one by one."""
    calls = msgspec.json.decode(sys.stdin.buffer.read(), type=Calls)
    returned = []
    with psycopg.connect(calls.dsn, autocommit=True) as connection:
        for number in range(calls.count):
            time.sleep(calls.pause_seconds)
            connection.execute(INSERT, [MARK.pack(calls.producer, number)])
            returned.append(time.monotonic_ns())

    sys.stdout.buffer.write(msgspec.json.encode(returned))


if __name__ == "__main__":
    main()
