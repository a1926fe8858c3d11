"""`bench` measures on the user's database, and leaves nothing there."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner
from psycopg.conninfo import make_conninfo

from pgcdc_outbox.bench.figures import Durability, percentile
from pgcdc_outbox.bench.room import room
from pgcdc_outbox.cli.main import cli
from tests.wait import eventually

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version

SOURCE = Path(__file__).parents[2] / "src"
SMALL = ["--jobs", "300", "--commits", "20", "--samples", "10"]

# What there is of it: schemas, slots, publications.
LEFT = """
select array(
    select nspname::text from pg_namespace where nspname like 'pgcdc_bench_%'
    union all
    select slot_name::text from pg_replication_slots where database = current_database()
    union all
    select pubname::text from pg_publication
)
"""


def bench(dsn, *arguments):
    return CliRunner().invoke(cli, ["--dsn", dsn, "bench", *SMALL, *arguments])


def left(dsn):
    with psycopg.connect(dsn) as connection:
        return connection.execute(LEFT).fetchone()[0]


def test_it_measures_both_ways_and_leaves_nothing(database):
    result = bench(database, "--format", "json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    names = [each["name"] for each in told["figures"]]
    assert names == [
        "enqueue, a commit for each job",
        "enqueue_many, 10,000 in a commit",
        "drain, reading the log",
        "drain, polling",
        "commit to handler, reading the log, p50",
        "commit to handler, reading the log, p99",
        "commit to handler, polling, p50",
        "commit to handler, polling, p99",
    ]
    assert all(each["value"] > 0 for each in told["figures"] if each["unit"] == "jobs/s")
    assert all(each["durable"] for each in told["figures"])
    assert told["skipped"] == []
    assert left(database) == []


def test_people_read_what_was_on_disk_beside_each_number(database):
    result = bench(make_conninfo(database, options="-c synchronous_commit=off"))
    assert result.exit_code == 0, result.output
    assert "ON DISK WHEN COUNTED" in result.stdout
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("enqueue,")]
    assert line.endswith("not yet: synchronous_commit is off")
    assert "every job, since before" in result.stdout


def test_without_the_right_to_replicate_it_polls_and_says_so(database):
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create role bench_user login")
        try:
            connection.execute(
                f"grant create on database {connection.info.dbname} to bench_user".encode()
            )
            result = bench(make_conninfo(database, user="bench_user"), "--format", "json")
            assert result.exit_code == 0, result.output
            told = json.loads(result.stdout)
            assert [each["name"] for each in told["skipped"]] == [
                "drain, reading the log",
                "commit to handler, reading the log",
            ]
            assert all("replicat" in each["reason"].lower() for each in told["skipped"])
            assert "drain, polling" in [each["name"] for each in told["figures"]]
            assert left(database) == []
        finally:
            connection.execute("drop owned by bench_user")
            connection.execute("drop role bench_user")


def test_a_server_that_does_not_write_such_a_log_is_polled(fresh_server):
    dsn = fresh_server(settings={"wal_level": "replica"}).create_database("bench")
    result = bench(dsn)
    assert result.exit_code == 0, result.output
    assert "not measured: drain, reading the log: " in result.stdout
    assert "wal_level is replica" in result.stdout
    assert left(dsn) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing(database, number):
    process = start(database)
    try:
        eventually(lambda: len(left(database)) == 3, timeout=120.0)
        process.send_signal(number)
        assert process.wait(timeout=120) == 130
    finally:
        process.kill()
        process.wait()

    assert left(database) == []


def test_what_a_killed_run_has_left_the_next_one_removes(database):
    process = start(database)
    try:
        eventually(lambda: len(left(database)) == 3, timeout=120.0)
        marked(database)
    finally:
        process.kill()
        process.wait()

    assert len(left(database)) == 3
    # The server may notice late that a process was killed, and until then the run goes on.
    eventually(lambda: others(database) == 0, timeout=60)
    assert bench(database).exit_code == 0
    assert left(database) == []


def test_a_run_that_is_going_on_is_left_alone(database):
    with room(database) as (schema, _):
        assert bench(database).exit_code == 0
        assert schema in left(database)

    assert left(database) == []


def test_a_schema_of_somebody_else_is_left_alone(database):
    with psycopg.connect(database) as connection:
        connection.execute("create schema pgcdc_bench_0123abcd")

    assert bench(database).exit_code == 0
    assert left(database) == ["pgcdc_bench_0123abcd"]


def test_an_error_leaves_nothing(database):
    def fail():
        with room(database) as (schema, _):
            assert schema in left(database)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert left(database) == []


def test_what_a_commit_waited_for_is_said_in_words():
    server = {"version": "18.6", "wal_level": "logical"}
    safe = Durability(fsync="on", synchronous_commit="remote_apply", **server)
    assert safe.of_commits == "every job (synchronous_commit remote_apply)"
    hasty = Durability(fsync="off", synchronous_commit="on", **server)
    assert hasty.of_commits == "not yet: fsync is off"


def test_percentiles_are_values_that_were_measured():
    values = [float(number) for number in range(1, 201)]
    assert (percentile(values, 50), percentile(values, 99)) == (100, 198)
    assert percentile([3.0], 50) == 3


def start(dsn):
    """A run that takes a while."""
    return subprocess.Popen(
        [sys.executable, "-m", "pgcdc_outbox", "bench", "--samples", "5000", *SMALL[:4]],
        env=os.environ | {"PYTHONPATH": str(SOURCE), "PGCDC_OUTBOX_DSN": dsn},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def others(dsn):
    """How many connections there are beside the one that asks."""
    statement = (
        "select count(*) from pg_stat_activity where datname = current_database() "
        "and pid <> pg_backend_pid() and backend_type in ('client backend', 'walsender')"
    )
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(statement).fetchone()[0]


def marked(dsn):
    """Wait until the schema says what it is."""
    statement = (
        "select count(*) = 1 from pg_namespace "
        "where obj_description(oid, 'pg_namespace') like 'Benchmark of%'"
    )
    with psycopg.connect(dsn, autocommit=True) as connection:
        eventually(lambda: connection.execute(statement).fetchone()[0], timeout=60)
