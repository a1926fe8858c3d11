"""Several maintainers of one outbox, maintainers behind a pooler, and where they connect."""

import threading
from datetime import timedelta

import psycopg
import pytest

from pgcdc_outbox.errors import SettingsError, SourceUnavailable
from pgcdc_outbox.postgres.ledger.dead import DeadLetters
from pgcdc_outbox.postgres.names import lock_key
from pgcdc_outbox.postgres.partition import turn
from pgcdc_outbox.postgres.partition.maintenance import Maintenance
from pgcdc_outbox.postgres.report.lag import measure
from pgcdc_outbox.postgres.report.status import overview
from tests.maintained import PATIENT, Outbox, maintained
from tests.pooler import Pooler
from tests.wait import eventually


@pytest.fixture
def outbox(database):
    with maintained(database) as outbox:
        yield outbox


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
        thread.join(120)

    assert sorted(len(report.created) for report in reports) == [0, 4]
    assert sum(report.moved for report in reports) == 200
    assert outbox.count() == 200


def test_while_another_one_is_at_it_nothing_is_done(outbox):
    with psycopg.connect(outbox.dsn) as other:
        other.execute("select pg_advisory_xact_lock(%s)", (lock_key("outbox", "maintain"),))

        assert outbox.maintain().busy
        assert outbox.partitions == ["outbox.immediate_default"]

    assert not outbox.maintain().busy


def test_who_comes_right_after_is_not_told_that_somebody_is_at_it(outbox, monkeypatch):
    """The turn is over before its connection is closed: the server may notice that late."""
    turns = []
    close = psycopg.Connection.close

    def closing(connection):
        if connection.cursor_factory is psycopg.ClientCursor:
            turns.append(
                outbox.count(
                    "pg_locks where locktype = 'advisory' and database ="
                    " (select oid from pg_database where datname = current_database())"
                )
            )
        close(connection)

    monkeypatch.setattr(psycopg.Connection, "close", closing)

    assert not any(outbox.maintain().busy for _ in range(10))
    # The connection that works, and then the one that held the turn.
    assert turns == [1, 0] * 10


def test_the_turn_is_over_when_the_block_is(outbox):
    with turn.turn(outbox.dsn, "outbox") as mine, turn.turn(outbox.dsn, "outbox") as other:
        assert mine is not None
        assert other is None

    with turn.turn(outbox.dsn, "outbox") as mine:
        assert mine is not None


def test_who_has_lost_the_turn_does_not_go_on(outbox):
    with turn.turn(outbox.dsn, "outbox") as mine:
        outbox.connection.execute(
            "select pg_terminate_backend(pid, 10000) from pg_locks where locktype = 'advisory'"
            " and database = (select oid from pg_database where datname = current_database())"
        )
        with pytest.raises(psycopg.OperationalError):
            mine.keep()


def test_who_loses_the_turn_half_way_stops_there(outbox):
    """Here with two partitions to drop, while it waits for the first."""
    outbox.put(created_at="clock_timestamp() - interval '9 days'")
    outbox.put(created_at="clock_timestamp() - interval '10 days'")
    first, second = outbox.maintain(retention=timedelta(days=365)).created[:2]
    outbox.register()
    failures = []

    def run():
        try:
            outbox.maintain(lock_timeout=timedelta(minutes=2))
        except SourceUnavailable as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    with psycopg.connect(outbox.dsn) as holder:
        holder.execute(f"lock table outbox.{first} in row exclusive mode")
        thread.start()
        eventually(
            lambda: outbox.column(
                "select 1 from pg_locks where not granted"
                f" and relation = 'outbox.{first}'::regclass"
            ),
            timeout=60,
        )
        outbox.connection.execute(
            "select pg_terminate_backend(pid, 10000) from pg_locks where locktype = 'advisory'"
            " and database = (select oid from pg_database where datname = current_database())"
        )

    thread.join(120)
    assert [error.transient for error in failures] == [True]
    assert outbox.count(f"outbox.{second}") == 1
    assert second in outbox.maintain().dropped


