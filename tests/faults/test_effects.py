"""Effects are there exactly once, wherever a process is killed; and what is once, at most once."""

import os
import random
import secrets
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from pgcdc_outbox import Job
from pgcdc_outbox.postgres.migrate import migrate
from pgcdc_outbox.testing import PostgresServer
from tests.effects import GATED, Effecting, Gate, effects, make_ledger, write
from tests.faults.effecting import POINTS, TABLE, Task, start
from tests.harness import Outbox, consumer, running, slot_of
from tests.wait import eventually, eventually_async

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version
POLLS_IN_SLOW_RUN = True

ROUNDS = 12
MANY_ROUNDS = 110
LONGEST_LIFE = 0.6
IN_TRANSACTION = (
    "pg_stat_activity where datname = current_database()"
    " and application_name like 'pgcdc-outbox/%%' and state = 'idle in transaction'"
)
"""Seconds after which a process is killed at the latest: by then it has run some batches."""

EVENTS = ("BatchStarted", "BatchHandled", "OutcomesRecorded", "BatchSettled", "CheckpointSaved")


class Stage:
    """An outbox whose jobs have effects, and the processes that bring them about."""

    def __init__(self, dsn: str, mode: str) -> None:
        migrate(dsn)
        self.dsn = dsn
        self.mode = mode
        self.outbox = Outbox(dsn, mode=mode)
        self.outbox.rows(TABLE)
        self.plain: list[int] = []
        self.once: list[int] = []
        self._processes: list[Any] = []

    def put(self, count: int = 5) -> None:
        """Commit jobs: some that fail first, and one that is to run once."""
        self.plain += self.outbox.put(["good"] * (count - 1) + ["fails"], topic="tx")
        self.once += self.outbox.put(["good"], topic="once")

    def start(self, **task: Any) -> Any:
        process = start(Task(dsn=self.dsn, mode=self.mode, **task))
        self._processes.append(process)
        return process

    def finish(self) -> None:
        """Let everything come to its end."""
        for process in self._processes:
            process.kill()
            process.join()

        last = self.start()
        eventually(self._is_over, 180)
        last.terminate()
        last.join(120)

    def check(self) -> Counter[str]:
        """Every effect is there exactly once; what became of the jobs that run once."""
        had = Counter(i for (i,) in self.outbox.rows("select id from public.effect"))
        dead = dict(self.outbox.rows("select id, reason from dead_letter"))
        # A job that ran while a careful consumer was killed has lost an attempt each time.
        for id_ in self.plain:
            assert had[id_] == (0 if dead.get(id_) == "crashed" else 1), (id_, had, dead)

        ends: Counter[str] = Counter()
        for id_ in self.once:
            assert had[id_] <= 1, f"job {id_} happened {had[id_]} times"
            assert dead.get(id_, "in_doubt") == "in_doubt"
            if id_ not in dead:
                assert had[id_] == 1, f"job {id_} is called done and never happened"

            ends["in doubt" if id_ in dead else "done"] += 1

        assert self.outbox.rows("select * from started where once") == []
        return ends

    def _is_over(self) -> bool:
        ids = [*self.plain, *self.once]
        settled = self.outbox.value(
            "select count(distinct id) from (select id from public.effect where id = any(%s) "
            "union all select id from dead_letter) as ended",
            [ids],
        )
        left = self.outbox.rows("select id from failed union all select id from started where once")
        return settled >= len(ids) and not left and not self.outbox.unsettled()

    def close(self) -> None:
        for process in self._processes:
            if process.is_alive():
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGCONT)

                process.kill()

            process.join()


@pytest.fixture
def stage(migrated: str, mode: str) -> Iterator[Stage]:
    stage = Stage(migrated, mode)
    yield stage
    stage.close()


def rounds(stage: Stage, count: int, *, seed: int) -> Counter[str]:
    """Kill a process again and again: at a moment, or at an event, with the slot lost at times."""
    chance = random.Random(seed)
    for n in range(count):
        stage.put()
        at = None
        if chance.random() < 0.6:
            at = (chance.choice([*EVENTS, *POINTS]), chance.randint(1, 3))

        process = stage.start(
            at=at, seconds=chance.choice([0.0, 0.002]), concurrency=chance.choice([1, 1, 3])
        )
        # The moment is the test, and nothing is awaited.
        process.join(chance.uniform(0.0, LONGEST_LIFE) if at is None else 2 * LONGEST_LIFE)
        process.kill()
        process.join()
        if stage.mode == "logical" and n % 8 == 7:
            lose_the_slot(stage)

    stage.finish()
    return stage.check()


def lose_the_slot(stage: Stage) -> None:
    """Drop it, as soon as the server has noticed that its reader is dead."""
    slot = slot_of(stage.outbox)

    def drop() -> bool:
        with suppress(psycopg.errors.ObjectInUse):
            stage.outbox.rows(
                "select pg_drop_replication_slot(slot_name) from pg_replication_slots "
                "where slot_name = %s",
                [slot],
            )
            return True

        return False

    eventually(drop, 60)


def test_killed_at_random(stage: Stage) -> None:
    rounds(stage, ROUNDS, seed=1)


