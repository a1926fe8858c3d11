"""The doctor and the schema: each difference is named, and each remedy mends it."""

import psycopg
import pytest

from pgcdc_outbox.postgres.connection import quoted
from pgcdc_outbox.postgres.doctor.expected import load
from pgcdc_outbox.postgres.doctor.finding import Result
from pgcdc_outbox.postgres.migrate import known, migrate
from tests import expectation
from tests.integration.doctor.patient import Patient

# A statement that breaks something, and what is said of it first.
BREAKS = {
    "drop table outbox.trace": "table trace is missing",
    "drop table outbox.checkpoint": "table checkpoint is missing",
    "drop table outbox.scheduled cascade": "table scheduled is missing",
    "drop sequence outbox.job_id cascade": "sequence job_id is missing",
    "drop table outbox.scheduled cascade; drop sequence outbox.job_id cascade": (
        "sequence job_id is missing"
    ),
    "alter sequence outbox.job_id cycle": "sequence job_id was changed",
    "alter table outbox.failed drop column errors cascade": "column failed.errors is missing",
    "alter table outbox.consumer drop column epoch": "column consumer.epoch is missing",
    "alter table outbox.immediate drop column history cascade": (
        "column immediate.history is missing"
    ),
    "alter table outbox.immediate rename column key to ordering_key": (
        "column immediate.key is missing; there is ordering_key in its place"
    ),
    "alter table outbox.dead_letter rename column reason to why": (
        "column dead_letter.reason is missing; there is why in its place"
    ),
    "alter table outbox.trace alter column attempt type bigint": (
        "column trace.attempt is of type bigint instead of integer"
    ),
    "alter table outbox.failed drop constraint failed_prior_attempts_check;"
    "alter table outbox.failed alter column prior_attempts type text": (
        "column failed.prior_attempts is of type text instead of integer"
    ),
    "alter table outbox.immediate alter column created_at set default now()": (
        "column immediate.created_at has the default now() instead of clock_timestamp()"
    ),
    "alter table outbox.immediate alter column id drop default": (
        "column immediate.id has the default null instead of nextval('outbox.job_id'::regclass)"
    ),
    "alter table outbox.consumer alter column slot set default 'x'": (
        "column consumer.slot has the default 'x'::text instead of null"
    ),
    "alter table outbox.immediate alter column key set not null": (
        "column immediate.key must be given, and may be null"
    ),
    "alter table outbox.immediate alter column xid drop not null": (
        "column immediate.xid may be null, and must not be"
    ),
    "alter table outbox.immediate add column tenant text not null": (
        "column immediate.tenant is not one of ours, and has to be given"
    ),
    "alter table outbox.immediate drop constraint immediate_headers_check": (
        "constraint immediate_headers_check of immediate is missing"
    ),
    "alter table outbox.trace drop constraint trace_pkey": (
        "constraint trace_pkey of trace is missing"
    ),
    "alter table outbox.checkpoint drop constraint checkpoint_consumer_fkey": (
        "constraint checkpoint_consumer_fkey of checkpoint is missing"
    ),
    "alter table outbox.failed rename constraint failed_errors_check to errors_are_a_list": (
        "constraint failed_errors_check of failed is called errors_are_a_list"
    ),
    "alter table outbox.failed drop constraint failed_attempt_check,"
    " add constraint failed_attempt_check check (attempt >= 0)": (
        "constraint failed_attempt_check of failed was changed"
    ),
    "alter table outbox.failed drop constraint failed_attempt_check,"
    " add constraint failed_attempt_check check (attempt >= 1) not valid": (
        "constraint failed_attempt_check of failed was never checked"
    ),
    "drop index outbox.immediate_xid_id_idx": "index immediate_xid_id_idx of immediate is missing",
    "drop index outbox.failed_due_at_idx": "index failed_due_at_idx of failed is missing",
    "alter index outbox.trace_xid_idx rename to by_xid": (
        "index trace_xid_idx of trace is called by_xid"
    ),
    "drop index outbox.failed_due_at_idx;"
    "create index failed_due_at_idx on outbox.failed (due_at)": (
        "index failed_due_at_idx of failed was changed"
    ),
    "drop index outbox.immediate_xid_id_idx;"
    "create index immediate_xid_id_idx on only outbox.immediate (xid, id)": (
        "index immediate_xid_id_idx of immediate is invalid"
    ),
    "drop function outbox.enqueue": (
        "function enqueue(topic text, payload jsonb, key text, headers jsonb, delay interval)"
        " is missing"
    ),
    "drop function outbox.readable cascade": (
        "function readable(payload bytea, content_type text) is missing"
    ),
    "create or replace function outbox.readable(payload bytea, content_type text) returns text"
    " language sql stable as $$ select 'x' $$": (
        "function readable(payload bytea, content_type text) was changed"
    ),
    "drop view outbox.job": "view job is missing",
    "drop view outbox.job; create view outbox.job as select 1 as id": "view job was changed",
    "alter table outbox.failed enable row level security": "table failed has row-level security",
    "alter table outbox.failed set unlogged": "table failed is unlogged",
    "drop table outbox.migration": (
        "there are tables of an outbox in schema outbox, but table migration is missing"
    ),
}


