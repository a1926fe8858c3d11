"""Lag and status on a real server."""

import contextlib
import random

import psycopg
import pytest

from pgcdc_outbox.errors import SchemaBehind
from pgcdc_outbox.postgres.connection import connect
from pgcdc_outbox.postgres.migrate import migrate
from pgcdc_outbox.postgres.partition.maintenance import Maintenance
from pgcdc_outbox.postgres.queries import query
from pgcdc_outbox.postgres.report.lag import Level, Thresholds, measure
from pgcdc_outbox.postgres.report.status import overview
from tests.harness import Outbox, Recorder, Watcher, consumer, streaming
from tests.maintained import PATIENT
from tests.wait import eventually


@pytest.fixture
def connection(database):
    migrate(database)
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def slot(connection):
    name = f"lag_{connection.info.backend_pid}"
    connection.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (name,))
    yield name
    connection.execute(
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s",
        (name,),
    )


def register(connection, name="default", slot=None):
    connection.execute("insert into outbox.consumer (name, slot) values (%s, %s)", (name, slot))


def settle(connection, name="default"):
    connection.execute(
        "insert into outbox.checkpoint (consumer, system_id, timeline, snapshot, lsn, flushed)"
        " select %s, system_identifier, 1, pg_current_snapshot(), '0/1', '0/1'"
        " from pg_control_system()",
        (name,),
    )


def test_without_consumers_there_is_no_lag(connection, database):
    lag = measure(database)

    assert lag.consumers == ()
    assert lag.judge(Thresholds()) is Level.OK


def test_a_registered_consumer_without_a_slot_is_critical(connection, database):
    register(connection, slot="no_such_slot")

    (consumer,) = measure(database).consumers
    assert not consumer.slot_exists
    assert consumer.judge(Thresholds()) == (Level.CRITICAL, "the slot does not exist")


def test_lag_is_what_was_written_since_the_consumer_confirmed(connection, database, slot):
    register(connection, slot=slot)
    before = measure(database).consumers[0]
    connection.execute("select pg_logical_emit_message(false, 'x', repeat('x', 300000))")
    # What was emitted counts once it is written out.
    connection.execute("select pg_switch_wal()")

    lag = measure(database)
    (after,) = lag.consumers

    assert after.slot_exists
    assert not after.active
    assert (after.wal_status, after.invalid) == ("reserved", None)
    assert after.lag_bytes - before.lag_bytes >= 300_000
    assert after.retained_bytes >= after.lag_bytes
    assert lag.judge(Thresholds(warn=100_000_000, critical=200_000_000)) is Level.OK
    assert lag.judge(Thresholds(warn=300_000, critical=200_000_000)) is Level.WARNING
    assert lag.judge(Thresholds(warn=100_000, critical=300_000)) is Level.CRITICAL


def test_the_oldest_job_that_the_checkpoint_has_not_seen(connection, database, slot):
    register(connection, slot=slot)
    connection.execute("select outbox.enqueue('t', '1')")
    settle(connection)
    put = (
        "insert into outbox.immediate (payload, created_at, consumer)"
        " values ('1', {}, %s) returning id"
    )
    connection.execute(put.format("now() - interval '2 h'"), ("somebody else",))
    (oldest,) = connection.execute(put.format("now() - interval '1 h'"), (None,)).fetchone()
    connection.execute("select outbox.enqueue('t', '1')")

    (consumer,) = measure(database).consumers
    assert consumer.oldest_id == oldest
    assert 3600 <= consumer.behind_seconds < 3700


def test_the_oldest_job_is_the_oldest_that_the_snapshot_does_not_see(connection, database):
    """Among rows of transactions open at the checkpoint, before it and after it."""
    register(connection)
    insert = "insert into outbox.immediate (payload, consumer) values ('1', {})"
    names = ["null", "'default'", "'other'"]
    chance = random.Random(7)
    for _ in range(8):
        connection.execute("truncate outbox.immediate")
        connection.execute("delete from outbox.checkpoint")
        with contextlib.ExitStack() as stack:
            writers = [stack.enter_context(psycopg.connect(database)) for _ in range(4)]
            for writer in chance.choices(writers, k=8):
                writer.execute(insert.format(chance.choice(names)))
                connection.execute(insert.format(chance.choice(names)))
            for writer in writers[:2]:
                writer.commit()
            settle(connection)
            # Whichever was open stays so, is rolled back, or commits after the checkpoint.
            for writer in writers[2:]:
                chance.choice([writer.commit, writer.rollback, lambda: None])()
            if chance.random() < 0.5:
                connection.execute(insert.format(chance.choice(names)))

            expected = connection.execute(
                "select id from outbox.immediate, outbox.checkpoint"
                " where not pg_visible_in_snapshot(xid, snapshot)"
                " and coalesce(immediate.consumer, 'default') = 'default'"
                " order by xid, id limit 1"
            ).fetchone()
            (consumer,) = measure(database).consumers
            assert consumer.oldest_id == (expected and expected[0])


