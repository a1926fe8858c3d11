"""Partitions on a real server: made, filled, dropped; and nobody kept waiting."""

import threading
import time
from datetime import timedelta
from itertools import pairwise

import psycopg
import pytest
from psycopg import sql

from pgcdc_outbox.errors import SchemaBehind, SettingsError
from pgcdc_outbox.postgres.migrate import migrate
from pgcdc_outbox.postgres.partition.maintenance import Maintenance
from tests.wait import eventually

WEEK_OLD = "clock_timestamp() - interval '9 days'"


class Outbox:
    """An outbox and a connection to prepare it with."""

    def __init__(self, dsn, connection, schema="outbox"):
        self.dsn = dsn
        self.connection = connection
        self.schema = schema

    def maintain(self, **settings):
        return Maintenance(self.dsn, schema=self.schema, **settings).once()

    def put(self, count=1, *, created_at="clock_timestamp()", consumer=None):
        self.connection.execute(
            f"insert into outbox.immediate (payload, created_at, consumer) "
            f"select '1', {created_at}, %s from generate_series(1, %s)",
            (consumer, count),
        )

    def old_partition(self, rows=3):
        """A partition older than the retention, with rows; its name."""
        self.put(rows, created_at=WEEK_OLD)
        report = self.maintain(retention=timedelta(days=365))
        return report.created[0]

    def register(self, name="default", *, settled=True, system_id=None):
        self.connection.execute("insert into outbox.consumer (name) values (%s)", (name,))
        if settled:
            self.settle(name, system_id=system_id)

    def settle(self, name="default", *, system_id=None):
        """Save a checkpoint that has seen everything committed so far."""
        self.connection.execute(
            "insert into outbox.checkpoint (consumer, system_id, timeline, snapshot, lsn, flushed)"
            " select %s, coalesce(%s, system_identifier::text), 1, pg_current_snapshot(),"
            " pg_current_wal_insert_lsn(), pg_current_wal_insert_lsn() from pg_control_system()"
            " on conflict (consumer) do update set snapshot = excluded.snapshot",
            (name, system_id),
        )

    def column(self, query):
        return [row[0] for row in self.connection.execute(query).fetchall()]

    @property
    def partitions(self):
        return self.column(
            "select inhrelid::regclass::text from pg_inherits"
            " where inhparent = 'outbox.immediate'::regclass order by 1"
        )

    def count(self, table="outbox.immediate"):
        return self.column(f"select count(*) from {table}")[0]


@pytest.fixture
def outbox(database):
    migrate(database)
    with psycopg.connect(database, autocommit=True) as connection:
        yield Outbox(database, connection)


def reasons(report):
    return {kept.name: kept.reason for kept in report.kept}


# -- made ------------------------------------------------------------------------------


def test_partitions_are_made_for_today_and_ahead_and_take_new_rows(outbox):
    report = outbox.maintain(ahead=3)
    outbox.put()

    assert len(report.created) == 4
    assert outbox.count("outbox.immediate_default") == 0
    assert outbox.count(f"outbox.{report.created[0]}") == 1
    assert outbox.maintain(ahead=3).created == ()


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


def test_a_partition_looks_like_the_root(outbox):
    (name, *_) = outbox.maintain().created

    def described(table):
        return outbox.column(
            "select (attname, atttypid, attnotnull, attstorage, pg_get_expr(adbin, adrelid))::text"
            " from pg_attribute left join pg_attrdef on (adrelid, adnum) = (attrelid, attnum)"
            f" where attrelid = '{table}'::regclass and attnum > 0 order by attnum"
        )

    def checks(table):
        return outbox.column(
            "select conname || pg_get_constraintdef(oid) from pg_constraint"
            f" where conrelid = '{table}'::regclass and contype = 'c' order by 1"
        )

    def indexes(table):
        return outbox.column(f"select count(*) from pg_index where indrelid = '{table}'::regclass")

    leaf = f"outbox.{name}"
    assert described(leaf) == described("outbox.immediate_default")
    assert checks(leaf) == checks("outbox.immediate_default")
    assert indexes(leaf) == [1]


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
            target=lambda: reports.append(outbox.maintain(lock_timeout=timedelta(seconds=20)))
        )
        thread.start()
        eventually(
            lambda: outbox.column(
                "select 1 from pg_locks where not granted"
                " and relation = 'outbox.immediate_default'::regclass"
            )
        )
        producer.commit()
        thread.join(30)

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
    eventually(lambda: outbox.count() > 20_100)
    report = outbox.maintain()
    stop.set()
    for thread in threads:
        thread.join(10)

    assert len(counts) == 3
    assert len(report.created) == 4
    assert outbox.count("outbox.immediate_default") == 0
    assert outbox.count() == 20_000 + sum(counts)


