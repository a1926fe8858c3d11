"""A consumer whose jobs may end its process, to be run as a process of its own.

    python -m tests.crashing DSN OPTIONS

OPTIONS are those of `Consumer`, as JSON. The payload of a job says what its handler does. What
the handler was called with is written to the file ``calls`` of the working directory, one line
a call, and what the consumer tells to ``events``.
"""

import asyncio
import ctypes
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pgcdc_outbox import Consumer, Job, RetryPolicy
from pgcdc_outbox.events import Event


def handle(jobs: Sequence[Job]) -> None:
    """Note the call, do what the jobs say, note that it ended."""
    note("begun", jobs)
    for job in jobs:
        DEEDS.get(job.topic, nothing)(job)

    note("done", jobs)


def note(word: str, jobs: Sequence[Job]) -> None:
    write("calls", " ".join([word, *(f"{job.id}/{job.attempt}" for job in jobs)]))


def write(name: str, line: str) -> None:
    # One write to the end of the file: it is there, whole, when the process dies.
    with open(name, "ab", buffering=0) as file:
        file.write(f"{line}\n".encode())


def nothing(job: Job) -> None:
    pass


def fall(job: Job) -> None:
    """What a fault in a C extension does."""
    ctypes.string_at(0)


def kill(job: Job) -> None:
    """What the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()


def leave(job: Job) -> None:
    os._exit(3)


def fail_then_kill(job: Job) -> None:
    if job.attempt == 1:
        raise ValueError("no luck")

    kill(job)


def kill_once(job: Job) -> None:
    if job.attempt == 1:
        kill(job)


def hog(job: Job) -> None:
    """Ask for more memory than there may be."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), before[1]))
    try:
        bytearray(1 << 30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def wait_for_go(job: Job) -> None:
    while not Path("go").exists():
        time.sleep(0.01)


DEEDS: dict[str, Callable[[Job], None]] = {
    deed.__name__: deed for deed in (fall, kill, leave, fail_then_kill, kill_once, hog, wait_for_go)
}


def tell(event: Event) -> None:
    write("events", str(event))


def main(dsn: str, options: str) -> None:
    given: dict[str, Any] = msgspec.json.decode(options)
    policy = RetryPolicy(first_delay=0.05, factor=1, max_attempts=given.pop("max_attempts", 10))
    subject = Consumer(
        dsn,
        handle,
        retry=policy,
        promote_interval=0.05,
        maintenance=False,
        observers=[tell],
        **given,
    )

    async def run() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, subject.stop)
        await subject.run()

    asyncio.run(run())


if __name__ == "__main__":
    main(*sys.argv[1:])
