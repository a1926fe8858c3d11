"""Maintenance beside producers: how long they wait."""

import threading
import time
from datetime import timedelta

import psycopg
import pytest

from tests.maintained import maintained, reasons


@pytest.fixture
def outbox(database):
    with maintained(database) as outbox:
        yield outbox


def test_space_is_freed_beside_a_long_producer_and_the_table_goes_later(outbox):
    name = outbox.old_partition(rows=1000)
    outbox.register()
    with psycopg.connect(outbox.dsn) as producer:
        producer.execute("insert into outbox.immediate (payload) values ('1')")

        report = outbox.maintain(lock_timeout=timedelta(milliseconds=200))

        assert report.dropped == ()
        assert reasons(report)[name].startswith("emptied; it is dropped once")
        assert outbox.count(f"outbox.{name}") == 0
        producer.commit()

    assert outbox.maintain().dropped == (name,)


def test_no_producer_waits_longer_than_the_lock_timeout(outbox):
    for day in range(9, 12):
        outbox.put(created_at=f"clock_timestamp() - interval '{day} days'")
    outbox.maintain(retention=timedelta(days=365))
    outbox.register()
    stop = threading.Event()
    waits = []

    def produce():
        with psycopg.connect(outbox.dsn, autocommit=True) as connection:
            while not stop.is_set():
                began = time.monotonic()
                connection.execute("insert into outbox.immediate (payload) values ('1')")
                waits.append(time.monotonic() - began)

    # Its lock on the root, held to the end of the test, makes every DETACH wait in vain.
    with psycopg.connect(outbox.dsn) as holder:
        holder.execute("insert into outbox.immediate (payload) values ('1')")
        thread = threading.Thread(target=produce)
        thread.start()
        report = outbox.maintain(lock_timeout=timedelta(seconds=1))
        stop.set()
        thread.join(10)

    assert len(report.kept) == 3
    assert len(waits) > 10
    # Only one was waited for, and not for longer than that. (The machine may be busy.)
    assert 0.7 < max(waits) < 2
    assert sum(wait > 0.7 for wait in waits) == 1
