"""The doctor and servers that are set up badly. Each test has a server of its own."""

import psycopg
import pytest

from pgcdc_outbox.postgres.doctor.finding import Result
from pgcdc_outbox.postgres.doctor.look import Limits
from tests.harness import Outbox, Recorder, Watcher, consumer, streaming
from tests.integration.doctor.patient import register
from tests.wait import eventually

SMALL = {"max_slot_wal_keep_size": "64MB", "min_wal_size": "32MB", "max_wal_size": "32MB"}


# An autovacuum would write log of its own, and move the slot on by more than was meant.
FILLER = "create table filler (t text) with (autovacuum_enabled = false)"


def awaken(patient, check):
    """Wait until a reloaded setting is seen, for the server takes it when it likes."""
    eventually(lambda: patient.only(check).result is Result.OK, timeout=60)


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


@pytest.mark.any_version
@pytest.mark.parametrize(
    ("name", "value", "check", "result"),
    [
        ("wal_sender_timeout", "0", "wal_sender_timeout", Result.WARNING),
        ("wal_sender_timeout", "1s", "wal_sender_timeout", Result.WARNING),
        ("max_slot_wal_keep_size", "-1", "max_slot_wal_keep_size", Result.WARNING),
        ("max_slot_wal_keep_size", "1MB", "max_slot_wal_keep_size", Result.NOTE),
        ("logical_decoding_work_mem", "1MB", "logical_decoding_work_mem", Result.NOTE),
        ("idle_session_timeout", "50s", "idle_session_timeout", Result.WARNING),
        ("synchronous_commit", "off", "synchronous_commit", Result.NOTE),
    ],
)
def test_a_setting_of_the_server(hospital, name, value, check, result):
    _, patient = hospital(**{name: value})
    finding = patient.only(check)
    assert finding.result is result

    patient.apply(finding)
    awaken(patient, check)


@pytest.mark.any_version
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
    found = eventually(lambda: patient.findings("idle_replication_slot_timeout"), timeout=60)
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

    execute(patient, FILLER)
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

    execute(patient, FILLER)
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
