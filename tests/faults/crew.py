"""The consumers of a scenario: each a process, started, stopped, killed, or put to sleep."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from tests.faults.truth import Break, Lines, Truth
from tests.faults.worker import Order, Told
from tests.wait import eventually

ROOT = Path(__file__).parents[2]

# What succeeded is settled and reported within a tenth of a second, if the machine is not too
# busy. When it is, positions are saved late, too: see `Crew.since_saved`.
REPORT_SECONDS = 2.0

# An orderly end does not wait longer than this for the last report.
_FINISH_SECONDS = 5.0

PATIENCE = 120.0
"""Seconds that a machine may take which does much else: no wait of a scenario is shorter."""

_READING = ("Streaming", "Polling")
_STATES = {"Connecting", "StandingBy", "Disconnected", "Reconciling", *_READING}


class Worker:
    """One process."""

    def __init__(self, order: Order, truth: Truth, crew: "Crew") -> None:
        self.name = order.name
        self._order = order
        self._truth = truth
        self._crew = crew
        self._noted = False
        self._events = Lines(truth.folder / f"{order.name}.events", Told)
        self.log = truth.folder / f"{order.name}.log"
        file = truth.folder / f"{order.name}.order"
        file.write_bytes(msgspec.json.encode(order))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.worker", file],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def __repr__(self) -> str:
        return f"<Worker {self.name} pid={self.process.pid} code={self.process.poll()}>"

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def told(self, event: str) -> list[Told]:
        """The events of this kind that it told so far."""
        return [told for told in self._events.read() if told.event == event]

    def saw(self, event: str, count: int = 1, timeout: float = PATIENCE) -> Told:
        """Wait until it has told so many events of a kind; the last of them."""

        def look() -> list[Told]:
            assert self.alive or self.told(event), f"{self!r} ended:\n{self.log.read_text()}"
            return self.told(event)[count - 1 : count]

        return eventually(look, timeout)[0]

    def reads(self, timeout: float = PATIENCE) -> None:
        """Wait until it reads jobs, after whatever it went through."""
        self._is(*_READING, timeout=timeout)

    def at_work(self, timeout: float = PATIENCE) -> None:
        """Wait until it reads jobs or stands by, after whatever it went through."""
        self._is(*_READING, "Reconciling", "StandingBy", timeout=timeout)

    def _is(self, *states: str, timeout: float) -> None:
        def look() -> bool:
            told = [each.event for each in self._events.read() if each.event in _STATES]
            assert self.alive, f"{self!r} ended:\n{self.log.read_text()}"
            return bool(told) and told[-1] in states

        eventually(look, timeout)

    def kill(self) -> None:
        """End it as the kernel does when memory is short."""
        at = time.monotonic()
        self.process.kill()
        self.process.wait()
        self._note(f"kill {self.name}", at)

    def died(self, timeout: float = PATIENCE) -> None:
        """Wait until it has killed itself, as it was ordered to."""
        code = self.process.wait(timeout)
        assert code == -signal.SIGKILL, f"{self!r} ended:\n{self.log.read_text()}"
        self.note_death()

    def note_death(self) -> None:
        """Note that it has killed itself as it was ordered to, if nobody waited for it."""
        order = self._order.kill_at
        if order is not None and not self._noted and self.process.poll() == -signal.SIGKILL:
            last = self.saw(*order)
            self._note(f"kill {self.name} at {last.event}", last.at)

    def stop(self, timeout: float = PATIENCE) -> int:
        """Ask it to stop, and wait until it has; its exit code."""
        if self.alive:
            self.saw("Connecting")  # until then it does not listen
            self.process.terminate()

        code = self.process.wait(timeout)
        self._note_haste()
        return code

    def _note_haste(self) -> None:
        """Note that it ended before it could say what it had finished, if that took too long."""
        if asked := self.told("Stopping"):
            at = asked[-1].at
            if time.monotonic() - at >= _FINISH_SECONDS:
                self._note(f"stop {self.name}, which took too long", at)

    @property
    def peak_memory(self) -> int:
        """The most bytes of memory that it has had at once."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def pause(self) -> None:
        """Stop its clock."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on as if nothing had been."""
        self.process.send_signal(signal.SIGCONT)

    def _note(self, what: str, at: float) -> None:
        self._noted = True
        self._truth.broke(
            Break(
                what=what,
                at=at,
                until=time.monotonic(),
                again=self._crew.since_saved(at) + self._order.seconds,
            )
        )

    def clear(self) -> None:
        """End it whatever it does."""
        if self.alive:
            self.resume()
            self.process.kill()

        self.process.wait()


class Crew:
    """Every worker of a scenario."""

    def __init__(self, truth: Truth, dsn: str, **consumer: Any) -> None:
        self._truth = truth
        self.dsn = dsn
        # Slots are lost here oftener than anybody would bear.
        self.settings = {"max_slot_losses": 10_000, **consumer}
        self.workers: list[Worker] = []
        self.max_attempts = 3

    def start(self, *, dsn: str | None = None, consumer: Any = None, **order: Any) -> Worker:
        """Start a worker; `Order` says what it can be told."""
        worker = Worker(
            Order(
                name=f"worker-{len(self.workers) + 1}",
                dsn=dsn or self.dsn,
                folder=str(self._truth.folder),
                consumer=self.settings | (consumer or {}),
                max_attempts=self.max_attempts,
                **order,
            ),
            self._truth,
            self,
        )
        self.workers.append(worker)
        return worker

    @property
    def alive(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.alive]

    def told(self, event: str) -> list[Told]:
        """The events of this kind that any worker told."""
        return [told for worker in self.workers for told in worker.told(event)]

    def since_saved(self, at: float) -> float:
        """How many seconds before a moment what succeeded was certainly saved at that moment.

        The last position that was saved was taken after the one before was saved. So a machine
        that stands still allows for more, and one that does not for little.
        """
        saved = sorted(told.at for told in self.told("CheckpointSaved") if told.at <= at)
        return at - saved[-2] + REPORT_SECONDS if len(saved) > 1 else math.inf

    def clear(self) -> None:
        for worker in self.workers:
            worker.clear()
