"""The command line, from the outside."""

import json
import os
import resource
import signal
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import click
import psycopg
import pytest
from click.testing import CliRunner

from pgcdc_outbox.cli.main import COMMANDS, cli
from pgcdc_outbox.postgres.migrate import migrate

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version

PASSWORD = "hunter2-äöü"
NOWHERE = f"postgresql://shop:{PASSWORD}@127.0.0.1:1/shop"
DEAD = (
    "insert into outbox.dead_letter"
    " (consumer, id, reason, attempt, created_at, topic, payload, errors)"
    " select 'a', id, 'exhausted', 1, now(), 't', '{\"n\": 1}',"
    """ '[{"attempt": 1, "at": "2026-11-20T10:00:00.000Z", "error": "E", "text": "bad\\nthing"}]'"""
    " from generate_series(1, 3) as id"
)


# With as long as a busy machine may take: what is not made in time is a delay, which is told.
MAINTAIN = ("maintain", "--lock-timeout", "30s")


class Shell:
    """Runs commands in this process."""

    def __init__(self, dsn):
        self.dsn = dsn

    def __call__(self, *args, input=None, **env):
        options = ["--dsn", self.dsn] if self.dsn is not None else []
        runner = CliRunner(env={"PGCDC_OUTBOX_DSN": None, **env})
        return runner.invoke(cli, [*options, *map(str, args)], input=input)


@pytest.fixture
def shell(database):
    migrate(database)
    return Shell(database)


@pytest.fixture
def connection(shell):
    with psycopg.connect(shell.dsn, autocommit=True) as connection:
        yield connection


def run(*args, **env):
    return subprocess.run(
        [sys.executable, "-m", "pgcdc_outbox", *args],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **env},
    )


# -- the frame -------------------------------------------------------------------------


def best_of_five(*args):
    def spent():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    def once():
        before = spent()
        subprocess.run([sys.executable, *args], check=True, stdout=subprocess.DEVNULL)
        return spent() - before

    return min(once() for _ in range(5))


def test_help_comes_at_once():
    # Of a processor, and beside what cannot be spared: how fast the machine is, and what
    # else it does, counts for both.
    least = best_of_five("-c", "import click")

    assert best_of_five("-m", "pgcdc_outbox", "--help") < 2 * least


def test_help_imports_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "pgcdc_outbox", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}

    assert "pgcdc_outbox.cli.main" in imported
    for heavy in ("psycopg", "msgspec", "anyio", "asyncio", "pgcdc_outbox.cli.migrate"):
        assert heavy not in imported


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_of_itself_what_help_says_of_it(name):
    module, text = COMMANDS[name]
    if find_spec(f"pgcdc_outbox.cli.{module}") is None:
        pytest.skip("not written yet")

    command = import_module(f"pgcdc_outbox.cli.{module}").command

    assert command.name == name
    assert command.get_short_help_str(limit=200) == text
    assert name in CliRunner().invoke(cli, ["--help"]).output


def test_errors_are_two_lines_without_the_password(database):
    failed = Shell(NOWHERE)("migrate")

    error, hint = failed.stderr.splitlines()
    assert failed.exit_code == 1
    assert error.startswith("error: connection failed")
    assert hint.startswith("hint: ")
    assert PASSWORD not in failed.output


def test_debug_shows_a_traceback_without_the_password():
    failed = Shell(NOWHERE)("--debug", "migrate")

    assert "Traceback" in failed.stderr
    assert "SourceUnavailable" in failed.stderr
    assert PASSWORD not in failed.output


@pytest.mark.parametrize(
    "dsn",
    ["postgresql://shop:hun@ter2@db/shop", "password=hunter 2 x", "postgresql://a:hunter%2@b/c"],
)
def test_a_connection_string_that_makes_no_sense_is_not_quoted(dsn):
    failed = Shell(dsn)("--debug", "migrate")

    assert failed.exit_code == 1
    assert "error: the connection string" in failed.stderr
    assert "hun" not in failed.output
    assert "ter2" not in failed.output


