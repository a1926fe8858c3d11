"""A producer, in a process of its own: places orders, each with its job in one transaction.

It writes a note of each order to standard output, as JSON, and ends when
standard input does, which is also when whoever started it is gone.
"""

import itertools
import os
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

import msgspec
import psycopg
from msgspec import Struct

from pgcdc_outbox.demo.orders import Kind, Placed, delay_of, kind_of
from pgcdc_outbox.demo.record import Order
from pgcdc_outbox.postgres.producer.client import Client

TOPIC = "order.placed"


class Task(Struct, frozen=True, kw_only=True):
    """What a producer is to do, as it is given to its process."""

    dsn: str
    run: str
    first: int
    """The number of its first order."""
    step: int
    """From one number to the next."""
    last: int | None
    """The number not to go beyond."""

    @property
    def numbers(self) -> Iterable[int]:
        """The numbers of its orders."""
        if self.last is None:
            return itertools.count(self.first, self.step)

        return range(self.first, self.last + 1, self.step)


def place_orders(task: Task, ended: threading.Event) -> None:
    """Place one order after the other, until told to end or out of numbers."""
    notes = sys.stdout.buffer
    with psycopg.connect(task.dsn, autocommit=True) as connection, Client(task.dsn) as client:
        for number in task.numbers:
            if ended.is_set():
                break

            order = _place(connection, client, Placed(task.run, number, kind_of(number)))
            notes.write(msgspec.json.encode(order) + b"\n")

    notes.flush()


def _place(connection: psycopg.Connection[Any], client: Client, placed: Placed) -> Order:
    number, kind = placed.number, placed.kind
    committed = kind is not Kind.UNDONE
    due = time.monotonic() + delay_of(number) if kind is Kind.LATER else None
    with connection.transaction():
        connection.execute(
            "insert into shop.orders (run, number) values (%s, %s)", (placed.run, number)
        )
        job_id = _enqueue(connection, client, placed)
        if not committed:
            raise psycopg.Rollback

    ended = time.monotonic()
    return Order(number=number, kind=kind, job_id=job_id, committed=committed, ended=ended, due=due)


def _enqueue(connection: psycopg.Connection[Any], client: Client, order: Placed) -> int:
    match order.kind:
        case Kind.SQL:
            row = connection.execute(
                "select outbox.enqueue(%s, jsonb_build_object("
                "'run', %s::text, 'number', %s::bigint, 'kind', %s::text))",
                (TOPIC, order.run, order.number, order.kind.value),
            ).fetchone()
            assert row is not None
            return int(row[0])
        case Kind.LATER:
            return client.enqueue(order, topic=TOPIC, delay=delay_of(order.number), tx=connection)
        case _:
            return client.enqueue(order, topic=TOPIC, tx=connection)


def _await_end(ended: threading.Event) -> None:
    # Unbuffered: a thread inside a buffered read makes the interpreter abort when it ends.
    while os.read(sys.stdin.fileno(), 1024):
        pass

    ended.set()


def main() -> None:
    """Do the task that the only argument holds."""
    task = msgspec.json.decode(sys.argv[1], type=Task)
    ended = threading.Event()
    threading.Thread(target=_await_end, args=[ended], daemon=True).start()
    place_orders(task, ended)


if __name__ == "__main__":
    main()
