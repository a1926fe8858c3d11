"""The doctor and the rights of the role that asks."""

import pytest
from psycopg.conninfo import make_conninfo

from pgcdc_outbox.postgres.doctor.doctor import examine
from pgcdc_outbox.postgres.doctor.finding import Result
from pgcdc_outbox.postgres.migrate import migrate
from pgcdc_outbox.postgres.queries import for_schema
from tests.expectation import ROLES
from tests.integration.doctor.patient import Patient, drop_slot, slot_of


@pytest.fixture
def worker(patient, connection):
    """A role that may log in and nothing else, and what the doctor sees as it."""
    name = f"worker_{connection.info.backend_pid}"
    connection.execute(for_schema(ROLES.read_text("utf-8"), "outbox").encode())
    connection.execute(f"create role {name} login".encode())
    yield Worker(name, patient.dsn)
    connection.execute(f"drop owned by {name}".encode())
    connection.execute(f"drop role {name}".encode())


class Worker(Patient):
    """The outbox as a role sees it; what mends it is done by the owner."""

    def __init__(self, name, dsn):
        super().__init__(dsn)
        self.name = name

    def examine(self, **options):
        return examine(make_conninfo(self.dsn, user=self.name), **options)


def test_a_role_without_rights_is_told_which_to_grant(worker):
    assert f"role {worker.name} may not replicate" in [
        each.title for each in worker.examine().findings
    ]
    assert f"role {worker.name} may not use schema outbox" in worker.titles()
    assert f"role {worker.name} lacks insert, select on immediate" in worker.titles()

    worker.mend()
    (replicate,) = worker.findings("replication_connection")
    worker.apply(replicate)
    (sees,) = worker.findings("visibility")
    worker.apply(sees)

    assert worker.only("grants").result is Result.OK
    assert worker.only("replication_connection").result is Result.OK
    assert worker.only("visibility").result is Result.OK


def test_the_role_of_roles_sql_has_what_a_consumer_needs(worker):
    worker.break_(f"grant pgcdc_outbox_consumer to {worker.name}")
    assert worker.trouble() == []

    worker.break_("revoke insert on outbox.failed from pgcdc_outbox_consumer")
    assert worker.titles() == [f"role {worker.name} lacks insert on failed"]
    worker.mend()


def test_who_keeps_the_partitions(worker):
    worker.break_(f"grant pgcdc_outbox_consumer to {worker.name}")
    finding = worker.only("ownership")
    assert finding.result is Result.NOTE
    assert "belong to postgres" in finding.title

    worker.apply(finding)
    assert worker.only("ownership").result is Result.OK
    worker.break_(f"revoke postgres from {worker.name}")


def test_nothing_is_raised_for_a_role_that_may_see_nothing(worker):
    """Each check that cannot look says so."""
    worker.break_("revoke execute on function pg_control_system() from public")
    try:
        found = worker.examine(name="default").findings
    finally:
        worker.break_("grant execute on function pg_control_system() to public")

    blind = [each for each in found if "cannot be told: permission denied" in each.title]
    assert {each.check for each in blind} >= {"slots", "dead_consumers"}
    assert {each.result for each in blind} == {Result.NOTE}
    assert Result.PROBLEM in {each.result for each in found}


def test_slots_of_an_outbox_that_may_not_be_read(worker, connection):
    worker.break_(f"grant pgcdc_outbox_consumer to {worker.name}")
    migrate(worker.dsn, schema="second")
    other = slot_of(connection, "x", "second")
    connection.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [other])

    finding = worker.only("orphans")
    assert finding.result is Result.NOTE
    assert "schema second, which we may not read" in finding.detail
    drop_slot(connection, other)
