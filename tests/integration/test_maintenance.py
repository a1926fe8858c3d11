"""Partitions on a real server: made ahead of time."""

import threading
from datetime import timedelta

import psycopg
import pytest
from psycopg import sql

from pgcdc_outbox.errors import SchemaBehind, SettingsError
from pgcdc_outbox.postgres.migrate import migrate
from pgcdc_outbox.postgres.partition.maintenance import Maintenance
from tests.maintained import PATIENT, maintained, reasons


@pytest.fixture
def outbox(database):
    with maintained(database) as outbox:
        yield outbox


def test_partitions_are_made_for_today_and_ahead_and_take_new_rows(outbox):
    report = outbox.maintain(ahead=3)
    outbox.put()

    assert len(report.created) == 4
    assert outbox.count("outbox.immediate_default") == 0
    assert outbox.count(f"outbox.{report.created[0]}") == 1
    assert outbox.maintain(ahead=3).created == ()


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


def test_beside_a_long_producer_what_is_ahead_is_made_and_now_is_delayed(outbox):
    with psycopg.connect(outbox.dsn) as producer:
        # It holds the root, as every producer does, but not DEFAULT.
        producer.execute("lock table only outbox.immediate in row exclusive mode")

        # What is ahead has to be made within that, too, on a busy machine.
        report = outbox.maintain(ahead=3, lock_timeout=timedelta(seconds=8))

        assert len(report.created) == 3
        assert f"pid {producer.info.backend_pid}" in report.delayed[0]

    assert len(outbox.maintain(ahead=3).created) == 1


def test_a_name_that_is_taken_delays_and_loses_nothing(outbox):
    (name, *_) = outbox.maintain().created
    outbox.put()
    # A person detached it, to look at it.
    outbox.connection.execute(f"alter table outbox.immediate detach partition outbox.{name}")

    report = outbox.maintain()

    assert report.delayed == (f"{name}: another table has this name",)
    assert reasons(report) == {name: "not attached to the outbox, but it holds rows"}
    assert outbox.count(f"outbox.{name}") == 1


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

        report = Maintenance(database, schema=schema, lock_timeout=PATIENT).once()

    assert report.moved == 1
    assert len(report.kept) == 1


def test_run_goes_on_until_it_is_stopped_and_tells_of_every_run(outbox):
    stop = threading.Event()
    reports = []

    def observe(report):
        reports.append(report)
        if len(reports) == 2:
            stop.set()

    maintenance = Maintenance(outbox.dsn, observe=observe, lock_timeout=PATIENT)
    maintenance.run(every=timedelta(milliseconds=10), stop=stop)

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
