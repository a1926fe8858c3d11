"""The doctor and slots that are to survive a failover, with a standby that follows."""

import shutil
import subprocess

import psycopg
from psycopg.pq import ExecStatus

from pgcdc_outbox.pgoutput import commands
from pgcdc_outbox.postgres.connection import connect
from pgcdc_outbox.postgres.doctor.finding import Result
from pgcdc_outbox.testing import PostgresServer
from tests.integration.doctor.patient import Patient, register
from tests.wait import eventually

MAKE_SLOT = "select pg_create_logical_replication_slot(%s, 'pgoutput', failover => true)"


def test_standbys_that_a_failover_slot_waits_for(hospital, execute):
    _, patient = hospital(max_slot_wal_keep_size="1GB")
    if execute(patient, "show server_version_num")[0][0] < "170000":
        assert patient.findings("on_the_primary") == []
        return

    with psycopg.connect(patient.dsn, autocommit=True) as connection:
        slot = register(connection, slot=False)

    execute(patient, MAKE_SLOT, slot)
    execute(patient, "select pg_create_physical_replication_slot('elsewhere')")
    empty = patient.only("on_the_primary")
    assert (empty.result, empty.title) == (
        Result.WARNING,
        "synchronized_standby_slots is empty",
    )

    patient.apply(empty)
    unread = eventually(lambda: said(patient, "no standby reads slot elsewhere"), timeout=60)
    assert unread.result is Result.PROBLEM

    execute(patient, "select pg_drop_replication_slot('elsewhere')")
    missing = said(patient, "synchronized_standby_slots names elsewhere, which does not exist")
    patient.break_(missing.remedy[0])
    assert said(patient, "no standby reads slot elsewhere")
    patient.apply(said(patient, "no standby reads slot elsewhere"))
    eventually(lambda: said(patient, "synchronized_standby_slots is empty"), timeout=60)


def test_a_reader_that_gets_nothing_because_a_standby_is_away(hospital, execute):
    """What looks like an idle consumer is a server that waits."""
    # The reader reports nothing, and must not be ended for that.
    _, patient = hospital(wal_sender_timeout="30min")
    if execute(patient, "show server_version_num")[0][0] < "170000":
        return

    with psycopg.connect(patient.dsn, autocommit=True) as connection:
        slot = register(connection, slot=False)

    execute(patient, MAKE_SLOT, slot)
    execute(patient, "select pg_create_physical_replication_slot('elsewhere')")
    execute(patient, "alter system set synchronized_standby_slots = 'elsewhere'")
    execute(patient, "select pg_reload_conf()")
    with connect(patient.dsn, replication="database") as reader:
        start = commands.start_replication(slot, publications=["pgcdc_outbox"])
        assert reader.pgconn.exec_(start.encode()).status == ExecStatus.COPY_BOTH
        execute(patient, "select outbox.enqueue('t', '1')")

        finding = eventually(lambda: said(patient, f"slot {slot} waits for a standby"), timeout=60)
        assert finding.result is Result.PROBLEM

        patient.apply(said(patient, "no standby reads slot elsewhere"))
        eventually(lambda: not said(patient, f"slot {slot} waits for a standby"), timeout=60)
        reader.pgconn.finish()


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

        eventually(copied, timeout=180)

        execute(patient, "alter system set synchronized_standby_slots = 'standby'")
        execute(patient, "select pg_reload_conf()")
        eventually(
            lambda: [each.result for each in patient.findings("on_the_primary")] == [Result.OK],
            timeout=60,
        )

        (other,) = patient.findings("on_the_primary", name="other")
        assert other.title.startswith("no slot follows a failover to ")

        there.break_("alter system set hot_standby_feedback = off", "select pg_reload_conf()")
        eventually(lambda: said(patient, "hot_standby_feedback seems to be off"), timeout=180)


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