@pytest.mark.slow
@pytest.mark.any_version
@pytest.mark.parametrize("seed", [2, 3])
def test_killed_at_random_hundreds_of_times(stage: Stage, seed: int) -> None:
    ends = rounds(stage, MANY_ROUNDS, seed=seed)

    assert ends["done"], ends
    assert ends["in doubt"], ends


@pytest.mark.parametrize("point", [*POINTS, "BatchHandled", "BatchSettled"])
def test_killed_at(stage: Stage, point: str) -> None:
    stage.put()
    killed = stage.start(at=(point, 1))
    killed.join(120)
    assert killed.exitcode == -signal.SIGKILL

    stage.finish()
    ends = stage.check()
    in_the_middle = point in ("begun once", "paid")
    assert ends == {("in doubt" if in_the_middle else "done"): 1}


@pytest.mark.any_version
@pytest.mark.parametrize("point", ["written", "committing"])
def test_one_that_sleeps_while_another_takes_over_has_no_effects(stage: Stage, point: str) -> None:
    """In a call, or with everything written and the lock of the fence in its hands."""
    stage.put()
    asleep = stage.start(at=(point, 1), signal=signal.SIGSTOP)
    eventually(lambda: is_stopped(asleep.pid), 120)
    # What keeps others out, and not what has the effects: that is in a transaction.
    stage.outbox.rows(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
        "where datname = current_database() and application_name like 'pgcdc-outbox/%%' "
        "and state is distinct from 'idle in transaction'"
    )
    left = [pid for (pid,) in stage.outbox.rows(f"select pid from {IN_TRANSACTION}")]
    other = stage.start()
    eventually(lambda: len(stage.outbox.rows("select from public.effect")) >= len(stage.plain), 120)
    os.kill(asleep.pid, signal.SIGCONT)
    # It wakes, and what it had begun comes to an end, one way or the other.
    eventually(
        lambda: not stage.outbox.rows(f"select from {IN_TRANSACTION} and pid = any(%s)", [left]),
        120,
    )
    other.terminate()
    other.join(120)

    stage.finish()
    stage.check()


def is_stopped(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"


@pytest.mark.any_version
class TestServer:
    """A server that crashes at the very commit, under a consumer that lives on."""

    @pytest.fixture
    def outbox(self, own_server: PostgresServer, mode: str) -> Iterator[Outbox]:
        own_server.resume()
        name = f"own_{secrets.token_hex(4)}"
        dsn = own_server.create_database(name)
        migrate(dsn)
        outbox = Outbox(dsn, mode=mode)
        make_ledger(outbox)
        yield outbox
        own_server.resume()
        own_server.drop_database(name)

    async def test_before_it(self, own_server: PostgresServer, outbox: Outbox) -> None:
        """The commit has been asked for, and waits for a lock: it is rolled back."""
        outbox.rows(GATED)
        gate = Gate(outbox)
        handler = Effecting()
        async with running(consumer(outbox, handler)):
            ids = outbox.put(range(3))
            waiting = await gate.reached()
            # First: who holds the gate lets go of it when it dies, and who waits might then
            # commit before it has noticed. A server that stands still does not react.
            os.kill(own_server.pid, signal.SIGSTOP)
            os.kill(waiting, signal.SIGKILL)
            own_server.kill()
            gate.open()
            own_server.resume()
            await eventually_async(lambda: has_effects(outbox, 3), 120)

        # As a further attempt if it could be recorded, else as the same again.
        assert [id_ for id_, _ in effects(outbox)] == ids
        assert len(handler.ids) == 6

    async def test_behind_it(self, own_server: PostgresServer, outbox: Outbox) -> None:
        """It is on the disk, and waits for a standby that never was: it is done."""
        database = outbox.value("select quote_ident(current_database())")
        outbox.rows(f"alter database {database} set synchronous_commit = 'local'")
        set_standby(own_server, "set synchronous_standby_names = 'nobody'", reload=True)

        async def body(job: Job, connection: Any) -> None:
            await connection.execute("set local synchronous_commit = 'on'")
            await write(job, connection)

        handler = Effecting(body)
        async with running(consumer(outbox, handler)):
            ids = outbox.put(range(3))
            await eventually_async(lambda: waits_for_standby(outbox), 60)
            set_standby(own_server, "reset synchronous_standby_names", reload=False)
            own_server.kill()
            own_server.resume()
            ids += outbox.put(["behind them"])
            await eventually_async(lambda: has_effects(outbox, 4), 120)

        assert effects(outbox) == [(i, 1) for i in ids]
        assert handler.ids == ids


def set_standby(server: PostgresServer, statement: str, *, reload: bool) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("set synchronous_commit = 'local'")
        connection.execute(f"alter system {statement}".encode())
        if reload:
            connection.execute("select pg_reload_conf()")


async def waits_for_standby(outbox: Outbox) -> bool:
    return bool(
        outbox.rows(
            "select from pg_stat_activity "
            "where datname = current_database() and wait_event = 'SyncRep' and query = 'commit'"
        )
    )


async def has_effects(outbox: Outbox, count: int) -> bool:
    try:
        return len(effects(outbox)) == count
    except psycopg.OperationalError:
        return False
