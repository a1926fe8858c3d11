"""Old partitions: dropped once settled, and kept for whoever still needs them."""

import threading
from datetime import timedelta

import psycopg
import pytest

from tests.maintained import WEEK_OLD, maintained, needs, reasons
from tests.wait import eventually


@pytest.fixture
def outbox(database):
    with maintained(database) as outbox:
        yield outbox


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
    assert needs(report) == {name: [("slow", "behind", 4)]}
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

    assert needs(outbox.maintain()) == {name: [("mine", "behind", 1)]}
    outbox.settle("mine")
    assert outbox.maintain().dropped == (name,)


def test_a_consumer_without_a_checkpoint_has_settled_nothing(outbox):
    name = outbox.old_partition()
    outbox.register("done")
    outbox.register("new", settled=False)

    assert needs(outbox.maintain()) == {name: [("new", "unstarted", 3)]}


def test_a_consumer_that_rereads_has_settled_nothing(outbox):
    name = outbox.old_partition()
    outbox.register()
    outbox.connection.execute("update outbox.checkpoint set target = snapshot, target_lsn = lsn")

    assert needs(outbox.maintain()) == {name: [("default", "rereading", 3)]}


def test_a_checkpoint_of_another_cluster_has_settled_nothing(outbox):
    name = outbox.old_partition()
    outbox.register(system_id="7000000000000000000")

    assert needs(outbox.maintain()) == {name: [("default", "foreign", 3)]}


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
    assert needs(outbox.maintain()) == {name: [("default", "behind", 1)]}
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
            target=lambda: reports.append(outbox.maintain(lock_timeout=timedelta(minutes=2)))
        )
        thread.start()
        eventually(
            lambda: outbox.column(
                f"select 1 from pg_locks where not granted and relation = 'outbox.{name}'::regclass"
            ),
            timeout=60,
        )
        producer.commit()
        thread.join(120)

    assert needs(reports[0]) == {name: [("default", "behind", 1)]}
    assert outbox.count() == 4


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


def test_what_keeping_costs_is_said_and_who_is_to_blame(outbox):
    outbox.register("slow")
    outbox.register("new", settled=False)
    name = outbox.old_partition(rows=4)
    since = outbox.column(
        "select to_char(min(created_at), 'YYYY-MM-DD HH24:MI\"Z\"') from outbox.immediate"
    )[0]
    saved = outbox.column(
        "select to_char(saved_at, 'YYYY-MM-DD HH24:MI\"Z\"') from outbox.checkpoint"
    )[0]

    (kept,) = outbox.maintain().kept

    assert kept.reason == (
        f"consumer new has saved no checkpoint yet (4 rows since {since}); "
        f"consumer slow has not settled 4 rows since {since} (last checkpoint {saved})"
    )
    size = outbox.column(f"select pg_total_relation_size('outbox.{name}')")[0]
    assert str(kept) == f"{name} kept ({size} bytes): {kept.reason}"


def test_rows_are_only_counted_up_to_a_limit(outbox):
    outbox.register()
    name = outbox.old_partition(rows=1500)

    report = outbox.maintain()

    assert needs(report) == {name: [("default", "behind", 1000)]}
    assert "at least 1000 rows" in reasons(report)[name]


def test_what_was_open_when_the_checkpoint_was_taken_is_not_settled(outbox):
    outbox.register("early", settled=False)
    with psycopg.connect(outbox.dsn) as open_then:
        open_then.execute(
            f"insert into outbox.immediate (payload, created_at) values ('1', {WEEK_OLD})"
        )
        outbox.put(2, created_at=WEEK_OLD)
        outbox.settle("early")
        open_then.commit()

    report = outbox.maintain()
    (name,) = (name for name in report.created if name in reasons(report))
    assert needs(report) == {name: [("early", "behind", 1)]}
    assert outbox.count() == 3