def test_what_was_not_foreseen_is_two_lines_too(monkeypatch, database):
    def explode(*args, **kwargs):
        raise ZeroDivisionError(f"with {PASSWORD}")

    monkeypatch.setattr("pgcdc_outbox.postgres.migrate.migrate", explode)

    failed = Shell(NOWHERE)("migrate")
    assert failed.exit_code == 1
    assert failed.stderr.splitlines()[0] == "error: ZeroDivisionError: with ***"
    assert "--debug" in failed.stderr.splitlines()[1]


def test_usage_errors_exit_with_2():
    assert Shell("")("migrate", "--nonsense").exit_code == 2
    assert Shell("")("nonsense").exit_code == 2


def test_interrupted_it_exits_with_130_and_says_nothing(shell):
    process = subprocess.Popen(
        [sys.executable, "-m", "pgcdc_outbox", "--dsn", shell.dsn, *MAINTAIN, "--every", "1h"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.readline()
    process.send_signal(signal.SIGINT)

    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr == b""


def test_where_the_dsn_comes_from(database, tmp_path):
    migrate(database, schema="jobs")
    config = tmp_path / "outbox.toml"
    config.write_text(f"dsn = {json.dumps(database)}\nschema = 'jobs'\n")
    parts = psycopg.conninfo.conninfo_to_dict(database)
    libpq = {
        {"dbname": "PGDATABASE"}.get(name, f"PG{name.upper()}"): str(value)
        for name, value in parts.items()
    }
    status = ["--schema", "jobs", "status", "--format", "json"]

    outcomes = [
        Shell(database)(*status),
        Shell(None)(*status, PGCDC_OUTBOX_DSN=database),
        Shell(None)(*status, **libpq),
        Shell(None)("--config", config, "status", "--format", "json"),
        # What is said last and loudest wins.
        Shell(database)("--config", config, *status, PGCDC_OUTBOX_DSN=NOWHERE),
    ]
    assert [json.loads(outcome.stdout)["schema"] for outcome in outcomes] == ["jobs"] * 5


def test_a_config_with_an_unknown_key_is_refused(tmp_path):
    config = tmp_path / "outbox.toml"
    config.write_text("[consume]\nhandlr = 'a:b'\n")

    failed = Shell(None)("--config", config, "status")
    assert failed.exit_code == 1
    assert f"error: {config}: unknown key consume.handlr" in failed.stderr
    assert "consume.handler" in failed.stderr


# -- the commands ----------------------------------------------------------------------


def test_migrate(database):
    shell = Shell(database)

    assert "0001 create_outbox  pending" in shell("migrate", "--status").stdout
    assert shell("migrate").stdout == (
        "applied 0001 create_outbox\napplied 0002 survive_crashes\napplied 0003 know_each_job\n"
    )
    assert shell("migrate").stdout == "schema outbox is up to date\n"
    assert "0001 create_outbox  applied" in shell("migrate", "--status").stdout


def test_migrate_print_needs_no_server():
    done = run("--schema", "my jobs", "migrate", "--print", PGHOST="nowhere.invalid")

    assert done.returncode == 0
    assert 'create schema if not exists "my jobs";' in done.stdout
    assert done.stdout.rstrip().endswith("commit;")


def test_enqueue(shell, connection):
    now = shell("enqueue", '{"a": 1}', "--topic", "t", "--key", "k", "--header", "h=1")
    later = shell("enqueue", "[1]", "--delay", "1h")
    then = shell("enqueue", "[1]", "--run-at", "2030-01-01T00:00")
    piped = shell("enqueue", "--file", "-", "--bytes", input=b"\xff\x00")

    outcomes = (now, later, then, piped)
    assert [outcome.exit_code for outcome in outcomes] == [0, 0, 0, 0]
    ids = [int(outcome.stdout) for outcome in outcomes]
    rows = connection.execute(
        "select id, topic, key, headers, payload from outbox.immediate order by id"
    ).fetchall()
    assert rows == [
        (ids[0], "t", "k", {"h": "1"}, b'{"a":1}'),
        (ids[3], "default", None, None, b"\xff\x00"),
    ]
    assert connection.execute(
        "select id, due_at = '2030-01-01Z' from outbox.scheduled order by id"
    ).fetchall() == [(ids[1], False), (ids[2], True)]


@pytest.mark.parametrize("args", [[], ["1", "--file", "-"], ["hello"], ["1", "--delay", "soon"]])
def test_enqueue_refuses_what_makes_no_sense(shell, connection, args):
    assert shell("enqueue", *args).exit_code == 2
    assert connection.execute("select count(*) from outbox.job").fetchone() == (0,)


def test_status(shell):
    shell("enqueue", "1")

    text = shell("status")
    assert text.exit_code == 0
    assert "schema outbox: migration 3, up to date" in text.stdout
    assert "immediate_default" in text.stdout
    assert json.loads(shell("status", "--format", "json").stdout)["counts"]["immediate"] == 1


def test_status_without_an_outbox(database):
    failed = Shell(database)("status")

    assert failed.exit_code == 1
    assert "hint: Run `pgcdc-outbox migrate`." in failed.stderr


def test_lag_exits_as_the_thresholds_tell(shell, connection):
    slot = f"cli_{connection.info.backend_pid}"
    assert shell("lag").exit_code == 0

    connection.execute("insert into outbox.consumer (name, slot) values ('c', %s)", (slot,))
    assert shell("lag").exit_code == 2
    assert "the slot does not exist" in shell("lag").stdout

    connection.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
    try:
        connection.execute("select pg_logical_emit_message(true, 'x', repeat('x', 20000))")
        assert shell("lag").exit_code == 0
        assert shell("lag", "--warn", "10kB").exit_code == 1
        assert shell("lag", "--warn", "1kB", "--critical", "10kB").exit_code == 2
        (consumer,) = json.loads(shell("lag", "--format", "json").stdout)["consumers"]
        assert consumer["lag_bytes"] > 20000
    finally:
        connection.execute("select pg_drop_replication_slot(%s)", (slot,))


def test_lag_tells_errors_from_answers(shell, tmp_path):
    assert Shell(NOWHERE)("lag").exit_code == 3
    assert shell("lag", "--warn", "much").exit_code == 3
    assert shell("lag", "--consumer", "nobody").exit_code == 3
    assert Shell(None)("--config", tmp_path / "nowhere", "lag").exit_code == 3


def test_maintain(shell):
    # Of a length that seldom ends between two runs.
    first = shell(*MAINTAIN, "--once", "--ahead", "2", "--interval", "7d")
    assert first.stdout.count("created immediate_") == 3
    assert shell(*MAINTAIN, "--ahead", "2", "--interval", "7d").stdout == "nothing to do\n"
    report = json.loads(shell(*MAINTAIN, "--format", "json").stdout)
    assert report["busy"] is False
    assert shell("maintain", "--once", "--every", "1h").exit_code == 3


def test_maintain_exits_as_its_outcome_tells(shell, connection):
    assert shell(*MAINTAIN, "--quiet").stdout == ""
    connection.execute(
        "insert into outbox.immediate (payload, created_at) values ('1', now() - interval '9 d')"
    )

    kept = shell(*MAINTAIN, "--quiet")
    assert (kept.exit_code, kept.stdout) == (1, "")
    assert "no consumer is registered" in kept.stderr
    assert "kept beyond the retention: 1 table," in kept.stderr
    report = shell(*MAINTAIN, "--format", "json")
    assert report.exit_code == 1
    assert json.loads(report.stdout)["kept"][0]["reason"] == "no consumer is registered"

    connection.execute("insert into outbox.consumer (name) values ('mailer')")
    kept = shell(*MAINTAIN)
    assert kept.exit_code == 1
    assert "consumer mailer has saved no checkpoint yet (1 row since " in kept.stderr

    connection.execute("delete from outbox.immediate")
    done = shell(*MAINTAIN)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("dropped immediate_")


def test_maintain_exits_with_1_if_something_was_delayed(shell, connection):
    with psycopg.connect(shell.dsn) as producer:
        pid = producer.info.backend_pid
        producer.execute("insert into outbox.immediate (payload) values ('1')")
        delayed = shell("maintain", "--lock-timeout", "100ms")

    assert delayed.exit_code == 1
    assert f"pid {pid}" in delayed.stderr


def test_maintain_tells_failures_from_answers(database):
    assert Shell(NOWHERE)("maintain").exit_code == 3
    assert Shell(database)("maintain").exit_code == 3
    assert Shell(database)("maintain", "--interval", "1s").exit_code == 3


def test_dead_list_and_show(shell, connection):
    assert shell("dead", "list").stdout == "no dead letters\n"
    connection.execute(DEAD)

    listed = shell("dead", "list", "--limit", "2")
    assert "E: bad thing" in listed.stdout
    assert "--before 2" in listed.stderr
    assert [
        letter["id"] for letter in json.loads(shell("dead", "list", "--format", "json").stdout)
    ] == [3, 2, 1]
    shown = shell("dead", "show", "1")
    assert '{"n": 1}' in shown.stdout
    assert "attempt 1  2026-11-20T10:00:00.000Z  E: bad thing" in shown.stdout
    assert shell("dead", "show", "99").exit_code == 1


def test_dead_retry(shell, connection):
    connection.execute(DEAD)

    assert shell("dead", "retry").exit_code == 2
    assert shell("dead", "retry", "1", "--all").exit_code == 2
    one = shell("dead", "retry", "1", "99")
    assert (one.stdout, one.stderr) == ("retried 1\n", "not among the dead letters: 99\n")
    assert shell("dead", "retry", "--all", "--topic", "other").stdout == "retried 0\n"
    assert shell("dead", "retry", "--all", "--topic", "t").stdout == "retried 2\n"
    assert connection.execute("select count(*) from outbox.immediate").fetchone() == (3,)


def test_dead_discard_asks_first(shell, connection):
    connection.execute(DEAD)

    refused = shell("dead", "discard", "--all", input="n\n")
    assert refused.exit_code == 1
    assert connection.execute("select count(*) from outbox.dead_letter").fetchone() == (3,)
    assert "Delete 3 dead letters for good?" in refused.stderr
    assert shell("dead", "discard", "1", input="y\n").stdout == "discarded 1\n"
    assert shell("dead", "discard", "--all", "--yes").stdout == "discarded 2\n"
    assert connection.execute("select count(*) from outbox.dead_letter").fetchone() == (0,)


def test_dead_purge(shell, connection):
    connection.execute(DEAD)
    connection.execute(
        "update outbox.dead_letter set died_at = now() - interval '91 days' where id < 3"
    )

    assert shell("dead", "purge").exit_code == 2
    assert shell("dead", "purge", "--older-than", "soon").exit_code == 2
    old = ["dead", "purge", "--older-than", "90d"]
    assert shell(*old, "--dry-run").stdout == "would purge 2\n"
    assert shell(*old, "--topic", "other", "--reason", "x").stdout == "purged 0\n"
    assert json.loads(shell(*old, "--dry-run", "--format", "json").stdout)["would_purge"] == 2
    assert connection.execute("select count(*) from outbox.dead_letter").fetchone() == (3,)
    assert shell(*old, "--consumer", "a").stdout == "purged 2\n"
    assert connection.execute("select id from outbox.dead_letter").fetchall() == [(3,)]
    assert json.loads(shell(*old, "--format", "json").stdout) == {"purged": 0, "would_purge": 0}


def test_a_group_lists_its_commands():
    shown = CliRunner().invoke(cli, ["dead", "--help"])

    assert isinstance(import_module("pgcdc_outbox.cli.dead").command, click.Group)
    assert all(name in shown.output for name in ("list", "show", "retry", "discard", "purge"))


IN_DOUBT = DEAD.replace("'exhausted'", "'in_doubt'").replace("(1, 3)", "(4, 5)")


def test_dead_list_shows_those_in_doubt_apart(shell, connection):
    connection.execute(DEAD)
    connection.execute(IN_DOUBT)

    lines = shell("dead", "list").stdout.splitlines()
    apart = lines.index("In doubt: each may have happened, or not.")

    assert [line.split()[0] for line in lines[:apart] if line] == ["ID", "3", "2", "1"]
    assert [line.split()[0] for line in lines[apart + 1 :]] == ["ID", "5", "4"]
    only = shell("dead", "list", "--in-doubt").stdout
    assert [line.split()[0] for line in only.splitlines()] == ["ID", "5", "4"]
    everything = json.loads(shell("dead", "list", "--format", "json").stdout)
    assert [letter["id"] for letter in everything] == [5, 4, 3, 2, 1]


def test_dead_resolve_done_is_recorded_and_leaves_a_trace(shell, connection):
    connection.execute(IN_DOUBT)

    assert shell("dead", "resolve", 4, "--done").stdout == "job 4 is done\n"

    assert connection.execute("select id from outbox.dead_letter").fetchall() == [(5,)]
    assert connection.execute("select consumer, id, attempt from outbox.trace").fetchall() == [
        ("a", 4, 1)
    ]
    ((id_, attempt, outcome, who),) = connection.execute(
        "select id, attempt, outcome, instance from outbox.attempt"
    ).fetchall()
    assert (id_, attempt, outcome) == (4, 1, "done")
    assert who.startswith("operator ")


def test_dead_resolve_retry_puts_it_back_in_line(shell, connection):
    connection.execute(IN_DOUBT)

    assert shell("dead", "resolve", 4, "--retry").stdout == "job 4 is back in line\n"

    assert connection.execute("select id, attempt from outbox.immediate").fetchall() == [(4, 2)]
    assert connection.execute("select count(*) from outbox.attempt").fetchall() == [(0,)]


@pytest.mark.parametrize(
    ("command", "done"),
    [
        (("dead", "retry", "--all"), "retried"),
        (("dead", "discard", "--all", "--yes"), "discarded"),
        (("dead", "purge", "--older-than", "0s"), "purged"),
    ],
)
def test_what_is_in_doubt_is_only_taken_when_it_is_named(shell, connection, command, done):
    """Somebody may have been charged: a person has to find out about each."""
    connection.execute(DEAD)
    connection.execute(IN_DOUBT)

    first = shell(*command)

    assert first.stdout == f"{done} 3\n"
    assert ("2 in doubt left alone" in first.stderr) == (done != "purged")
    left = connection.execute("select id, reason from outbox.dead_letter order by id").fetchall()
    assert left == [(4, "in_doubt"), (5, "in_doubt")]
    assert shell(*command, "--reason", "in_doubt").stdout == f"{done} 2\n"
    assert connection.execute("select count(*) from outbox.dead_letter").fetchall() == [(0,)]


def test_dead_discard_asks_for_as_many_as_it_deletes(shell, connection):
    connection.execute(DEAD)
    connection.execute(IN_DOUBT)

    assert "Delete 3 dead letters" in shell("dead", "discard", "--all").stderr


@pytest.mark.parametrize("verdict", ["--done", "--retry"])
def test_dead_resolve_is_for_what_is_in_doubt(shell, connection, verdict):
    connection.execute(DEAD)

    result = shell("dead", "resolve", 1, verdict)

    assert (result.exit_code, result.stderr) == (1, "error: job 1 is not in doubt\n")
    assert connection.execute("select count(*) from outbox.dead_letter").fetchall() == [(3,)]


def test_dead_resolve_wants_to_know(shell, connection):
    connection.execute(IN_DOUBT)

    result = shell("dead", "resolve", 4)

    assert result.exit_code == 2
    assert "--done or --retry" in result.stderr
