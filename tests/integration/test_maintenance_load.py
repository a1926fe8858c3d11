"""Maintenance beside producers: how long they wait."""

import threading
import time
from datetime import timedelta

import psycopg
import pytest

from tests.maintained import be_patient_beside_autovacuum, maintained, reasons
from tests.wait import eventually

pytestmark = pytest.mark.any_version


@pytest.fixture
def outbox(database):
    with maintained(database) as outbox:
        yield outbox


def test_space_is_freed_beside_a_long_producer_and_the_table_goes_later(outbox, monkeypatch):
    be_patient_beside_autovacuum(monkeypatch)
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


# When the time is up, the server still has to roll back and to wake those who wait, and they
# have to get a processor, which other tests may be using. Without a limit they would wait for
# as long as the holder does, which is for ever.
MARGIN = 60.0


class Producers:
    """Insert one row after another, and remember how long each took."""

    def __init__(self, dsn, count):
        self._dsn = dsn
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._produce) for _ in range(count)]
        self.waits = []
        self.failures = []

    def _produce(self):
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    connection.execute("insert into outbox.immediate (payload) values ('1')")
                except psycopg.Error as error:
                    self.failures.append(error)
                self.waits.append(time.monotonic() - began)

    def __enter__(self):
        for thread in self._threads:
            thread.start()

        eventually(lambda: len(self.waits) > 50, timeout=60)
        return self

    def __exit__(self, *exception):
        self._stop.set()
        for thread in self._threads:
            thread.join(60 + MARGIN)


def test_no_producer_waits_longer_than_the_lock_timeout(outbox, monkeypatch):
    be_patient_beside_autovacuum(monkeypatch)
    for day in range(9, 12):
        outbox.put(created_at=f"clock_timestamp() - interval '{day} days'")
    outbox.maintain(retention=timedelta(days=365))
    outbox.register()

    # Its lock on the root, held to the end of the test, makes every DETACH wait in vain.
    with psycopg.connect(outbox.dsn) as holder:
        pid = holder.info.backend_pid
        holder.execute("insert into outbox.immediate (payload) values ('1')")
        with Producers(outbox.dsn, 1) as producers:
            report = outbox.maintain(lock_timeout=timedelta(seconds=1))

    assert len(report.kept) == 3
    assert producers.failures == []
    assert 0.7 < max(producers.waits) < 1 + MARGIN
    # Only one was waited for: of the others nobody is named who is in the way.
    assert ["held by pid" in kept.reason for kept in report.kept] == [True, False, False]
    assert str(pid) in report.kept[0].reason


@pytest.mark.parametrize("seconds", [0.2, 1.0])
def test_nor_when_everything_is_to_be_done_at_once(outbox, seconds):
    """The present and the past in DEFAULT, old partitions, and a producer that stays open."""
    for day in range(9, 12):
        outbox.put(created_at=f"clock_timestamp() - interval '{day} days'")
    made = outbox.maintain(retention=timedelta(days=365), ahead=1).created
    for name in made[-2:]:
        outbox.connection.execute(f"drop table outbox.{name}")
    outbox.put(20_000)
    outbox.put(20_000, created_at="clock_timestamp() - interval '1 day'")
    outbox.register()
    patience = timedelta(seconds=seconds)
    with Producers(outbox.dsn, 3) as producers:
        with psycopg.connect(outbox.dsn) as holder:
            holder.execute("insert into outbox.immediate (payload) values ('1')")
            beside = [outbox.maintain(lock_timeout=patience) for _ in range(2)]

        after = outbox.maintain(lock_timeout=patience)
        longest = max(producers.waits)
        for _ in range(3):
            outbox.maintain(lock_timeout=timedelta(seconds=20))

    assert all(report.delayed and report.kept for report in beside)
    assert producers.failures == []
    assert seconds * 0.7 < longest < seconds + MARGIN
    assert not after.busy
    assert outbox.count("outbox.immediate_default") == 0
    assert outbox.count() == 40_000 + 1 + len(producers.waits)


@pytest.mark.parametrize("where", ["DEFAULT", "an old partition"])
def test_what_no_producer_needs_is_waited_for_longer(outbox, monkeypatch, where):
    """As an autovacuum holds it, which the server only ends after a second of waiting."""
    be_patient_beside_autovacuum(monkeypatch)
    name = outbox.old_partition()
    outbox.register()
    outbox.maintain(retention=timedelta(days=365))
    outbox.put(5, created_at="clock_timestamp() - interval '3 days'")
    table = "outbox.immediate_default" if where == "DEFAULT" else f"outbox.{name}"
    reports = []
    with psycopg.connect(outbox.dsn) as vacuum:
        vacuum.execute(f"lock table {table} in share update exclusive mode")
        thread = threading.Thread(
            target=lambda: reports.append(outbox.maintain(lock_timeout=timedelta(seconds=0.2)))
        )
        thread.start()
        eventually(
            lambda: outbox.column(
                f"select 1 from pg_locks where relation = '{table}'::regclass and not granted"
                " and waitstart < clock_timestamp() - interval '1 s'"
            ),
            timeout=60,
        )

    thread.join(120)
    (report,) = reports
    assert (report.moved, report.delayed) == (5, ())
    # Emptied, that is: the table goes now, or later if that takes longer than 0.2 s, for it
    # needs a lock that keeps producers waiting.
    assert outbox.count() == 5
    assert name in (*report.dropped, *(each for each in reasons(report)))
    assert all(why.startswith("emptied") for why in reasons(report).values())
