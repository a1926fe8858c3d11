"""Rows that came without a partition: moved to one, while producers go on."""

import threading
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from tests.maintained import maintained, set_clock
from tests.wait import eventually


@pytest.fixture
def outbox(database):
    with maintained(database) as outbox:
        yield outbox


def test_rows_of_default_move_with_everything_they_have(outbox):
    outbox.put(5, created_at="clock_timestamp() - interval '16 hours'")
    outbox.put(5, consumer="billing")
    before = outbox.column("select to_jsonb(i)::text from outbox.immediate as i order by id")

    report = outbox.maintain()

    assert report.moved == 10
    assert outbox.count("outbox.immediate_default") == 0
    after = outbox.column("select to_jsonb(i)::text from outbox.immediate as i order by id")
    assert after == before


def test_moved_rows_are_not_published_again(outbox):
    outbox.put(3)
    outbox.connection.execute("select pg_create_logical_replication_slot('moved', 'pgoutput')")
    try:
        outbox.maintain()
        outbox.put(1)
        messages = outbox.column(
            "select get_byte(data, 0) from pg_logical_slot_peek_binary_changes('moved', null, null,"
            " 'proto_version', '1', 'publication_names', 'pgcdc_outbox')"
        )
    finally:
        outbox.connection.execute("select pg_drop_replication_slot('moved')")

    assert messages.count(ord("I")) == 1


def test_an_open_producer_in_default_delays_it_and_is_named(outbox):
    with psycopg.connect(outbox.dsn) as producer:
        producer.execute("insert into outbox.immediate (payload) values ('1')")

        report = outbox.maintain(lock_timeout=timedelta(milliseconds=200))

        assert report.created == ()
        assert f"pid {producer.info.backend_pid}" in report.delayed[0]
        assert outbox.partitions == ["outbox.immediate_default"]
        producer.commit()

    assert outbox.maintain().moved == 1


def test_a_row_that_commits_to_default_while_its_lock_is_waited_for_is_moved(outbox):
    reports = []
    with psycopg.connect(outbox.dsn) as producer:
        producer.execute("insert into outbox.immediate (payload) values ('1')")
        thread = threading.Thread(
            target=lambda: reports.append(outbox.maintain(lock_timeout=timedelta(minutes=2)))
        )
        thread.start()
        eventually(
            lambda: outbox.column(
                "select 1 from pg_locks where not granted"
                " and relation = 'outbox.immediate_default'::regclass"
            ),
            timeout=60,
        )
        producer.commit()
        thread.join(120)

    assert (reports[0].moved, len(reports[0].created)) == (1, 4)
    assert outbox.count("outbox.immediate_default") == 0


def test_producers_go_on_while_their_partition_is_made(outbox):
    outbox.put(20_000)
    stop = threading.Event()
    counts = []

    def produce():
        with psycopg.connect(outbox.dsn, autocommit=True) as connection:
            done = 0
            while not stop.is_set():
                connection.execute("insert into outbox.immediate (payload) values ('1')")
                done += 1
            counts.append(done)

    threads = [threading.Thread(target=produce) for _ in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: outbox.count() > 20_100, timeout=60)
    report = outbox.maintain()
    stop.set()
    for thread in threads:
        thread.join(60)

    assert len(counts) == 3
    assert len(report.created) == 4
    assert outbox.count("outbox.immediate_default") == 0
    assert outbox.count() == 20_000 + sum(counts)


def test_work_under_the_lock_is_limited_too_where_producers_wait(outbox):
    outbox.put(3)
    outbox.connection.execute(
        "create function outbox.slow() returns trigger language plpgsql"
        " as $$begin perform pg_sleep(6); return old; end$$;"
        "create trigger slow before delete on outbox.immediate_default"
        " for each row execute function outbox.slow()"
    )

    # What is ahead has to be made within that, too, on a busy machine.
    report = outbox.maintain(ahead=2, lock_timeout=timedelta(seconds=8))

    # What is ahead; and, if the day is not over within a quarter of an hour, its rest.
    assert len(report.created) >= 2
    assert "DEFAULT holds too much to move while producers wait" in report.delayed[0]
    assert outbox.count("outbox.immediate_default") == 3


