"""Maintenance that is cut off, anywhere: nothing is lost, and the next run heals it."""

import os
import signal
import subprocess
import sys
from datetime import timedelta
from itertools import count, pairwise

import psycopg
import pytest

from pgcdc_outbox.errors import OutboxError
from tests.maintained import WEEK_OLD, maintained
from tests.wait import eventually

pytestmark = pytest.mark.any_version

SETTINGS = {"ahead": 1, "lock_timeout": timedelta(seconds=40)}


@pytest.fixture
def outbox(database):
    with maintained(database) as outbox:
        yield outbox


def lay_out(outbox):
    """Something for every step: rows of now, of the past and of long ago, settled and not."""
    for name in outbox.partitions:
        if name != "outbox.immediate_default":
            outbox.connection.execute(f"drop table {name}")
    outbox.connection.execute("truncate outbox.immediate; delete from outbox.consumer")

    # A partition that is to be dropped, another one that has been emptied, and one to keep.
    outbox.register()
    outbox.put(3, created_at=WEEK_OLD)
    outbox.put(3, created_at=f"{WEEK_OLD} - interval '1 day'")
    outbox.put(3, created_at=f"{WEEK_OLD} - interval '2 days'")
    made = outbox.maintain(ahead=1, retention=timedelta(days=365)).created
    outbox.connection.execute(f"truncate outbox.{made[0]}")
    outbox.settle()
    outbox.put(1, created_at=WEEK_OLD)
    # The present has to be made again, with rows in DEFAULT: of now, and of two days ago.
    outbox.connection.execute(f"drop table outbox.{made[-1]}; drop table outbox.{made[-2]}")
    outbox.put(4)
    outbox.put(4, created_at="clock_timestamp() - interval '2 days'")


def check_what_others_see(outbox):
    """Nobody has lost a row that is needed, and producers go on."""
    needed = "not pg_visible_in_snapshot(i.xid, (select snapshot from outbox.checkpoint))"
    assert outbox.count(f"outbox.immediate as i where {needed}") == 9
    with outbox.connection.transaction(force_rollback=True):
        outbox.connection.execute("set local lock_timeout = '30s'")
        outbox.put()


def check_that_all_is_done(outbox):
    assert outbox.count("outbox.immediate_default") == 0
    # What is left: the partition that is needed, with all its rows, and the new rows.
    assert outbox.count() == 4 + 8
    assert len(outbox.partitions) == 1 + 4
    assert all(a[1] <= b[0] for a, b in pairwise(outbox.bounds))
    assert len(outbox.column("select 1 from pg_class where relname ~ '^immediate_.*z$'")) == 4
    assert outbox.column("select 1 from pg_constraint where conname = 'within_bounds'") == []
    assert (
        outbox.column(
            "select 1 from pg_class where relkind = 'i' and not relispartition"
            " and relname ~ '^immediate_.*_xid_id_idx$'"
        )
        == []
    )


class Interruption:
    """Ends a connection of maintenance on the server, right after the n-th of its steps.

    Statements that only read or set are no steps: being cut off after one of them is the
    same as after the step before.
    """

    def __init__(self, monkeypatch, admin, nth):
        self.struck = False
        self.steps = []
        execute = psycopg.Connection.execute

        def interrupted(connection, query, *args, **kwargs):
            cursor = execute(connection, query, *args, **kwargs)
            # Connections of maintenance bind parameters in the client; ours do not.
            if connection.cursor_factory is psycopg.ClientCursor and is_step(query):
                self.steps.append(query)
                if len(self.steps) == nth:
                    self.struck = True
                    pid = connection.info.backend_pid
                    execute(admin, "select pg_terminate_backend(%s, 10000)", (pid,))

            return cursor

        monkeypatch.setattr(psycopg.Connection, "execute", interrupted)


def is_step(query):
    text = query if isinstance(query, str) else query.decode()
    lines = [line for line in text.splitlines() if not line.startswith("--")]
    return not lines[0].startswith(("select", "set "))


def test_a_run_that_is_ended_after_any_of_its_statements_is_healed_by_the_next(outbox, monkeypatch):
    for nth in count(1):
        lay_out(outbox)
        with monkeypatch.context() as patch, psycopg.connect(outbox.dsn, autocommit=True) as admin:
            interruption = Interruption(patch, admin, nth)
            failure = None
            try:
                outbox.maintain(**SETTINGS)
            except OutboxError as error:
                failure = error

        assert failure is None or failure.transient, (nth, interruption.steps[-1])
        check_what_others_see(outbox)
        report = outbox.maintain(**SETTINGS)
        assert (report.busy, report.delayed) == (False, ()), nth
        assert [kept.rows for kept in report.kept] == [1], nth
        check_that_all_is_done(outbox)
        if not interruption.struck:
            break

    # It went through all of it, to the end.
    steps = " ".join(str(step) for step in interruption.steps)
    for step in ("create table", "attach", "drop constraint", "truncate", "detach", "vacuum"):
        assert step in steps


@pytest.fixture
def process(outbox):
    """Maintenance in a process of its own, to be killed."""
    running = []

    def start(*options):
        command = [sys.executable, "-m", "pgcdc_outbox", "--dsn", outbox.dsn, "maintain", *options]
        running.append(
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )
        return running[-1]

    yield start
    for each in running:
        each.kill()
        each.wait()


def waits_for_a_lock(outbox, table):
    return lambda: outbox.column(
        f"select 1 from pg_locks where not granted and relation = '{table}'::regclass"
    )


@pytest.mark.parametrize("waiting_for", ["the outbox", "DEFAULT", "the old partition"])
def test_a_process_that_is_killed_while_it_waits_is_healed_by_the_next(
    outbox, process, waiting_for
):
    lay_out(outbox)
    old = outbox.partitions[1] if len(outbox.partitions) > 1 else ""
    table = {
        "the outbox": "outbox.immediate",
        "DEFAULT": "outbox.immediate_default",
        "the old partition": old,
    }[waiting_for]
    with psycopg.connect(outbox.dsn) as holder:
        holder.execute(f"lock table only {table} in row exclusive mode")
        killed = process("--ahead", "1", "--lock-timeout", "2min")
        eventually(waits_for_a_lock(outbox, table), timeout=60)
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()

        # Its turn is over at once, although its session on the server still waits.
        def turn_is_free():
            return not outbox.maintain(ahead=1, lock_timeout=timedelta(milliseconds=100)).busy

        eventually(turn_is_free, timeout=60)

    report = outbox.maintain(**SETTINGS)
    assert (report.busy, report.delayed) == (False, ())
    check_what_others_see(outbox)
    check_that_all_is_done(outbox)
