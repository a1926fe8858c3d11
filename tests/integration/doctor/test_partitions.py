"""The doctor and the partitions."""

from datetime import UTC, datetime, timedelta

from pgcdc_outbox.postgres.doctor.finding import Result
from tests.integration.doctor.patient import register


def test_partitions_that_were_made_are_enough(patient):
    assert patient.only("look_ahead").title == "there are no partitions yet"

    patient.apply(patient.only("look_ahead"))
    found = patient.only("look_ahead")
    assert found.result is Result.OK
    assert found.title.startswith("there are partitions for ")


def test_partitions_that_nobody_makes(patient, connection):
    register(connection, slot=False)
    assert patient.only("look_ahead").result is Result.WARNING

    patient.apply(patient.only("look_ahead"))
    assert patient.only("look_ahead").result is Result.OK


def test_partitions_that_end_soon(patient, connection):
    connection.execute(
        "create table outbox.immediate_now partition of outbox.immediate"
        " for values from ('2020-01-01') to ('2020-01-02')"
    )
    assert patient.only("look_ahead").title == "there is no partition for now"

    now = datetime.now(UTC)
    since, until = now - timedelta(hours=23), now + timedelta(hours=1)
    patient.break_(
        "create table outbox.immediate_soon partition of outbox.immediate"
        f" for values from ('{since}') to ('{until}')"
    )
    assert patient.only("look_ahead").title == "there are partitions for no more than 1 hours"
    patient.mend()
    assert patient.only("look_ahead").result is Result.OK


def test_rows_without_a_partition(patient):
    patient.break_("select outbox.enqueue('t', '1') from generate_series(1, 3)")
    assert patient.only("default_partition").title == "the default partition has 3 rows"

    patient.mend()
    assert patient.only("default_partition").title == "the default partition is empty"


def test_without_a_default_partition(patient):
    patient.break_("drop table outbox.immediate_default")
    assert patient.titles() == ["there is no default partition"]
    patient.mend()


def test_an_unlogged_partition(patient):
    patient.break_("alter table outbox.immediate_default set unlogged")
    assert patient.titles() == ["table immediate_default is unlogged"]
    patient.mend()


def test_tables_that_look_like_partitions(patient, connection):
    patient.break_("create table outbox.immediate_20200101t0000z (like outbox.immediate)")
    finding = patient.only("stray_tables")
    assert finding.result is Result.NOTE

    patient.break_(
        "insert into outbox.immediate_20200101t0000z"
        " select 1, now(), 1, 't', '1', null, null, null, null, null, '5'"
    )
    assert patient.titles() == ["table immediate_20200101t0000z is no partition, and has rows"]

    patient.apply(finding)
    assert patient.only("stray_tables").result is Result.OK
