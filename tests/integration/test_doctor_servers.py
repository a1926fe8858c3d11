"""The doctor and servers that are set up badly. Each test has a server of its own."""

import shutil
import subprocess

import psycopg
import pytest

from pgcdc_outbox.postgres.doctor.finding import Result
from pgcdc_outbox.postgres.doctor.look import Limits
from pgcdc_outbox.postgres.migrate import migrate
from pgcdc_outbox.testing import PostgresServer
from tests.harness import Outbox, Recorder, Watcher, consumer, streaming
from tests.integration.test_doctor import register
from tests.patient import Patient
from tests.wait import eventually

SMALL = {"max_slot_wal_keep_size": "64MB", "min_wal_size": "32MB", "max_wal_size": "32MB"}


@pytest.fixture
def hospital(fresh_server):
    """A function that gives a server with settings, and a migrated outbox on it."""

    def start(**settings):
        server = fresh_server(settings={name: str(value) for name, value in settings.items()})
        dsn = server.create_database("doctor")
        migrate(dsn)
        return server, Patient(dsn)

    return start


@pytest.fixture
def execute():
    """Run a statement on an outbox and give its rows."""

    def run(patient, statement, *params):
        with psycopg.connect(patient.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), params)
            return cursor.fetchall() if cursor.description else []

    return run


def awaken(patient, check):
    """Wait until a reloaded setting is seen, for the server takes it when it likes."""
    eventually(lambda: patient.only(check).result is Result.OK)


def test_a_log_without_logical_decoding(hospital):
    server, patient = hospital(wal_level="replica")
    finding = patient.only("wal_level")
    assert (finding.result, finding.title) == (Result.PROBLEM, "wal_level is replica")

    patient.apply(finding)
    assert patient.only("wal_level").detail
    server.restart()
    assert patient.only("wal_level").result is Result.OK


def test_no_slot_is_left(hospital, execute):
    server, patient = hospital(max_replication_slots=1)
    assert patient.only("replication_slots").result is Result.OK
    execute(patient, "select pg_create_physical_replication_slot('taken')")
    assert patient.only("replication_slots").result is Result.WARNING

    finding = patient.only("replication_slots", name="default")
    assert finding.result is Result.PROBLEM
    assert finding.title == "max_replication_slots: 1 of 1 are in use, and 1 more are needed"
    patient.apply(finding)
    server.restart()
    assert patient.only("replication_slots", name="default").result is Result.OK


def test_no_walsender_is_left(hospital):
    server, patient = hospital(max_wal_senders=0)
    finding = patient.only("wal_senders", name="default")
    assert finding.result is Result.PROBLEM
    refused = patient.only("replication_connection")
    assert refused.result is Result.PROBLEM
    assert "max_wal_senders" in refused.detail

    patient.apply(finding)
    server.restart()
    assert patient.only("wal_senders", name="default").result is Result.OK
    assert patient.only("replication_connection").result is Result.OK


@pytest.mark.parametrize(
    ("name", "value", "check", "result"),
    [
        ("wal_sender_timeout", "0", "wal_sender_timeout", Result.WARNING),
        ("wal_sender_timeout", "1s", "wal_sender_timeout", Result.WARNING),
        ("max_slot_wal_keep_size", "-1", "max_slot_wal_keep_size", Result.WARNING),
        ("max_slot_wal_keep_size", "1MB", "max_slot_wal_keep_size", Result.NOTE),
        ("logical_decoding_work_mem", "1MB", "logical_decoding_work_mem", Result.NOTE),
        ("idle_session_timeout", "3s", "idle_session_timeout", Result.WARNING),
        ("synchronous_commit", "off", "synchronous_commit", Result.NOTE),
    ],
)
def test_a_setting_of_the_server(hospital, name, value, check, result):
    _, patient = hospital(**{name: value})
    finding = patient.only(check)
    assert finding.result is result

    patient.apply(finding)
    awaken(patient, check)


@pytest.mark.parametrize("where", ["database doctor", "role postgres"])
def test_a_setting_is_mended_where_it_was_made(hospital, where):
    _, patient = hospital()
    patient.break_(f"alter {where} set wal_sender_timeout = 0")
    finding = patient.only("wal_sender_timeout")
    assert finding.remedy[0].replace('"', "").startswith(f"alter {where} set wal_sender_timeout")

    patient.apply(finding)
    assert patient.only("wal_sender_timeout").result is Result.OK


