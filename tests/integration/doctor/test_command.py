"""The command `doctor`, from the outside."""

import json

import psycopg
import pytest
from click.testing import CliRunner

from pgcdc_outbox.cli.main import cli
from pgcdc_outbox.postgres.migrate import migrate
from pgcdc_outbox.postgres.partition.maintenance import Maintenance
from tests.maintained import PATIENT

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version

PASSWORD = "hunter2-äöü"


def doctor(dsn, *arguments):
    return CliRunner().invoke(
        cli, ["--dsn", dsn, "doctor", *arguments], env={"PGCDC_OUTBOX_DSN": None}
    )


@pytest.fixture
def healthy(fresh_server):
    """A server on which nothing is to be mended, and the DSN of an outbox on it."""
    server = fresh_server(tcp=True, settings={"max_slot_wal_keep_size": "2GB"})
    dsn = server.create_database("shop")
    migrate(dsn)
    Maintenance(dsn, lock_timeout=PATIENT).once()
    return server, dsn


def test_the_exit_code_is_the_worst_of_it(healthy):
    _, dsn = healthy
    assert doctor(dsn).exit_code == 0  # there are notes

    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("drop index outbox.trace_xid_idx")
        assert doctor(dsn).exit_code == 1

        connection.execute("drop publication pgcdc_outbox")
        assert doctor(dsn).exit_code == 2


def test_what_people_see(healthy):
    _, dsn = healthy
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("drop view outbox.job")
        connection.execute("alter table outbox.failed drop column errors")

    lines = doctor(dsn).stdout.splitlines()
    place = lines.index("schema")
    assert lines[place + 1] == "  PROBLEM  column failed.errors is missing"
    statement = "alter table outbox.failed add column errors jsonb not null;"
    assert statement in [line.strip() for line in lines]
    assert "  WARNING  view job is missing" in lines
    assert not [line for line in lines if line.startswith("  ok")]
    assert lines[-1].startswith("2 problems, 1 warning, ")
    assert lines[-1].endswith(" fine")

    every = doctor(dsn, "--verbose").stdout
    assert "  ok       wal_level is logical" in every
    assert len(every.splitlines()) > len(lines)


def test_what_programs_see(healthy):
    _, dsn = healthy
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("drop index outbox.trace_xid_idx")

    answer = json.loads(doctor(dsn, "--format", "json").stdout)
    assert (answer["schema"], answer["result"]) == ("outbox", "warning")
    (found,) = (each for each in answer["findings"] if each["check"] == "indexes")
    assert found == {
        "group": "schema",
        "check": "indexes",
        "result": "warning",
        "title": "index trace_xid_idx of trace is missing",
        "detail": found["detail"],
        "remedy": ["CREATE INDEX trace_xid_idx ON outbox.trace USING btree (xid);"],
    }


def test_one_consumer(healthy):
    _, dsn = healthy
    assert "consumer mailer has not run yet" in doctor(dsn, "--name", "mailer").stdout


def test_without_an_outbox_it_says_to_run_migrate(database):
    done = doctor(database)
    assert done.exit_code == 2
    assert "there is no outbox in schema outbox" in done.stdout
    assert "pgcdc-outbox migrate" in done.stdout


@pytest.mark.parametrize(
    ("dsn", "said"),
    [
        (f"postgresql://shop:{PASSWORD}@127.0.0.1:1/shop", "connection failed"),
        (f"postgresql://shop:{PASSWORD}@[oops", "it makes no sense"),
    ],
)
def test_without_a_connection_it_cannot_tell(dsn, said):
    done = doctor(dsn)
    error, hint = done.stderr.splitlines()
    assert done.exit_code == 3
    assert said in error
    assert hint.startswith("hint: ")
    assert PASSWORD not in done.output


def test_who_is_turned_away_is_told_the_line_of_pg_hba(healthy):
    server, _ = healthy
    hba = server.data / "pg_hba.conf"
    lines = [line for line in hba.read_text().splitlines() if line.startswith("local")]
    hba.write_text("\n".join(lines) + "\n")
    reload(server)

    dsn = server.tcp_dsn("shop")
    done = doctor(dsn)
    assert done.exit_code == 3
    _, hint = done.stderr.splitlines()
    line = hint.removeprefix("hint: Add to pg_hba.conf: ").partition(" -- ")[0]
    assert line == "host shop postgres 127.0.0.1/32 scram-sha-256"

    with hba.open("a") as file:
        file.write(line + "\n")

    reload(server)
    assert doctor(dsn).exit_code == 0
    password = psycopg.conninfo.conninfo_to_dict(dsn)["password"]
    assert password not in doctor(dsn, "--verbose").output


def reload(server):
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        before = connection.execute("select pg_conf_load_time()").fetchone()
        connection.execute("select pg_reload_conf()")

    while True:
        with psycopg.connect(server.dsn()) as connection:
            if connection.execute("select pg_conf_load_time()").fetchone() != before:
                return


def test_text_of_others_does_not_reach_the_terminal_as_it_is(healthy):
    _, dsn = healthy
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("insert into outbox.consumer (name) values (e'a\\x1b[31m')")

    done = doctor(dsn)
    assert "consumer a" in done.stdout
    assert "\x1b" not in done.stdout