@pytest.fixture
def everything_is_much(monkeypatch):
    monkeypatch.setattr("pgcdc_outbox.postgres.partition.look_ahead._QUICK_BYTES", 0)


@pytest.mark.parametrize("interval", [timedelta(minutes=15), timedelta(days=1), timedelta(days=31)])
def test_too_much_for_now_in_default_is_moved_once_new_rows_go_elsewhere(
    outbox, monkeypatch, everything_is_much, interval
):
    noon = datetime(2026, 11, 21, 12, 7, tzinfo=UTC)
    outbox.put(5, created_at=f"'{noon}'")
    outbox.put(5, created_at=f"'{noon}'::timestamptz - interval '3 days'")
    settings = {"interval": interval, "ahead": 2, "retention": timedelta(days=365)}

    set_clock(monkeypatch, noon)
    first = outbox.maintain(**settings)
    # No rows were moved, and none will be in DEFAULT for longer than a quarter of an hour.
    assert first.moved == 0
    assert any("moved after 2026-11-21 12:15Z" in why for why in first.delayed)
    assert any("in use, and large" in why for why in first.delayed)
    assert outbox.bounds[0][0] == datetime(2026, 11, 21, 12, 15, tzinfo=UTC)

    # Just after, a row that was on its way to DEFAULT may not have arrived yet.
    set_clock(monkeypatch, noon + timedelta(minutes=8, seconds=30))
    assert outbox.maintain(**settings).moved == 0

    set_clock(monkeypatch, noon + timedelta(minutes=10))
    last = outbox.maintain(**settings)
    assert (last.moved, last.delayed) == (10, ())
    assert outbox.count("outbox.immediate_default") == 0
    assert outbox.count() == 10


@pytest.mark.any_version
@pytest.mark.parametrize("interval", [timedelta(minutes=15), timedelta(days=31)])
def test_months_without_maintenance_are_moved_in_bites_while_producers_go_on(
    outbox, everything_is_much, interval
):
    long_ago = "clock_timestamp() - interval '2 hours'"
    outbox.put(60_000, created_at=f"{long_ago} - interval '60 days' * (i / 60000.0)")
    # The present is taken care of; else the run could only begin, as shown above.
    outbox.connection.execute(
        "do $$begin execute format("
        "'create table outbox.present partition of outbox.immediate for values from (%L) to (%L)',"
        " now() - interval '1 hour', now() + interval '1 hour'); end$$"
    )
    before = set(outbox.column("select md5(i::text) from outbox.immediate as i"))
    stop = threading.Event()
    produced = []
    failures = []

    def produce():
        with psycopg.connect(outbox.dsn, autocommit=True) as connection:
            # The server tells a wait for a lock from one for a processor.
            connection.execute("set lock_timeout = '2s'")
            while not stop.is_set():
                try:
                    connection.execute("insert into outbox.immediate (payload) values ('1')")
                except psycopg.Error as error:
                    failures.append(error)
                else:
                    produced.append(1)

    thread = threading.Thread(target=produce)
    thread.start()
    report = outbox.maintain(
        interval=interval, retention=timedelta(days=365), lock_timeout=timedelta(seconds=30)
    )
    stop.set()
    thread.join(60)

    assert report.moved == 60_000
    assert 60 <= len(report.created) <= 70
    assert outbox.count("outbox.immediate_default") == 0
    after = set(outbox.column("select md5(i::text) from outbox.immediate as i"))
    assert before <= after
    assert len(after) == 60_000 + len(produced)
    # Nothing that it locks for long is needed by producers.
    assert failures == []