def test_a_server_that_may_not_load_pgoutput(hospital, execute):
    server, patient = hospital()
    if not patient.findings("output_plugin_libraries"):
        known = execute(patient, "show server_version_num")
        assert int(known[0][0]) < 180005  # such servers do not know the setting
        return

    assert patient.only("output_plugin_libraries").result is Result.NOTE
    patient.break_("alter system set output_plugin_libraries = 'test_decoding'")
    server.restart()
    finding = patient.only("output_plugin_libraries")
    assert finding.result is Result.PROBLEM
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        execute(patient, "select pg_create_logical_replication_slot('x', 'pgoutput')")

    patient.apply(finding)
    server.restart()
    assert patient.only("output_plugin_libraries").result is Result.OK
    execute(patient, "select pg_create_logical_replication_slot('x', 'pgoutput')")


def test_slots_that_time_out(hospital, execute):
    _, patient = hospital()
    if not execute(patient, "select 1 from pg_settings where name ~ '^idle_replication_slot'"):
        assert patient.findings("idle_replication_slot_timeout") == []
        return

    patient.break_(
        "alter system set idle_replication_slot_timeout = '1d'", "select pg_reload_conf()"
    )
    found = eventually(lambda: patient.findings("idle_replication_slot_timeout"))
    assert found[0].title == "idle_replication_slot_timeout is 86400 s"


def test_a_prepared_transaction_that_was_forgotten(hospital, execute):
    _, patient = hospital(max_prepared_transactions=2)
    assert patient.only("prepared_transactions").result is Result.OK
    with psycopg.connect(patient.dsn) as connection:
        connection.execute("select outbox.enqueue('t', '1')")
        connection.execute("prepare transaction 'it''s mine'")

    assert patient.only("prepared_transactions").result is Result.OK
    finding = patient.only("prepared_transactions", limits=Limits(writing=-Limits().writing))
    assert finding.result is Result.WARNING
    assert finding.title.startswith("transaction it's mine of postgres was prepared")
    patient.apply(finding)
    assert execute(patient, "select count(*) from pg_prepared_xacts") == [(0,)]


async def test_a_slot_on_its_way_to_be_lost(hospital, execute):
    """Half way, nearly there, lost; and back with the next start of the consumer."""
    _, patient = hospital(**SMALL)
    outbox, watcher = Outbox(patient.dsn), Watcher()
    subject = consumer(outbox, Recorder(), observers=[watcher])
    async with streaming(subject, watcher):
        pass

    execute(patient, "create table filler (t text)")
    seen = []
    for _ in range(12):
        seen.append(patient.only("slots"))
        write(execute, patient)

    said = [(each.result, each.title.partition(": ")[2]) for each in seen]
    assert said[0][0] is Result.OK
    assert any(r is Result.WARNING and "% of max_slot_wal_keep_size" in t for r, t in said)
    assert any(r is Result.PROBLEM and "% of max_slot_wal_keep_size" in t for r, t in said)

    lost = patient.only("slots")
    assert lost.result is Result.PROBLEM
    assert "is invalid: wal_removed" in lost.title
    assert lost.remedy == ("pgcdc-outbox consume --name default --handler MODULE:NAME",)
    async with streaming(subject, watcher):
        assert patient.only("slots").result is Result.OK


def test_a_slot_that_the_next_checkpoint_loses(hospital, execute):
    _, patient = hospital(**SMALL)
    with psycopg.connect(patient.dsn, autocommit=True) as connection:
        register(connection)

    execute(patient, "create table filler (t text)")
    # Log that no checkpoint has followed yet: the server keeps it a little longer.
    execute(patient, "alter system set max_wal_size = '4GB'")
    execute(patient, "select pg_reload_conf()")
    for _ in range(8):
        write(execute, patient, checkpoint=False)

    finding = patient.only("slots")
    assert finding.result is Result.PROBLEM
    assert "is about to be lost" in finding.title


def write(execute, patient, *, checkpoint=True):
    """About 16 MB of log."""
    execute(patient, "insert into filler select repeat('x', 2000) from generate_series(1, 4000)")
    execute(patient, "select pg_switch_wal()")
    if checkpoint:
        execute(patient, "checkpoint")


