"""A process that reads jobs: `python -m benchmarks.worker`, started by `benchmarks.crew`.

It takes a `Task` as the first line of its standard input, says ``here`` when it could
begin, begins with the second line, says ``reading`` when jobs come as they are committed,
stops when its input has ended and nothing more comes, and prints an `Outcome` in MessagePack.
"""

import os
import sys
import threading
import time

import anyio
import msgspec

from benchmarks import bare, handlers
from benchmarks.task import Outcome, Task
from benchmarks.usage import Usage, peak_memory
from pgcdc_outbox import Consumer
from pgcdc_outbox.events import Event, Polling, Streaming

_QUIET_SECONDS = 0.5


def main() -> None:
    """Do the task."""
    task = msgspec.json.decode(_line(), type=Task)
    handler = handlers.make(task.work)
    _say("here")
    _line()

    before, started = Usage.own(), time.perf_counter()
    match task.reader:
        case "ours":
            _consume(task, handler)
        case "bare":
            bare.read(task, handler, reading=lambda: _say("reading"), stopped=_stopped(handler))

    outcome = Outcome(
        jobs=handler.jobs,
        seconds=time.perf_counter() - started,
        usage=Usage.own() - before,
        peak_memory=peak_memory(),
        sightings=handler.sightings,
    )
    sys.stdout.buffer.write(msgspec.msgpack.encode(outcome))


def _consume(task: Task, handler: handlers.Handler) -> None:
    """Read with the library, through its public interface."""

    def tell(event: Event) -> None:
        # One that reads to an end tells nobody, so that nothing is between the lines.
        if isinstance(event, Streaming | Polling):
            _say("reading")

    once = task.jobs is not None
    consumer = Consumer(task.dsn, handler.given, observers=() if once else [tell], **task.settings)
    if not once:
        stopped = _stopped(handler)
        threading.Thread(target=lambda: (stopped.wait(), consumer.stop()), daemon=True).start()

    anyio.run(lambda: consumer.run(once=once))


def _stopped(handler: handlers.Handler) -> threading.Event:
    """Set when the input has ended, also because its writer is gone, and no more jobs come."""
    stopped = threading.Event()

    def wait() -> None:
        # Unbuffered: a thread inside a buffered read makes the interpreter abort when it ends.
        while os.read(sys.stdin.fileno(), 1024):
            pass

        seen = -1
        while seen != handler.jobs:
            seen = handler.jobs
            time.sleep(_QUIET_SECONDS)

        stopped.set()

    threading.Thread(target=wait, daemon=True).start()
    return stopped


def _line() -> bytes:
    """The next line of the input, and nothing beyond it."""
    read = bytearray()
    while not read.endswith(b"\n"):
        if not (byte := os.read(sys.stdin.fileno(), 1)):
            raise SystemExit("the input ended")

        read += byte

    return bytes(read)


def _say(word: str) -> None:
    sys.stdout.buffer.write(word.encode() + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