def test_the_expectation_is_what_the_migrations_make(database):
    """If not: python -m tests.expectation."""
    written, seen = load(), expectation.look(database)

    assert written.columns == seen.columns
    assert written.definitions == seen.definitions
    assert written.grants == seen.grants
    if seen.published:  # not on 14, which publishes every column
        assert written.published == seen.published


def test_the_expectation_is_of_these_migrations():
    assert load().migrations == expectation.checksums()


def test_nothing_is_wrong_with_a_new_outbox(patient):
    assert patient.trouble() == []
    assert patient.only("columns").result is Result.OK


@pytest.mark.parametrize("statement", BREAKS)
def test_each_difference_is_named_and_its_remedy_mends_it(patient, statement):
    patient.break_(*statement.split(";"))

    assert BREAKS[statement] in patient.titles()
    patient.mend()
    assert patient.trouble() == []
    with psycopg.connect(patient.dsn) as connection:
        assert connection.execute("select outbox.enqueue('t', '1') > 0").fetchone() == (True,)


def test_a_column_of_another_name_is_told_once(patient):
    patient.break_("alter table outbox.dead_letter rename column reason to why")
    assert len(patient.findings("columns")) == 1


def test_two_candidates_for_a_missing_column_are_not_guessed_between(patient):
    patient.break_(
        "drop view outbox.job",
        "alter table outbox.dead_letter drop column content_type",
        "alter table outbox.dead_letter add column one text, add column two text",
    )
    assert [each.title for each in patient.findings("columns")] == [
        "column dead_letter.content_type is missing",
        "column dead_letter.one is not one of ours",
        "column dead_letter.two is not one of ours",
    ]


def test_what_is_not_ours_is_noted_and_left_alone(patient):
    patient.break_(
        "alter table outbox.immediate add column tenant text",
        "alter table outbox.immediate add constraint no_secrets check (topic <> 'secret')",
        "create index by_topic on outbox.immediate (topic)",
        "create function outbox.tell() returns trigger language plpgsql"
        " as 'begin return null; end'",
        "create trigger tell after insert on outbox.failed"
        " for each row execute function outbox.tell()",
        "create table outbox.mine (id bigint)",
    )

    found = [each for each in patient.examine().findings if each.group == "schema"]
    assert patient.trouble() == []
    assert [each.title for each in found if each.result is Result.NOTE] == [
        "column immediate.tenant is not one of ours",
        "constraint no_secrets of immediate is not one of ours",
        "index by_topic of immediate is not one of ours",
        "trigger tell of failed is not one of ours",
    ]
    for each in found:
        if each.result is Result.NOTE and each.remedy:
            patient.apply(each)

    assert [each.title for each in patient.findings("indexes")] == [
        "every index is as the migrations made it"
    ]


def test_a_sequence_that_is_made_again_gives_no_id_twice(patient):
    patient.break_(
        "select outbox.enqueue('t', '1') from generate_series(1, 20)",
        "insert into outbox.trace (consumer, id, attempt) values ('c', 500, 1)",
        "drop sequence outbox.job_id cascade",
    )
    patient.mend()

    with psycopg.connect(patient.dsn) as connection:
        assert connection.execute("select outbox.enqueue('t', '1')").fetchone() == (501,)


@pytest.mark.parametrize("schema", ['it\'s "odd" 100%', "Order", "select"])
def test_odd_names_of_schemas(database, schema):
    migrate(database, schema=schema)
    patient = Patient(database, schema=schema)
    assert patient.trouble() == []

    there = quoted(schema)
    patient.break_(
        f"drop sequence {there}.job_id cascade",
        f"alter table {there}.immediate drop column history cascade",
        f"drop function {there}.readable cascade",
        f"drop index {there}.trace_xid_idx",
        f'drop publication "{patient.publication()}"',
    )
    assert len(patient.trouble()) >= 5
    patient.mend()
    migrate(database, schema=schema)


def test_an_outbox_that_is_not_there(database):
    patient = Patient(database)
    assert patient.titles() == ["there is no outbox in schema outbox"]

    patient.mend()
    assert patient.only("migrations").result is Result.OK


def test_migrations_that_are_pending_are_applied_by_the_remedy(database):
    migrate(database, migrations=known()[:1])
    patient = Patient(database)
    finding = patient.only("migrations")
    assert (finding.result, finding.remedy) == (Result.PROBLEM, ("pgcdc-outbox migrate",))
    # What the next migrations make is not missing.
    assert patient.trouble() == [finding]

    patient.apply(finding)
    assert patient.trouble() == []
    assert patient.only("columns").result is Result.OK


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("insert into outbox.migration values (99, 'later', 'x')", "which this version does not"),
        ("update outbox.migration set checksum = 'x' where number = 1", "from another text"),
    ],
)
def test_migrations_of_another_version(patient, statement, said):
    patient.break_(statement)

    finding = patient.only("migrations")
    assert finding.result is Result.PROBLEM
    assert said in finding.title
    assert finding.detail
