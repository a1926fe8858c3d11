"""Processes that read jobs, seen from the one that measures."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from benchmarks.case import Sample
from benchmarks.place import Place
from benchmarks.task import Outcome, Task
from benchmarks.usage import ServerUsage

_ROOT = Path(__file__).parents[1]


class Worker:
    """One of them, from its start to what it tells at the end."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
        )
        # Not as an argument: the DSN may hold a password.
        self._write(msgspec.json.encode(task))
        self._expect(b"here")

    @property
    def pid(self) -> int:
        return self._process.pid

    def go(self) -> None:
        """Let it begin."""
        self._write(b"go")

    def reading(self) -> None:
        """Wait until it reads what is committed as it comes."""
        self._expect(b"reading")

    def end(self) -> Outcome:
        """Let it stop, if it was to read until told, and wait for what it tells."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._task.jobs is None:
            self._process.stdin.close()

        told = self._process.stdout.read()
        if self._process.wait():
            raise RuntimeError(f"a worker failed with {self._process.returncode}")

        # One that is not ours says when it reads, whether anybody asks or not.
        outcome = msgspec.msgpack.decode(told.removeprefix(b"reading\n"), type=Outcome)
        if self._task.jobs not in (None, outcome.jobs):
            raise RuntimeError(f"{self._task.jobs} jobs were there, {outcome.jobs} came")

        return outcome

    def close(self) -> None:
        """End it, if it has not ended."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()

    def _expect(self, word: bytes) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line != word + b"\n":
            raise RuntimeError(f"a worker said {line!r} instead of {word!r}")


@contextmanager
def worker(task: Task) -> Iterator[Worker]:
    """A process that could begin, and has ended when the block is left."""
    started = Worker(task)
    try:
        yield started
    finally:
        started.close()


@contextmanager
def attending(task: Task) -> Iterator[Worker]:
    """A process that reads what is committed as it comes."""
    with worker(task) as started:
        started.go()
        started.reading()
        yield started


def drained(place: Place, *tasks: Task) -> Sample:
    """Let workers read all that is there, at the same time; jobs a second, of all together."""
    with ExitStack() as stack:
        workers = [stack.enter_context(worker(task)) for task in tasks]
        with ServerUsage(place.postmaster) as server:
            for each in workers:
                each.go()

            outcomes = [each.end() for each in workers]

    jobs = sum(outcome.jobs for outcome in outcomes)
    return Sample(
        value=jobs / max(outcome.seconds for outcome in outcomes),
        also=_per_job(outcomes, jobs) | server.per_job(jobs),
    )


def _per_job(outcomes: Sequence[Outcome], jobs: int) -> dict[str, float]:
    return {
        "reader CPU µs/job": 1e6 * sum(each.usage.cpu_seconds for each in outcomes) / jobs,
        "reader switches/job": sum(each.usage.switches for each in outcomes) / jobs,
        "reader peak MiB": max(each.peak_memory for each in outcomes) / 2**20,
    }
