"""The doctor and what surrounds the tables: publication, role, partitions, slots, transactions."""

from contextlib import closing
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgcdc_outbox import Maintenance
from pgcdc_outbox.errors import SourceUnavailable
from pgcdc_outbox.postgres.doctor import doctor
from pgcdc_outbox.postgres.doctor.doctor import examine
from pgcdc_outbox.postgres.doctor.finding import Result
from pgcdc_outbox.postgres.doctor.look import Limits
from pgcdc_outbox.postgres.migrate import migrate
from pgcdc_outbox.postgres.names import slot_name
from pgcdc_outbox.postgres.queries import for_schema
from tests.expectation import ROLES
from tests.harness import Outbox, Recorder, Watcher, consumer, streaming
from tests.patient import Patient
from tests.wait import eventually

AT_ONCE = Limits(writing=timedelta(), reading=timedelta())
FLAGS = "with (publish = 'insert', publish_via_partition_root = true)"


@pytest.fixture
def patient(database):
    migrate(database)
    return Patient(database)


@pytest.fixture
def connection(patient):
    with psycopg.connect(patient.dsn, autocommit=True) as connection:
        yield connection


def slot_of(connection, name="default", schema="outbox"):
    ((oid,),) = connection.execute(
        "select oid::bigint from pg_database where datname = current_database()"
    ).fetchall()
    return slot_name(schema, name, oid)


def register(connection, name="default", *, slot=True, plugin="pgoutput"):
    """A consumer that has run and is away, as far as the tables tell."""
    there = slot_of(connection, name)
    connection.execute("insert into outbox.consumer (name, slot) values (%s, %s)", [name, there])
    connection.execute(
        "insert into outbox.checkpoint (consumer, system_id, timeline, snapshot, lsn, flushed)"
        " select %s, system_identifier, 1, pg_current_snapshot(), '0/1', '0/1'"
        " from pg_control_system()",
        [name],
    )
    if slot:
        connection.execute("select pg_create_logical_replication_slot(%s, %s)", [there, plugin])

    return there


def drop_slot(connection, name):
    connection.execute("select pg_drop_replication_slot(%s)", [name])


# -- the publication -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["drop publication pgcdc_outbox"], "publication pgcdc_outbox does not exist"),
        (
            ["alter publication pgcdc_outbox set (publish = '')"],
            "publication pgcdc_outbox does not publish inserts",
        ),
        (
            ["alter publication pgcdc_outbox set (publish = 'insert, update, delete')"],
            "publication pgcdc_outbox publishes updates and deletes",
        ),
        (
            ["alter publication pgcdc_outbox set (publish = 'insert, truncate')"],
            "publication pgcdc_outbox publishes truncates",
        ),
        (
            [
                # With a list of columns, servers that know them would refuse.
                "alter publication pgcdc_outbox set table outbox.immediate",
                "alter publication pgcdc_outbox set (publish_via_partition_root = false)",
            ],
            "publication pgcdc_outbox publishes partitions under their own names",
        ),
        (
            ["alter publication pgcdc_outbox drop table outbox.immediate"],
            "publication pgcdc_outbox does not have the table immediate",
        ),
        (
            [
                "create table public.orders (id bigint)",
                "alter publication pgcdc_outbox add table public.orders",
            ],
            "publication pgcdc_outbox publishes public.orders too",
        ),
    ],
)
def test_the_publication(patient, statements, said):
    assert patient.only("publication").result is Result.OK

    patient.break_(*statements)
    assert said in patient.titles()
    patient.mend()
    assert patient.only("publication").result in (Result.OK, Result.NOTE)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (
            "alter publication pgcdc_outbox set table outbox.immediate (id, topic, payload)",
            "publication pgcdc_outbox leaves out created_at, attempt, key, headers, content_type,"
            " consumer, history",
        ),
        (
            "alter publication pgcdc_outbox set table outbox.immediate where (topic <> 'x')",
            "publication pgcdc_outbox filters jobs: (topic <> 'x'::text)",
        ),
        (
            "alter publication pgcdc_outbox set tables in schema outbox",
            "publication pgcdc_outbox does not have the table immediate",
        ),
    ],
)
def test_what_a_publication_can_choose_since_15(patient, connection, statement, said):
    if connection.info.server_version < 150000:
        with pytest.raises(psycopg.errors.SyntaxError):
            patient.break_(statement)
        return

    patient.break_(statement)
    assert said in patient.titles()
    patient.mend()
    assert patient.only("publication").result is Result.OK


def test_a_publication_of_more_than_is_needed_is_noted(patient, connection):
    patient.break_("alter publication pgcdc_outbox set table outbox.immediate")
    expected = [] if connection.info.server_version < 150000 else ["xid"]
    said = [f for f in patient.findings("publication") if f.result is Result.NOTE]
    assert [each.title.split()[3].strip(",") for each in said] == expected

    patient.break_(
        "drop publication pgcdc_outbox", f"create publication pgcdc_outbox for all tables {FLAGS}"
    )
    finding = patient.only("publication")
    assert finding.result is Result.NOTE
    assert finding.title == "publication pgcdc_outbox is for all tables"


# -- the role --------------------------------------------------------------------------


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


# -- the partitions --------------------------------------------------------------------


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
    connection.execute(
        "create table outbox.immediate_soon partition of outbox.immediate"
        f" for values from ('{now - timedelta(hours=23)}') to ('{now + timedelta(hours=1)}')".encode()
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


# -- the slots -------------------------------------------------------------------------


async def test_a_consumer_that_runs_is_well(database):
    migrate(database)
    outbox, watcher = Outbox(database), Watcher()
    Maintenance(database).once()
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


def test_slots_of_an_outbox_that_may_not_be_read(worker, connection):
    worker.break_(f"grant pgcdc_outbox_consumer to {worker.name}")
    migrate(worker.dsn, schema="second")
    other = slot_of(connection, "x", "second")
    connection.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [other])

    finding = worker.only("orphans")
    assert finding.result is Result.NOTE
    assert "schema second, which we may not read" in finding.detail
    drop_slot(connection, other)


# -- the consumers ---------------------------------------------------------------------


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


@pytest.mark.parametrize("way", [1, 3], ids=["pg_upgrade", "restore"])
def test_a_checkpoint_of_another_cluster(patient, connection, way):
    register(connection, "it's", slot=False)
    assert patient.only("checkpoints").result is Result.OK

    connection.execute("update outbox.checkpoint set system_id = '42'")
    finding = patient.only("checkpoints")
    assert finding.result is Result.PROBLEM
    patient.break_(finding.remedy[way])
    assert patient.only("checkpoints").result is Result.OK


# -- the transactions ------------------------------------------------------------------


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
        eventually(lambda: not mine(patient, pid))


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


# -- the rest --------------------------------------------------------------------------


def test_clocks_that_differ(patient):
    assert patient.only("clock").result is Result.OK

    finding = patient.only("clock", clock=lambda: datetime.now(UTC) - timedelta(minutes=2))
    assert finding.result is Result.WARNING
    assert finding.title == "the clocks of server and client are 120 s apart"
    ahead = patient.only("clock", clock=lambda: datetime.now(UTC) + timedelta(minutes=2))
    assert ahead.title == finding.title


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
