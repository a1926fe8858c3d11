"""The doctor and what others do meanwhile; clocks, locks, and no server at all."""

import re
from contextlib import closing
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from pgcdc_outbox.errors import SourceUnavailable
from pgcdc_outbox.postgres.doctor import doctor
from pgcdc_outbox.postgres.doctor.doctor import examine
from pgcdc_outbox.postgres.doctor.finding import Result
from pgcdc_outbox.postgres.doctor.look import Limits
from tests.wait import eventually

AT_ONCE = Limits(writing=timedelta(), reading=timedelta())


def test_a_transaction_that_writes_for_long(patient):
    with closing(psycopg.connect(patient.dsn, application_name="the importer")) as long:
        long.execute("select outbox.enqueue('t', '1')")
        pid = long.info.backend_pid
        (finding,) = mine(patient, pid)
        assert finding.result is Result.WARNING
        assert "the importer" in finding.title
        assert "idle in transaction" in finding.title

        assert not mine(patient, pid, limits=Limits())
        patient.apply(finding)
        eventually(lambda: not mine(patient, pid), timeout=60)


def test_a_snapshot_that_is_kept_for_long(patient):
    with psycopg.connect(patient.dsn) as long:
        long.execute("set transaction isolation level repeatable read")
        long.execute("select 1")
        (finding,) = mine(patient, long.info.backend_pid)
        assert finding.result is Result.NOTE
        assert "has kept a snapshot" in finding.title


def mine(patient, pid, limits=AT_ONCE):
    """What is said of one process; there are others on this server."""
    found = patient.findings("transactions", limits=limits)
    return [each for each in found if each.title.startswith(f"pid {pid} ")]


def test_clocks_that_differ(patient):
    assert patient.only("clock").result is Result.OK

    finding = patient.only("clock", clock=lambda: datetime.now(UTC) - timedelta(minutes=2))
    assert finding.result is Result.WARNING
    # Less by what asking the server took, on a busy machine.
    assert 60 < apart(finding) <= 120
    ahead = patient.only("clock", clock=lambda: datetime.now(UTC) + timedelta(minutes=2))
    assert ahead.result is Result.WARNING
    assert 60 < apart(ahead) <= 120


def apart(finding):
    """By how many seconds a finding says that the clocks differ."""
    said = re.fullmatch(r"the clocks of server and client are (\d+) s apart", finding.title)
    assert said, finding.title
    return int(said[1])


@pytest.mark.any_version
def test_a_lock_that_somebody_holds_does_not_stop_the_others(patient):
    with psycopg.connect(patient.dsn) as holder:
        holder.execute("lock table outbox.consumer in access exclusive mode")
        found = patient.findings("dead_consumers")

    assert [each.title for each in found] == [
        "dead_consumers cannot be told: canceling statement due to lock timeout"
    ]


def test_the_doctor_cannot_write(patient, monkeypatch):
    """Even if a check of a later version wanted to."""

    def careless(look):
        look.connection.execute("delete from outbox.consumer")
        yield

    monkeypatch.setitem(doctor._SURROUNDINGS, "server", (careless,))
    with pytest.raises(SourceUnavailable, match="read-only"):
        patient.examine()


def test_nobody_answers():
    with pytest.raises(SourceUnavailable):
        examine("host=127.0.0.1 port=1 dbname=x")
