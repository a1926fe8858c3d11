"""Strict order, against a log and tables in memory, with failures, crashes and new starts.

The model executes jobs as a consumer does: each delivery of the log in its order, one job of
a key at a time; what fails comes back at the end of the log. A crash forgets everything but
the tables and how far the log was settled. Whatever happens, no job is executed for the first
time before those of its key that were enqueued earlier are done or dead, none is lost, and
none is executed more often than a crash explains.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pgcdc_outbox.core.deliveries import number, settled
from pgcdc_outbox.core.held_keys import Finished, HeldKey, HeldKeys, Turn
from pgcdc_outbox.core.verdict import Failure
from pgcdc_outbox.job import History, Job
from pgcdc_outbox.outcome import Dead, Retry

RUN = 3
MAX_ATTEMPTS = 3


class Tables:
    """What `parking.sql` and `ledger.sql` do, in memory."""

    def __init__(self) -> None:
        self.log: list[Job] = []
        self.parked: dict[int, tuple[int, Job]] = {}
        self.held: dict[str, HeldKey] = {}
        self.failed: dict[int, Job] = {}
        self.dead: set[int] = set()
        self.traces: dict[int, int] = {}
        self._position = 0

    def trace(self, id_: int, delivery: int) -> None:
        self.traces[id_] = max(delivery, self.traces.get(id_, 0))

    def park(self, job: Job) -> None:
        self._position += 1
        self.parked[job.id] = (job.position or self._position, job)
        self.trace(job.id, number(job))

    def record(self, failure: Failure) -> None:
        job = failure.job
        self.trace(job.id, settled(job.attempt, None))
        self.failed.pop(job.id, None)
        if isinstance(failure.fate, Dead):
            self.dead.add(job.id)
        else:
            self.failed[job.id] = job
            assert job.key is not None
            self.held[job.key] = HeldKey(job.key, job.id)

    def promote(self, id_: int) -> None:
        job = self.failed.pop(id_)
        self.log.append(Job(job.id, job.topic, b"", key=job.key, attempt=job.attempt + 1))

    def release(self, finished: Finished) -> HeldKey | None:
        if finished.id is not None and finished.attempt is not None:
            self.trace(finished.id, settled(finished.attempt, None))

        waiting = [each for each in self.parked.values() if each[1].key == finished.key]
        waiting = sorted(waiting, key=lambda each: each[0])[:RUN]
        run: list[tuple[int, Job]] = []
        for each in waiting:
            if run and each[1].id < run[-1][1].id:
                break

            run.append(each)

        for position, job in run:
            del self.parked[job.id]
            past = History(created_us=0, parked=job.parked + 1, position=position)
            self.log.append(
                Job(job.id, job.topic, b"", key=job.key, attempt=job.attempt, history=past)
            )

        if not run:
            self.held.pop(finished.key, None)
            return None

        position, last = run[-1]
        self.held[finished.key] = HeldKey(finished.key, last.id, position)
        return self.held[finished.key]


class StrictOrderMachine(RuleBasedStateMachine):
    """One consumer of a few keys; a crash at any step."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = Tables()
        self.keys = HeldKeys()
        self.at = 0
        """How far the log was read."""
        self.flushed = 0
        """How far it was settled for good."""
        self.known: dict[int, int] = {}
        self.fails: dict[int, int] = {}
        self.key: dict[int, str] = {}
        self.ended: set[int] = set()
        self.started: set[tuple[int, int]] = set()
        self.repeats_allowed: set[tuple[int, int]] = set()

    @rule(key=st.sampled_from("ab"), fails=st.sampled_from([0, 0, 0, 1, 2, 9]))
    def enqueue(self, key: str, fails: int) -> None:
        id_ = len(self.fails) + 1
        self.fails[id_] = fails
        self.key[id_] = key
        self.tables.log.append(Job(id_, "t", b"", key=key))

    @precondition(lambda self: self.at < len(self.tables.log))
    @rule(
        crash=st.sampled_from([None] * 6 + ["parked", "executed", "recorded", "released"]),
        steps=st.integers(1, 6),
    )
    def deliver(self, crash: str | None, steps: int) -> None:
        for step in range(steps):
            left = self.at < len(self.tables.log)
            if left and self.step(crash if step == steps - 1 else None):
                self.restart()
                return

    def step(self, crash: str | None) -> bool:
        """Deliver the next row; whether the process died on the way."""
        job = self.tables.log[self.at]
        self.at += 1
        if self.known.get(job.id, 0) >= number(job):
            return False

        (turn,) = self.keys.turns([job])
        if turn is Turn.PARKED:
            self.tables.park(job)
            self.known[job.id] = number(job)
            return crash == "parked"

        failures = self.execute(job)
        if crash == "executed":
            return True

        for failure in failures:
            self.tables.record(failure)

        if crash == "recorded":
            return True

        for finished in self.keys.settle([job], failures):
            self.keys.release(finished.key, self.tables.release(finished))

        self.known[job.id] = max(number(job), self.known.get(job.id, 0))
        return crash == "released"

    def execute(self, job: Job) -> list[Failure]:
        self.in_order(job)
        execution = (job.id, job.attempt)
        if execution in self.started:
            assert execution in self.repeats_allowed, f"{job} was executed twice for nothing"

        self.started.add(execution)
        if job.attempt > self.fails[job.id]:
            self.ended.add(job.id)
            return []

        if job.attempt >= MAX_ATTEMPTS:
            self.ended.add(job.id)
            return [Failure(job, Dead("exhausted"), "E", "")]

        return [Failure(job, Retry(0.0), "E", "")]

    def in_order(self, job: Job) -> None:
        earlier = {id_ for id_, key in self.key.items() if key == job.key and id_ < job.id}
        if job.id not in self.ended:
            assert earlier <= self.ended, f"{job} was executed before {earlier - self.ended}"

    @rule()
    def restart(self) -> None:
        """Everything is forgotten but the tables; what was not flushed comes again."""
        self.repeats_allowed |= self.started
        self.known = dict(self.tables.traces)
        self.keys = HeldKeys(self.tables.held.values())
        self.at = self.flushed
        self.relieve()

    @rule()
    def flush(self) -> None:
        self.flushed = self.at

    @precondition(lambda self: self.tables.failed)
    @rule(data=st.data())
    def promote(self, data: st.DataObject) -> None:
        self.tables.promote(data.draw(st.sampled_from(sorted(self.tables.failed))))

    def relieve(self) -> None:
        """The chore: keys that wait for a job which is dead."""
        for held in list(self.tables.held.values()):
            if held.id in self.tables.dead and held.id not in self.tables.failed:
                finished = Finished(held.key)
                self.keys.release(held.key, self.tables.release(finished))

    @invariant()
    def nothing_is_parked_that_nobody_will_let_go(self) -> None:
        assert {job.key for _, job in self.tables.parked.values()} <= self.tables.held.keys()

    @invariant()
    def tables_say_what_is_known(self) -> None:
        assert {key: self.keys[key] for key in self.tables.held} == self.tables.held
        assert len(self.keys) == len(self.tables.held)

    def teardown(self) -> None:
        for _ in range(40 * (len(self.fails) + 1)):
            if self.at < len(self.tables.log):
                self.step(None)
            elif self.tables.failed:
                self.tables.promote(min(self.tables.failed))
            else:
                break

        assert self.ended == self.fails.keys(), "a job was lost"
        assert not self.tables.parked
        assert not self.tables.held


TestStrictOrder = StrictOrderMachine.TestCase
TestStrictOrder.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


def test_jobs_of_a_key_that_come_together_run_one_after_the_other() -> None:
    keys = HeldKeys()
    jobs = [Job(1, "t", b"", key="a"), Job(2, "t", b""), Job(3, "t", b"", key="a")]

    assert keys.turns(jobs) == [Turn.NOW, Turn.NOW, Turn.NEXT]


def test_only_the_one_that_failed_passes_and_only_its_key_waits() -> None:
    keys = HeldKeys([HeldKey("a", 2)])
    jobs = [Job(id_, "t", b"", key=key) for id_, key in ((1, "a"), (2, "a"), (3, "b"), (4, None))]

    assert keys.turns(jobs) == [Turn.PARKED, Turn.NOW, Turn.NOW, Turn.NOW]
    assert keys.is_failed("a")
    assert not keys.is_failed("b")
