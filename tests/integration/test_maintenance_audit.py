"""Partitions of the table of attempts: by day, ahead, and gone when they are old."""

from datetime import timedelta

import psycopg
import pytest

from pgcdc_outbox.errors import SettingsError
from pgcdc_outbox.postgres.partition.maintenance import Maintenance
from tests.maintained import maintained


@pytest.fixture
def outbox(database):
    with maintained(database) as outbox:
        yield outbox


def put(outbox, started_at="clock_timestamp()", rows=1):
    outbox.connection.execute(
        "insert into outbox.attempt"
        " (consumer, id, attempt, topic, outcome, started_at, seconds, instance)"
        f" select 'c', i, 1, 't', 'done', {started_at}, 0.1, 'i' from generate_series(1, {rows}) i"
    )


def partitions(outbox):
    return outbox.column(
        "select inhrelid::regclass::text from pg_inherits"
        " where inhparent = 'outbox.attempt'::regclass order by 1"
    )


def test_they_are_of_a_day_whatever_the_interval_of_jobs(outbox):
    report = outbox.maintain(interval=timedelta(hours=1), ahead=2)

    assert len(report.created) == 3
    assert len(report.audit.created) == 4
    put(outbox)
    put(outbox, "clock_timestamp() + interval '2 days'")
    assert outbox.count("outbox.attempt_default") == 0
    assert outbox.maintain(interval=timedelta(hours=1), ahead=2).audit.created == ()


def test_rows_of_default_move_and_old_ones_go_whoever_is_behind(outbox):
    """No consumer needs them, so a checkpoint that was never saved keeps none."""
    outbox.register(settled=False)
    put(outbox)
    put(outbox, "clock_timestamp() - interval '3 days'", rows=2)
    put(outbox, "clock_timestamp() - interval '40 days'", rows=3)

    report = outbox.maintain()

    assert report.audit.moved == 6
    assert outbox.count("outbox.attempt_default") == 0
    assert len(report.audit.dropped) == 1
    assert outbox.count("outbox.attempt") == 3
    assert report.is_complete

    report = outbox.maintain(audit_retention=timedelta(days=1))
    assert len(report.audit.dropped) == 1
    assert outbox.count("outbox.attempt") == 1
    assert len(partitions(outbox)) == 1 + 4


def test_whoever_reads_the_audit_delays_a_drop_and_nothing_else(outbox):
    put(outbox, "clock_timestamp() - interval '40 days'")
    outbox.maintain(audit_retention=timedelta(days=365))
    with psycopg.connect(outbox.dsn) as reader:
        reader.execute("select count(*) from outbox.attempt")

        report = outbox.maintain(lock_timeout=timedelta(milliseconds=200))

        assert not report.is_complete
        assert "in use" in report.audit.kept[0].reason
        assert report.kept == ()
        reader.rollback()

    assert len(outbox.maintain().audit.dropped) == 1


def test_an_empty_table_left_half_made_is_dropped(outbox):
    outbox.connection.execute("create table outbox.attempt_20200101t0000z ()")
    assert outbox.maintain().audit.dropped == ("attempt_20200101t0000z",)


def test_a_negative_retention_is_refused():
    with pytest.raises(SettingsError, match="audit_retention"):
        Maintenance("", audit_retention=timedelta(days=-1))