def test_beside_a_long_producer_what_is_ahead_is_made_and_now_is_delayed(outbox):
    with psycopg.connect(outbox.dsn) as producer:
        # It holds the root, as every producer does, but not DEFAULT.
        producer.execute("lock table only outbox.immediate in row exclusive mode")

        report = outbox.maintain(ahead=3, lock_timeout=timedelta(milliseconds=200))

        assert len(report.created) == 3
        assert f"pid {producer.info.backend_pid}" in report.delayed[0]

    assert len(outbox.maintain(ahead=3).created) == 1


def test_work_under_the_lock_is_limited_too_where_producers_wait(outbox):
    outbox.put(3)
    outbox.connection.execute(
        "create function outbox.slow() returns trigger language plpgsql"
        " as $$begin perform pg_sleep(0.5); return old; end$$;"
        "create trigger slow before delete on outbox.immediate_default"
        " for each row execute function outbox.slow()"
    )

    report = outbox.maintain(ahead=2, lock_timeout=timedelta(milliseconds=300))

    assert len(report.created) == 2
    assert "not made within 0.3 s" in report.delayed[0]
    assert outbox.count("outbox.immediate_default") == 3


def test_too_much_of_today_in_default_waits_until_today_is_over(outbox, monkeypatch):
    monkeypatch.setattr("pgcdc_outbox.postgres.partition.look_ahead._QUICK_BYTES", 0)
    outbox.put(5)

    first = outbox.maintain(ahead=2)
    assert len(first.created) == 2
    assert "rows move when their time is over" in first.delayed[0]
    assert outbox.count("outbox.immediate_default") == 5

    # A day later: yesterday's rows move, because today has a partition of its own.
    outbox.connection.execute(
        "update outbox.immediate_default set created_at = created_at - interval '1 day'"
    )
    outbox.connection.execute(
        "create table outbox.today partition of outbox.immediate for values"
        f" from ('{first.delayed[0][10:18]} 00:00Z') to ('{first.created[0][10:18]} 00:00Z')"
    )
    assert outbox.maintain(ahead=2).moved == 5
    assert outbox.count("outbox.immediate_default") == 0


def test_the_interval_may_change(outbox):
    outbox.maintain(interval=timedelta(minutes=15), ahead=5)
    outbox.maintain(interval=timedelta(days=1), ahead=2)
    outbox.maintain(interval=timedelta(hours=1), ahead=60)
    ends = outbox.column(
        "select pg_get_expr(relpartbound, oid) from pg_class"
        " where relispartition and relkind = 'r' and relname <> 'immediate_default'"
    )
    bounds = sorted(end.split("'")[1::2] for end in ends)

    assert all(upper == lower for (_, upper), (lower, _) in pairwise(bounds))
    outbox.put(created_at="clock_timestamp() + interval '59 hours'")
    assert outbox.count("outbox.immediate_default") == 0


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/St_Johns", "Asia/Kolkata"])
def test_the_time_zone_of_the_session_does_not_matter(outbox, zone):
    name = outbox.column("select current_database()")[0]
    outbox.connection.execute(
        sql.SQL("alter database {} set timezone = {}").format(sql.Identifier(name), zone)
    )
    outbox.connection.execute(
        sql.SQL("alter database {} set datestyle = 'SQL, DMY'").format(sql.Identifier(name))
    )

    created = outbox.maintain().created
    assert all(partition.endswith("t0000z") for partition in created)
    assert outbox.maintain().created == ()


