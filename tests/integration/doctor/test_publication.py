"""The doctor and the publication."""

import psycopg
import pytest

from pgcdc_outbox.postgres.doctor.finding import Result

SOME = "id, created_at, attempt, topic, payload, key, headers"
FLAGS = "with (publish = 'insert', publish_via_partition_root = true)"


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
            f"alter publication pgcdc_outbox set table outbox.immediate ({SOME})",
            "publication pgcdc_outbox leaves out content_type, consumer, history, expires_at",
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