@pytest.mark.parametrize("name", ["lag", "unsettled_by_consumer"])
def test_it_costs_the_same_however_long_a_writer_has_been_open(connection, database, name):
    (leaf,) = Maintenance(database, ahead=1, lock_timeout=PATIENT).once().created[:1]
    with psycopg.connect(database) as writer:
        writer.execute("create table held (n int)")
        for _ in range(10):
            connection.execute(
                "insert into outbox.immediate (payload) select '1' from generate_series(1, 3000)"
            )
        connection.execute("vacuum analyze outbox.immediate")
        register(connection)
        settle(connection)
        with connect(database) as asking:
            text = query(name, "outbox").replace(':"partition"', f'"{leaf}"')
            plan = asking.execute(
                ("explain (analyze, buffers, format json) " + without_comments(text)).encode(),
                {"consumer": None, "limit": 1000},
            ).fetchone()["QUERY PLAN"][0]["Plan"]

    # The rows fill some 400 pages, and as many again with their index.
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 100


def without_comments(text):
    return "\n".join(line for line in text.splitlines() if not line.startswith("--"))


def test_a_slot_at_the_end_of_the_log_is_not_behind(connection, database, slot):
    register(connection, slot=slot)
    connection.execute("insert into outbox.immediate (payload) values ('1')")

    def caught_up():
        connection.execute("select pg_replication_slot_advance(%s, pg_current_wal_lsn())", (slot,))
        (consumer,) = measure(database).consumers
        return consumer.behind_seconds == 0.0

    eventually(caught_up, timeout=60)


def test_failed_and_dead_jobs_are_counted_for_each_consumer(connection, database):
    register(connection, "a")
    register(connection, "b")
    for number in range(3):
        connection.execute(
            "insert into outbox.failed"
            " (consumer, id, due_at, attempt, created_at, topic, payload, errors)"
            " values ('a', %s, now(), 1, now(), 't', '1', '[]')",
            (number,),
        )
    connection.execute(
        "insert into outbox.dead_letter"
        " (consumer, id, reason, attempt, created_at, topic, payload, errors)"
        " values ('b', 9, 'exhausted', 1, now(), 't', '1', '[]')"
    )

    consumers = measure(database).consumers
    assert [(one.consumer, one.failed, one.dead) for one in consumers] == [("a", 3, 0), ("b", 0, 1)]
    assert [one.consumer for one in measure(database, consumer="b").consumers] == ["b"]


def test_the_oldest_writing_transaction_is_named(connection, database):
    with psycopg.connect(database) as long:
        long.execute("select outbox.enqueue('t', '1')")
        # There may be an older one in another database of this server.
        pids = []

        def seen():
            writer = measure(database).oldest_writer
            pids.append(writer.pid)
            return writer.pid == long.info.backend_pid and writer.what.startswith("idle in trans")

        assert eventually(seen, timeout=60)


def test_the_overview(connection, database):
    connection.execute(
        "select outbox.enqueue('t', '1'), outbox.enqueue('t', '1', null, null, '1 h')"
    )
    connection.execute("insert into outbox.scheduled (due_at, payload) values (now(), '1')")
    connection.execute(
        "insert into outbox.dead_letter"
        " (consumer, id, reason, attempt, created_at, topic, payload, errors)"
        " select 'a', id, 'exhausted', 1, now(), 't', '1', '[]' from generate_series(1, 4) as id"
    )
    register(connection)
    before = overview(database)
    Maintenance(database, ahead=2, lock_timeout=PATIENT).once()
    after = overview(database)

    assert (before.migration, before.pending) == (3, 0)
    assert (before.counts.immediate, before.counts.immediate_is_exact) == (1, True)
    assert (before.counts.scheduled, before.counts.scheduled_due) == (1, 1)
    assert before.counts.dead == {"exhausted": 4}
    assert (before.default_rows, after.default_rows) == (1, 0)
    assert [consumer.name for consumer in after.consumers] == ["default"]
    assert [len(before.partitions), len(after.partitions)] == [1, 4]
    assert after.partitions[1].upper == after.partitions[2].lower


def test_there_has_to_be_an_outbox(database):
    with pytest.raises(SchemaBehind):
        overview(database)
    with pytest.raises(SchemaBehind):
        measure(database)


async def test_one_that_polls_needs_no_slot(database):
    migrate(database)
    outbox = Outbox(database, mode="polling")
    recorder, watcher = Recorder(), Watcher()
    subject = consumer(outbox, recorder, observers=[watcher])
    async with streaming(subject, watcher):
        outbox.put([1])
        await outbox.settled()
        (while_it_runs,) = measure(database).consumers

    assert while_it_runs.mode == "polling"
    assert while_it_runs.active
    outbox.put([random.randbytes(10_000) for _ in range(60)])
    # The server may notice late that a connection was closed.
    eventually(lambda: not measure(database).consumers[0].active, timeout=60)
    (away,) = measure(database).consumers
    assert away.lag_bytes > 500_000
    assert away.behind_seconds > 0
    assert away.judge(Thresholds(warn=1 << 28, critical=1 << 30)) == (Level.OK, "")
    assert away.judge(Thresholds(warn=100_000, critical=1 << 30)) == (Level.WARNING, "behind")