def test_a_name_that_is_taken_delays_and_loses_nothing(outbox):
    (name, *_) = outbox.maintain().created
    outbox.put()
    # A person detached it, to look at it.
    outbox.connection.execute(f"alter table outbox.immediate detach partition outbox.{name}")

    report = outbox.maintain()

    assert report.delayed == (f"{name}: another table has this name",)
    assert reasons(report) == {name: "not attached to the outbox, but it holds rows"}
    assert outbox.count(f"outbox.{name}") == 1


# -- dropped ---------------------------------------------------------------------------


def test_an_old_partition_is_dropped_once_it_is_settled(outbox):
    name = outbox.old_partition()
    outbox.register()

    assert outbox.maintain().dropped == (name,)
    assert f"outbox.{name}" not in outbox.partitions
    assert outbox.count() == 0
    assert outbox.maintain() == outbox.maintain()


def test_a_young_partition_stays_although_it_is_settled(outbox):
    name = outbox.old_partition()
    outbox.register()

    assert outbox.maintain(retention=timedelta(days=10)).dropped == ()
    assert f"outbox.{name}" in outbox.partitions


def test_rows_after_the_checkpoint_keep_it_for_every_consumer_that_may_need_them(outbox):
    outbox.register("done")
    outbox.register("slow")
    name = outbox.old_partition(rows=4)
    outbox.settle("done")

    report = outbox.maintain()

    assert report.dropped == ()
    assert reasons(report) == {name: "consumer slow has not settled 4 rows"}
    assert report.kept[0].rows == 4
    assert report.kept[0].bytes > 0
    assert outbox.count() == 4

    outbox.settle("slow")
    assert outbox.maintain().dropped == (name,)


def test_a_retry_for_one_consumer_is_nothing_to_the_others(outbox):
    outbox.register("mine")
    outbox.register("other")
    outbox.put(created_at=WEEK_OLD, consumer="mine")
    (name, *_) = outbox.maintain(retention=timedelta(days=365)).created

    assert reasons(outbox.maintain()) == {name: "consumer mine has not settled 1 rows"}
    outbox.settle("mine")
    assert outbox.maintain().dropped == (name,)


def test_a_consumer_without_a_checkpoint_has_settled_nothing(outbox):
    name = outbox.old_partition()
    outbox.register("done")
    outbox.register("new", settled=False)

    assert reasons(outbox.maintain()) == {name: "consumer new has saved no checkpoint yet (3 rows)"}


def test_a_consumer_that_rereads_has_settled_nothing(outbox):
    name = outbox.old_partition()
    outbox.register()
    outbox.connection.execute("update outbox.checkpoint set target = snapshot, target_lsn = lsn")

    assert reasons(outbox.maintain()) == {name: "consumer default is re-reading the table (3 rows)"}


def test_a_checkpoint_of_another_cluster_has_settled_nothing(outbox):
    name = outbox.old_partition()
    outbox.register(system_id="7000000000000000000")

    assert reasons(outbox.maintain()) == {
        name: "the checkpoint of consumer default is another cluster's (3 rows)"
    }


def test_without_any_consumer_rows_are_kept_and_empty_partitions_are_not(outbox):
    name = outbox.old_partition()

    assert reasons(outbox.maintain()) == {name: "no consumer is registered"}
    assert outbox.count() == 3

    outbox.connection.execute(f"truncate outbox.{name}")
    assert outbox.maintain().dropped == (name,)


def test_an_open_transaction_in_the_old_partition_keeps_it(outbox):
    name = outbox.old_partition()
    outbox.register()
    with psycopg.connect(outbox.dsn) as producer:
        producer.execute(
            f"insert into outbox.immediate (payload, created_at) values ('1', {WEEK_OLD})"
        )

        report = outbox.maintain(lock_timeout=timedelta(milliseconds=200))

        assert reasons(report)[name].startswith("in use")
        assert f"pid {producer.info.backend_pid}" in reasons(report)[name]
        producer.commit()

    # Committed after the checkpoint: the check under the lock sees it.
    assert reasons(outbox.maintain()) == {name: "consumer default has not settled 1 rows"}
    assert outbox.count() == 4


