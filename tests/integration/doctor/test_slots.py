"""The doctor and the slots of consumers, and the consumers that left them."""

import pytest

from pgcdc_outbox import Maintenance
from pgcdc_outbox.postgres.doctor.finding import Result
from pgcdc_outbox.postgres.migrate import migrate
from tests.harness import Outbox, Recorder, Watcher, consumer, streaming
from tests.integration.doctor.patient import Patient, drop_slot, register, slot_of
from tests.maintained import PATIENT
from tests.wait import eventually


async def test_a_consumer_that_runs_is_well(database):
    migrate(database)
    outbox, watcher = Outbox(database), Watcher()
    Maintenance(database, lock_timeout=PATIENT).once()
    async with streaming(consumer(outbox, Recorder(), observers=[watcher]), watcher):
        slots = Patient(database).only("slots")
        assert slots.result is Result.OK
        assert "read by pid" in slots.title
        assert Patient(database).only("orphans").result is Result.OK
        assert Patient(database).trouble() == []


async def test_a_slot_that_is_gone_comes_back_with_the_consumer(database):
    migrate(database)
    patient, outbox, watcher = Patient(database), Outbox(database), Watcher()
    subject = consumer(outbox, Recorder(), observers=[watcher])
    async with streaming(subject, watcher):
        pass

    # The server may notice late that its reader has gone.
    eventually(lambda: not outbox.slot()["active"], timeout=60)
    outbox.rows("select pg_drop_replication_slot(%s)", [outbox.slot()["slot_name"]])
    finding = patient.only("slots")
    assert (finding.result, finding.title) == (Result.PROBLEM, "consumer default has no slot")
    assert finding.remedy == ("pgcdc-outbox consume --name default --handler MODULE:NAME",)

    async with streaming(subject, watcher):
        assert patient.only("slots").result is Result.OK


def test_a_name_that_has_not_run(patient, connection):
    assert patient.only("slots").title == "no consumer is registered"

    finding = patient.only("slots", name="mailer")
    assert (finding.result, finding.title) == (Result.NOTE, "consumer mailer has not run yet")

    # Its slot is there before it: somebody else's, or left by an earlier one.
    name = slot_of(connection, "mailer")
    connection.execute("select pg_create_physical_replication_slot(%s)", [name])
    finding = patient.only("slots", name="mailer")
    assert finding.result is Result.PROBLEM
    assert f"slot {name} is a physical slot" in finding.title
    patient.apply(finding)
    assert patient.only("slots", name="mailer").result is Result.NOTE


def test_one_consumer_of_several(patient, connection):
    register(connection, "a", slot=False)
    register(connection, "b", slot=False)

    assert [each.title for each in patient.findings("slots")] == [
        "consumer a has no slot",
        "consumer b has no slot",
    ]
    assert patient.only("slots", name="b").title == "consumer b has no slot"


def test_a_slot_of_another_plugin(patient, connection):
    name = register(connection, plugin="test_decoding")

    assert f"slot {name} is a logical slot of test_decoding" in patient.only("slots").title
    patient.apply(patient.only("slots"))
    assert patient.only("slots").title == "consumer default has no slot"


def test_a_slot_that_does_not_continue_the_checkpoint(patient, connection):
    register(connection)
    assert patient.only("slots").result is Result.OK

    connection.execute("update outbox.consumer set slot = null")
    assert "does not continue its checkpoint" in patient.only("slots").title


def test_a_consumer_that_polls_needs_no_slot(patient, connection):
    name = register(connection)
    connection.execute("update outbox.consumer set mode = 'polling', slot = null")
    assert patient.only("slots").title.startswith("consumer default polls the table, and its slot")

    patient.mend()
    assert patient.only("slots").title == "consumer default polls the table, and needs no slot"
    assert name not in str(patient.findings("orphans"))


def test_slots_that_nobody_reads(patient, connection):
    migrate(patient.dsn, schema="second")
    other = slot_of(connection, "x", "second")
    connection.execute("insert into second.consumer (name) values ('x')")
    mine = register(connection)
    left = slot_of(connection, "gone")
    for name in (other, left):
        connection.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [name])

    finding = patient.only("orphans")
    assert finding.result is Result.WARNING
    assert f"slot {left} belongs to no consumer" in finding.title

    patient.apply(finding)
    assert patient.only("orphans").result is Result.OK
    drop_slot(connection, mine)
    drop_slot(connection, other)


def test_a_consumer_that_is_away_for_long(patient, connection):
    register(connection)
    assert patient.only("dead_consumers").result is Result.OK

    connection.execute("update outbox.checkpoint set saved_at = now() - interval '5 hours'")
    finding = patient.only("dead_consumers")
    assert finding.result is Result.WARNING
    assert finding.title.startswith("consumer default is away for 5 hours, and keeps ")

    run, _, *removal = finding.remedy
    assert run == "pgcdc-outbox consume --name default --handler MODULE:NAME"
    patient.break_(*removal)
    assert patient.only("dead_consumers").result is Result.OK
    assert patient.only("slots").title == "no consumer is registered"
    assert patient.only("orphans").result is Result.OK


def test_a_consumer_that_never_saved_a_checkpoint_can_be_away_too(patient, connection):
    register(connection)
    connection.execute("delete from outbox.checkpoint")
    connection.execute("update outbox.consumer set taken_at = now() - interval '4 days'")

    assert "consumer default is away for 4 days" in patient.only("dead_consumers").title


@pytest.mark.parametrize("way", [1, 3], ids=["pg_upgrade", "restore"])
def test_a_checkpoint_of_another_cluster(patient, connection, way):
    register(connection, "it's", slot=False)
    assert patient.only("checkpoints").result is Result.OK

    connection.execute("update outbox.checkpoint set system_id = '42'")
    finding = patient.only("checkpoints")
    assert finding.result is Result.PROBLEM
    patient.break_(finding.remedy[way])
    assert patient.only("checkpoints").result is Result.OK
