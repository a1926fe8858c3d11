"""A replication cursor of psycopg2 and a parser written by hand: as little as reads jobs.

It has no retries, no partial failure, no limit of memory, no checkpoint, and loses what a
lost slot had. It shows what Python can do, if that is all one wants.
"""

import select
import threading
import time
from collections.abc import Callable, Iterator

import psycopg2
from psycopg2.extras import LogicalReplicationConnection

from benchmarks.handlers import Handler
from benchmarks.task import Task
from pgcdc_outbox import Job
from pgcdc_outbox.postgres.names import publication_name

_FEEDBACK_SECONDS = 1.0
_TUPLE = 8  # message type, relation, kind of tuple, number of columns


def read(
    task: Task, handler: Handler, *, reading: Callable[[], None], stopped: threading.Event
) -> None:
    """Hand the jobs of each transaction to the handler, and acknowledge now and then."""
    connection = psycopg2.connect(task.dsn, connection_factory=LogicalReplicationConnection)
    cursor = connection.cursor()
    publication = task.publication or publication_name("outbox")
    cursor.start_replication(
        slot_name=task.slot,
        decode=False,
        options={"proto_version": "1", "publication_names": publication, "binary": "true"},
    )
    reading()

    names: list[str] = []
    jobs: list[Job] = []
    told = time.monotonic()
    while not stopped.is_set() and (task.jobs is None or handler.jobs < task.jobs):
        message = cursor.read_message()
        if message is None:
            select.select([connection], [], [], 0.1)
            continue

        data = message.payload
        match data[:1]:
            case b"I":
                values = dict(zip(names, _values(data), strict=True))
                jobs.append(
                    Job(
                        int.from_bytes(values["id"] or b"", "big"),
                        (values["topic"] or b"").decode(),
                        values["payload"] or b"",
                    )
                )
            case b"C":
                _handle(handler, jobs)
                jobs.clear()
                if time.monotonic() - told > _FEEDBACK_SECONDS:
                    told = time.monotonic()
                    cursor.send_feedback(flush_lsn=_end(data))
            case b"R":
                names = list(_columns(data))

    connection.close()


def _handle(handler: Handler, jobs: list[Job]) -> None:
    # Our handlers never wait, so the first step of the coroutine is the last one.
    if jobs:
        step = handler(jobs)
        try:
            step.send(None)
        except StopIteration:
            return

        raise RuntimeError("a handler waited")


def _values(data: bytes) -> Iterator[bytes | None]:
    """The columns of an Insert; None for null."""
    place = _TUPLE
    while place < len(data):
        if data[place] == ord("n"):
            place += 1
            yield None
        else:
            begin = place + 5
            place = begin + int.from_bytes(data[place + 1 : begin], "big")
            yield data[begin:place]


def _columns(data: bytes) -> Iterator[str]:
    """The names of the columns of a Relation."""
    place = data.index(b"\0", 5) + 1
    place = data.index(b"\0", place) + 1 + 3  # replica identity, number of columns
    while place < len(data):
        end = data.index(b"\0", place + 1)
        yield data[place + 1 : end].decode()
        place = end + 9  # type and its modifier


def _end(commit: bytes) -> int:
    """Where the log goes on after a transaction."""
    return int.from_bytes(commit[10:18], "big")
