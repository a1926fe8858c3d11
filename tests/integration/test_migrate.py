"""Migrations on a real server."""

import threading
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgcdc_outbox.errors import (
    MigrationBlocked,
    MigrationChanged,
    PermissionMissing,
    SchemaAhead,
    SchemaBehind,
    SettingsError,
)
from pgcdc_outbox.postgres.connection import connect
from pgcdc_outbox.postgres.migrate import (
    Migration,
    applied,
    known,
    migrate,
    plan_text,
    require_current,
    status,
)
from tests.wait import eventually

FOLDER = Path(__file__).parents[2]
NEXT = Migration(
    len(known()) + 1, "add_note", 'alter table :"schema".immediate add column note text;\n'
)
ODD_NAMES = ["outbox", 'We "ird% é:x', "x" * 63, "select", "%s"]


def numbers(steps):
    return [step.number for step in steps]


def test_the_first_run_applies_everything_and_the_second_nothing(database):
    assert migrate(database) == list(known())
    assert migrate(database) == []
    assert numbers(status(database).applied) == numbers(known())
    assert status(database).pending == ()


@pytest.mark.parametrize("schema", ODD_NAMES)
def test_any_schema_name_works_and_two_outboxes_are_independent(database, schema):
    migrate(database, schema="neighbour")
    migrate(database, schema=schema)

    assert migrate(database, schema=schema) == []
    with psycopg.connect(database) as connection:
        connection.execute(sql.SQL("select {}.enqueue('t', '1')").format(sql.Identifier(schema)))
        assert connection.execute("select count(*) from neighbour.job").fetchone() == (0,)
        assert connection.execute("select count(*) from pg_publication").fetchone() == (2,)


@pytest.mark.parametrize("schema", ["", "pg_mine", "a\0b", "é" * 32])
def test_names_that_cannot_be_are_refused_before_anything_is_sent(schema):
    with pytest.raises(SettingsError, match="schema"):
        migrate("host=nowhere.invalid", schema=schema)


def test_two_at_once_apply_each_migration_once(database):
    """They may share the work, a transaction each; for both the schema is up to date then."""
    together = threading.Barrier(2)
    done = []
    left = []

    def run():
        together.wait()
        done.append(numbers(migrate(database)))
        left.append(status(database).pending)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)

    assert sorted(done[0] + done[1]) == numbers(known())
    assert left == [(), ()]


def test_the_printed_plan_is_what_migrate_applies(database):
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(plan_text("out%box").encode())

    assert migrate(database, schema="out%box") == []


def test_the_snapshot_for_people_is_up_to_date():
    # Made by: pgcdc-outbox migrate --print > sql/schema.sql
    assert (FOLDER / "sql" / "schema.sql").read_text("utf-8") == plan_text("outbox")


def test_with_nothing_to_do_select_is_enough_and_no_lock_is_taken(database):
    migrate(database)
    with psycopg.connect(database, autocommit=True) as owner, psycopg.connect(database) as busy:
        owner.execute("create role reader_of_migrations login")
        try:
            owner.execute("grant usage on schema outbox to reader_of_migrations")
            owner.execute("grant select on outbox.migration to reader_of_migrations")
            # Whatever migrate might lock is locked already.
            busy.execute("lock table outbox.immediate, outbox.consumer in access exclusive mode")
            busy.execute("lock table outbox.migration in exclusive mode")

            assert migrate(make_conninfo(database, user="reader_of_migrations")) == []
        finally:
            owner.execute("drop owned by reader_of_migrations")
            owner.execute("drop role reader_of_migrations")


def test_a_changed_migration_is_refused(database):
    migrate(database)
    changed = [Migration(step.number, step.name, step.text + "\n") for step in known()]

    with pytest.raises(MigrationChanged, match="create_outbox"):
        migrate(database, migrations=[*changed, NEXT])


def test_a_newer_schema_is_refused(database):
    migrate(database, migrations=[*known(), NEXT])

    with pytest.raises(SchemaAhead, match="add_note"):
        migrate(database)


def test_a_long_transaction_blocks_it_briefly_and_is_named(database):
    migrate(database)
    with psycopg.connect(database) as producer:
        producer.execute("select outbox.enqueue('t', '1')")

        with pytest.raises(MigrationBlocked) as caught:
            migrate(database, migrations=[*known(), NEXT], lock_timeout=timedelta(milliseconds=200))

        assert f"pid {producer.info.backend_pid}" in str(caught.value)

    assert numbers(migrate(database, migrations=[*known(), NEXT])) == [NEXT.number]


def test_producers_wait_no_longer_than_the_lock_timeout(database):
    migrate(database)
    with (
        psycopg.connect(database) as holder,
        psycopg.connect(database, autocommit=True) as watcher,
        psycopg.connect(database, autocommit=True) as producer,
    ):
        holder.execute("select outbox.enqueue('t', '1')")

        def attempt():
            with pytest.raises(MigrationBlocked):
                migrate(database, migrations=[*known(), NEXT], lock_timeout=timedelta(seconds=8))

        thread = threading.Thread(target=attempt)
        thread.start()
        eventually(
            lambda: watcher.execute(
                "select from pg_locks where not granted and relation = 'outbox.immediate'::regclass"
            ).fetchall(),
            timeout=60,
        )
        # It queues behind the migration, which gives up after some seconds, and does not
        # wait for the holder, who stays.
        producer.execute("set statement_timeout = '60s'")
        producer.execute("select outbox.enqueue('t', '1')")
        thread.join(60)


def test_a_migration_that_fails_leaves_nothing_behind(database):
    broken = Migration(NEXT.number, "broken", 'create table :"schema".half (a int);\nselect 1/0;\n')
    migrate(database)

    with pytest.raises(Exception, match="division by zero"):
        migrate(database, migrations=[*known(), broken])

    assert numbers(status(database).applied) == numbers(known())
    with psycopg.connect(database) as connection:
        assert connection.execute("select to_regclass('outbox.half')").fetchone() == (None,)


def test_a_role_that_may_not_is_told_so(database):
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute("create role nobody_much login")
        try:
            with pytest.raises(PermissionMissing):
                migrate(make_conninfo(database, user="nobody_much"))
        finally:
            owner.execute("drop role nobody_much")


def test_require_current(database):
    def check(migrations=None):
        with connect(database) as connection:
            require_current(applied(connection, "outbox"), "outbox", migrations=migrations)

    with pytest.raises(SchemaBehind, match="does not exist"):
        check()

    migrate(database)
    check()
    with pytest.raises(
        SchemaBehind, match=f"is at {NEXT.number - 1}; this version needs {NEXT.number}"
    ):
        check([*known(), NEXT])
    with pytest.raises(SchemaAhead):
        check([])