def test_a_row_that_commits_while_the_lock_is_waited_for_is_not_lost(outbox):
    name = outbox.old_partition()
    outbox.register()
    reports = []
    with psycopg.connect(outbox.dsn) as producer:
        producer.execute(
            f"insert into outbox.immediate (payload, created_at) values ('1', {WEEK_OLD})"
        )
        thread = threading.Thread(
            target=lambda: reports.append(outbox.maintain(lock_timeout=timedelta(seconds=20)))
        )
        thread.start()
        eventually(
            lambda: outbox.column(
                f"select 1 from pg_locks where not granted and relation = 'outbox.{name}'::regclass"
            )
        )
        producer.commit()
        thread.join(30)

    assert reasons(reports[0]) == {name: "consumer default has not settled 1 rows"}
    assert outbox.count() == 4


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


def test_failed_scheduled_and_dead_jobs_are_left_alone(outbox):
    outbox.old_partition()
    outbox.register()
    outbox.connection.execute(
        "insert into outbox.failed"
        " (consumer, id, due_at, attempt, created_at, topic, payload, errors)"
        f" values ('default', 1, {WEEK_OLD}, 1, {WEEK_OLD}, 't', '1', '[]')"
    )
    outbox.connection.execute(
        "insert into outbox.dead_letter"
        " (consumer, id, reason, attempt, created_at, topic, payload, errors)"
        f" values ('default', 2, 'exhausted', 1, {WEEK_OLD}, 't', '1', '[]')"
    )
    outbox.connection.execute(
        "insert into outbox.scheduled (due_at, created_at, payload)"
        f" values ({WEEK_OLD}, {WEEK_OLD}, '1')"
    )

    assert len(outbox.maintain().dropped) == 1
    assert [
        outbox.count(f"outbox.{table}") for table in ("failed", "dead_letter", "scheduled")
    ] == [
        1,
        1,
        1,
    ]


def test_an_empty_table_that_was_never_attached_is_cleared_away(outbox):
    outbox.connection.execute(
        "create table outbox.immediate_20200101t0000z (like outbox.immediate)"
    )

    assert outbox.maintain().dropped == ("immediate_20200101t0000z",)


# -- together --------------------------------------------------------------------------


def test_two_at_once_do_the_work_once(outbox):
    outbox.put(200)
    together = threading.Barrier(2)
    reports = []

    def run():
        together.wait()
        reports.append(outbox.maintain())

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert sorted(len(report.created) for report in reports) == [0, 4]
    assert sum(report.moved for report in reports) == 200
    assert outbox.count() == 200


def test_while_another_one_is_at_it_nothing_is_done(outbox):
    from pgcdc_outbox.postgres.names import lock_key

    with psycopg.connect(outbox.dsn, autocommit=True) as other:
        other.execute("select pg_advisory_lock(%s)", (lock_key("outbox", "maintain"),))

        assert outbox.maintain().busy
        assert outbox.partitions == ["outbox.immediate_default"]


def test_any_schema_name_works(database):
    schema = 'We "ird% é'
    migrate(database, schema=schema)
    with psycopg.connect(database, autocommit=True) as connection:
        identifier = sql.Identifier(schema)
        connection.execute(
            sql.SQL(
                "insert into {}.immediate (payload, created_at)"
                " values ('1', now() - interval '9 d')"
            ).format(identifier)
        )
        connection.execute(
            sql.SQL("insert into {}.consumer (name) values ('a')").format(identifier)
        )

        report = Maintenance(database, schema=schema).once()

    assert report.moved == 1
    assert len(report.kept) == 1


def test_run_goes_on_until_it_is_stopped_and_tells_of_every_run(outbox):
    stop = threading.Event()
    reports = []

    def observe(report):
        reports.append(report)
        if len(reports) == 2:
            stop.set()

    Maintenance(outbox.dsn, observe=observe).run(every=timedelta(milliseconds=10), stop=stop)

    assert [len(report.created) for report in reports] == [4, 0]


def test_there_has_to_be_an_outbox(database):
    with pytest.raises(SchemaBehind):
        Maintenance(database).once()


@pytest.mark.parametrize(
    "settings",
    [
        {"ahead": 0},
        {"interval": timedelta(minutes=1)},
        {"retention": timedelta(-1)},
        {"lock_timeout": timedelta(0)},
        {"schema": "pg_x"},
    ],
)
def test_settings_that_make_no_sense_are_refused_at_once(settings):
    with pytest.raises(SettingsError):
        Maintenance("host=nowhere.invalid", **settings)