def test_standbys_that_a_failover_slot_waits_for(hospital, execute):
    _, patient = hospital(max_slot_wal_keep_size="1GB")
    if execute(patient, "show server_version_num")[0][0] < "170000":
        assert patient.findings("on_the_primary") == []
        return

    with psycopg.connect(patient.dsn, autocommit=True) as connection:
        slot = register(connection, slot=False)

    execute(
        patient, "select pg_create_logical_replication_slot(%s, 'pgoutput', failover => true)", slot
    )
    execute(patient, "select pg_create_physical_replication_slot('elsewhere')")
    empty = patient.only("on_the_primary")
    assert (empty.result, empty.title) == (
        Result.WARNING,
        "synchronized_standby_slots is empty",
    )

    patient.apply(empty)
    unread = eventually(lambda: said(patient, "no standby reads slot elsewhere"))
    assert unread.result is Result.PROBLEM

    execute(patient, "select pg_drop_replication_slot('elsewhere')")
    missing = said(patient, "synchronized_standby_slots names elsewhere, which does not exist")
    patient.break_(missing.remedy[0])
    assert said(patient, "no standby reads slot elsewhere")
    patient.apply(said(patient, "no standby reads slot elsewhere"))
    eventually(lambda: said(patient, "synchronized_standby_slots is empty"))


def said(patient, beginning, check="on_the_primary"):
    found = [each for each in patient.findings(check) if each.title.startswith(beginning)]
    return found[0] if found else None


def test_a_standby_and_its_primary(hospital, execute):
    """A real standby: what is missing on it is told, and mended by what is told."""
    server, patient = hospital(wal_keep_size="256MB")
    with psycopg.connect(patient.dsn, autocommit=True) as connection:
        slot = register(connection, slot=False)
        major = connection.info.server_version // 10000
        options = ", failover => true" if major >= 17 else ""
        connection.execute(
            f"select pg_create_logical_replication_slot(%s, 'pgoutput'{options})".encode(), [slot]
        )
        connection.execute("select pg_create_physical_replication_slot('standby')")

    with standby_of(server) as standby:
        there = Patient(standby.dsn("doctor"))
        finding = there.only("primary")
        assert (finding.result, finding.title) == (Result.PROBLEM, "the server is a standby")
        assert {each.group for each in there.examine().findings} >= {"slots", "schema"}
        if major < 17:
            assert there.findings("on_the_standby") == []
            return

        titles = [each.title for each in there.findings("on_the_standby")]
        assert titles == [
            "sync_replication_slots is off",
            "hot_standby_feedback is off",
            "primary_conninfo names no database, so no slot is copied",
            "no slot of a consumer has a copy on this standby",
        ]
        for each in there.findings("on_the_standby")[:2]:
            there.apply(each)

        there.break_(
            f"alter system set primary_conninfo = '{quoted(server.dsn('doctor'))}'",
            "select pg_reload_conf()",
        )

        def copied():
            # A copy becomes complete once the primary's log has moved past it.
            execute(patient, "select pg_logical_emit_message(true, 'x', 'x')")
            execute(patient, "select pg_log_standby_snapshot()")
            execute(patient, "select pg_replication_slot_advance(%s, pg_current_wal_lsn())", slot)
            found = there.findings("on_the_standby")
            return [each.title for each in found] == [
                f"slot {slot} has a usable copy on this standby"
            ]

        eventually(copied, timeout=60)

        execute(patient, "alter system set synchronized_standby_slots = 'standby'")
        execute(patient, "select pg_reload_conf()")
        eventually(
            lambda: [each.result for each in patient.findings("on_the_primary")] == [Result.OK]
        )


def standby_of(server):
    """A copy of a server's data, without its slots, that follows it."""
    server.stop()
    data = server.data.with_name("standby")
    subprocess.run(["cp", "-a", str(server.data), str(data)], check=True)
    server.resume()
    for slot in (data / "pg_replslot").iterdir():
        shutil.rmtree(slot)

    (data / "standby.signal").touch()
    follow = psycopg.conninfo.make_conninfo(server.dsn(), dbname="")
    return PostgresServer.start(
        data, settings={"primary_conninfo": follow, "primary_slot_name": "standby"}
    )


def quoted(text):
    return text.replace("'", "''")
