"""A scenario: an outbox, who writes to it, who reads it, and what is true in the end."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from pgcdc_outbox.core.lanes import Ordering
from pgcdc_outbox.postgres.migrate import migrate
from tests.faults.audit import Audit, missing
from tests.faults.crew import PATIENCE, Crew
from tests.faults.producers import Busy, Producer
from tests.faults.sampler import Sample, Sampler
from tests.faults.truth import Body, Truth
from tests.harness import Outbox
from tests.wait import eventually

CHECKPOINT_SECONDS = 0.3
"""How often consumers save their position here: tests should not wait for it long."""


class Scene:
    """What a test needs, and the question that it ends with."""

    def __init__(self, dsn: str, folder: Path, mode: str, *, first: int = 1) -> None:
        migrate(dsn)
        self.dsn = dsn
        self.mode = mode
        self.outbox = Outbox(dsn)
        self.truth = Truth(folder, first=first)
        self.crew = Crew(
            self.truth,
            dsn,
            mode=mode,
            batch_size=10,
            maintenance=False,
            drain_timeout=5.0,
            promote_interval=0.05,
            checkpoint_interval=CHECKPOINT_SECONDS,
        )
        self._samples: list[Sample] = []
        self._begun: set[int] = set()
        self.ordered = True
        self.ordering: Ordering = "none"
        self.slot_is_believed = True
        """Whether its position says what is settled; not while it leaves jobs out."""

    def order(self, ordering: Ordering, **consumer: Any) -> None:
        """Have every consumer promise this about the jobs of one key, and hold it to that."""
        self.ordering = ordering
        self.ordered = ordering == "key"  # after a failure, strict order is another one
        self.crew.settings |= {"ordering": ordering, **consumer}

    def put(self, count: int = 1, *, fails: int = 0, delayed: bool = False) -> list[Body]:
        """Commit jobs in one transaction."""
        jobs = [self.truth.plan(fails=fails, delayed=delayed) for _ in range(count)]
        Producer(self.dsn, self.truth, "test").put(jobs)
        return jobs

    @contextmanager
    def busy(self, **options: Any) -> Iterator[None]:
        """Produce all kinds of jobs during a block, and watch the slot."""
        with Busy(self.dsn, self.truth, **options), self.watched():
            yield

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch the slot during a block."""
        with Sampler(self.dsn) as sampler:
            try:
                yield
            finally:
                self._samples += sampler.samples
                self._begun |= sampler.begun

    @contextmanager
    def forgetting(self, what: str, **more: Any) -> Iterator[None]:
        """Break something after which only the saved position counts.

        What succeeded after that was taken may come again. It was taken after the one before
        was saved.
        """
        again = self.crew.since_saved(time.monotonic())
        with self.truth.breaking(what, again=again, resets=True, **more):
            yield

    @contextmanager
    def losing_the_hold(self, what: str, *, unnoticed: float = 0.0) -> Iterator[None]:
        """Break something after which another instance may come first.

        What was not saved by then may come again.
        """
        again = self.crew.since_saved(time.monotonic())
        with self.truth.breaking(what, again=again, unnoticed=unnoticed):
            yield

    def handled(self, jobs: list[Body], timeout: float = PATIENCE) -> None:
        """Wait until each of these came to its end."""
        wanted = {job.seq: job for job in jobs}
        eventually(lambda: self._nothing_missing(wanted), timeout)

    def executed(self, more: int = 1, timeout: float = PATIENCE) -> None:
        """Wait until so many more jobs were executed."""
        before = len(self.truth.executions)
        eventually(lambda: len(self.truth.executions) >= before + more, timeout)

    def conclude(self, timeout: float = PATIENCE, *, rerun: bool = True) -> Audit:
        """Let everything come to its end, stop in good order, and hold it against the promises.

        With ``rerun`` a last run shows that after a clean stop nothing comes again.
        """
        if not self.crew.alive:
            self.crew.start()

        committed = self.truth.jobs("committed")
        eventually(lambda: self._nothing_missing(committed), timeout)
        for worker in self.crew.alive:
            worker.at_work()
            assert worker.stop() == 0, worker.log.read_text()

        if rerun:
            last = self.crew.start(once=True)
            assert last.process.wait(PATIENCE) == 0, last.log.read_text()

        return self.check()

    def check(self) -> Audit:
        """Hold what happened against what is promised."""
        audit = self.audit()
        assert not audit.violations, "\n".join(audit.violations[:20])
        return audit

    def audit(self) -> Audit:
        """What happened."""
        for worker in self.crew.workers:
            worker.note_death()

        return Audit(
            self.truth.claims,
            self.truth.executions,
            breaks=self.truth.breaks,
            dead=self.dead(),
            max_attempts=self.crew.max_attempts,
            ordered=self.ordered,
            ordering=self.ordering,
            samples=self._samples if self.slot_is_believed else (),
            crashed={told.detail["id"] for told in self.crew.told("JobCrashed")},
            # Who was killed before it could tell had made one all the same.
            slots=sorted(
                self._begun | {told.detail["position"] for told in self.crew.told("SlotCreated")}
            ),
        )

    def end_connections(self) -> None:
        """End every connection of consumers, as an administrator might, or a network."""
        self.outbox.rows(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
            "where datname = current_database() and application_name like 'pgcdc-outbox/%%'"
        )

    def kill_the_reader(self) -> None:
        """Kill the walsender; return when the server has noticed, and ended every connection."""
        with psycopg.connect(self.dsn, autocommit=True) as witness:
            rows = witness.execute(
                "select active_pid from pg_replication_slots where active"
            ).fetchall()
            for (pid,) in rows:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    eventually(lambda: not _answers(witness), PATIENCE)

    def dead(self) -> dict[int, int]:
        """The dead letters: seq, and the attempt that was the last."""
        rows = self.outbox.rows(
            "select payload, attempt from dead_letter where reason = 'exhausted'"
        )
        return {msgspec.json.decode(payload, type=Body).seq: n for payload, n in rows}

    def close(self) -> None:
        self.crew.clear()

    def _nothing_missing(self, jobs: dict[int, Body]) -> bool:
        dead = self.dead() if any(job.fails for job in jobs.values()) else {}
        left = missing(jobs, self.truth.done, dead, self.crew.max_attempts)
        assert not left, f"{len(left)} of {len(jobs)} did not come to their end, first {left[0]}"
        return True


def _answers(connection: psycopg.Connection[Any]) -> bool:
    try:
        connection.execute("select 1")
    except psycopg.OperationalError:
        return False

    return True