def test_a_turn_holds_back_neither_vacuum_nor_the_log(outbox):
    with turn.turn(outbox.dsn, "outbox"):
        held = outbox.connection.execute(
            "select backend_xid, backend_xmin from pg_stat_activity"
            " where datname = current_database() and state = 'idle in transaction'"
        ).fetchall()

    assert held == [(None, None)]


def test_limits_of_the_role_do_not_end_it(outbox):
    """An open transaction that waits, and work that takes longer than statements may.

    Until a transaction has lifted them they hold, also for a machine that is busy.
    """
    database = outbox.column("select quote_ident(current_database())")[0]
    outbox.connection.execute(
        f"alter database {database} set idle_in_transaction_session_timeout = '8s';"
        f"alter database {database} set statement_timeout = '8s'"
    )
    outbox.put(3, created_at="clock_timestamp() - interval '3 days'")
    outbox.connection.execute(
        "create function outbox.slow() returns trigger language plpgsql"
        " as $$begin perform pg_sleep(3); return old; end$$;"
        "create trigger slow before delete on outbox.immediate_default"
        " for each row execute function outbox.slow()"
    )

    assert outbox.maintain().moved == 3


@pytest.mark.any_version
def test_it_works_behind_a_pooler_and_leaves_nothing_in_its_sessions(outbox):
    outbox.put(50)
    outbox.put(5, created_at="clock_timestamp() - interval '9 days'")
    outbox.register()
    with Pooler(outbox.dsn, size=3) as pooler:
        behind = Outbox(pooler.dsn, outbox.connection)
        first = behind.maintain()
        with psycopg.connect(outbox.dsn) as other:
            other.execute("select pg_advisory_xact_lock(%s)", (lock_key("outbox", "maintain"),))
            assert behind.maintain().busy

        again = [behind.maintain() for _ in range(5)]
        assert len(overview(pooler.dsn).partitions) == 5
        assert [each.consumer for each in measure(pooler.dsn).consumers] == ["default"]
        assert DeadLetters(pooler.dsn).purge(timedelta(0)) == 0
        # One transaction after another: each session of the pool has its turn.
        with psycopg.connect(pooler.dsn, autocommit=True) as client:
            left = {
                client.execute(
                    "select current_setting('statement_timeout'), current_setting('lock_timeout'),"
                    " (select count(*) from pg_locks where pid = pg_backend_pid()"
                    " and locktype = 'advisory'), pg_backend_pid()"
                ).fetchone()
                for _ in range(3)
            }

    assert (first.moved, len(first.created), len(first.dropped)) == (55, 5, 1)
    assert not any(report.busy for report in again)
    assert len(left) == 3
    assert {row[:3] for row in left} == {("0", "0", 0)}
    assert outbox.count() == 50


@pytest.mark.any_version
def test_two_at_once_behind_a_pooler_do_the_work_once(outbox):
    outbox.put(200)
    together = threading.Barrier(2)
    reports = []

    with Pooler(outbox.dsn, size=4) as pooler:

        def run():
            together.wait()
            reports.append(Maintenance(pooler.dsn, lock_timeout=PATIENT).once())

        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)

    assert sorted(len(report.created) for report in reports) == [0, 4]
    assert sum(report.moved for report in reports) == 200


def test_without_a_conninfo_the_environment_tells_at_each_run(outbox, monkeypatch):
    maintenance = Maintenance(lock_timeout=PATIENT)
    monkeypatch.setenv("PGCDC_OUTBOX_DSN", outbox.dsn)
    assert len(maintenance.once().created) == 4

    monkeypatch.setenv("PGCDC_OUTBOX_DSN", "host=secret@nowhere")
    with pytest.raises(SettingsError, match="PGCDC_OUTBOX_DSN") as caught:
        maintenance.once()

    assert "secret" not in str(caught.value)


def test_without_anything_libpq_tells(outbox, monkeypatch):
    monkeypatch.delenv("PGCDC_OUTBOX_DSN", raising=False)
    for name, value in psycopg.conninfo.conninfo_to_dict(outbox.dsn).items():
        variable = "PGDATABASE" if name == "dbname" else f"PG{name.upper()}"
        monkeypatch.setenv(variable, str(value))

    assert len(Maintenance(lock_timeout=PATIENT).once().created) == 4
