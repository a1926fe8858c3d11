"""What really happened, written down outside the database.

Producers note what they committed, rolled back, or do not know the fate of; consumers note
what their handlers got; the test notes when it broke something. Each is a file to which lines
are only ever added, so that they can be read after a failure. They outlive any process; that
the machine itself dies is not part of the suite, so nothing is fsynced.

All times are seconds of the machine's monotonic clock, which every process here shares.
"""

import itertools
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import msgspec
from msgspec import Struct

from pgcdc_outbox.lsn import LSN

Fate = Literal["committed", "rolled back", "in doubt"]
T = TypeVar("T")


class Body(Struct, frozen=True, kw_only=True):
    """The payload of a job: who it is, and what is to become of it."""

    seq: int
    """Its identity here. Ids may be given twice by a database that was set back."""
    fails: int = 0
    """How many attempts fail before one succeeds."""
    delayed: bool = False
    """Whether it was scheduled for later."""


class Claim(Struct, frozen=True, kw_only=True):
    """One transaction, or one savepoint that was rolled back, as its producer knows it."""

    producer: str
    key: str | None
    jobs: tuple[Body, ...]
    fate: Fate
    before: int = 0
    """A position in the log before the commit."""
    after: int = 0
    """A position in the log behind the commit; 0 if that is not known."""
    at: float = 0.0
    """When it was noted."""


class Execution(Struct, frozen=True, kw_only=True):
    """One job in one call of a handler, written down just before the handler returned."""

    worker: str
    pid: int
    seq: int
    id: int
    topic: str
    key: str | None
    attempt: int
    failed: bool
    began: float
    at: float


class Break(Struct, frozen=True, kw_only=True):
    """Something was broken from ``at`` to ``until``."""

    what: str
    at: float
    until: float
    again: float | None = None
    """Work that was done up to so many seconds before it may come again; None: nothing may."""
    resets: bool = False
    """Whether the slot may stand further back afterwards, or be another one."""
    unnoticed: float = 0.0
    """For how many seconds afterwards who lost its hold may go on, because it does not know."""


class Truth:
    """The three files, and what is in them."""

    def __init__(self, folder: Path, *, first: int = 1) -> None:
        self.folder = folder
        self.executed = folder / "executed"
        self._claims: list[Claim] = []
        self._breaks: list[Break] = []
        self._seqs = itertools.count(first)
        self._lock = threading.Lock()
        self._executions = Lines(self.executed, Execution)
        self._done: set[int] = set()
        self._looked_at = 0

    def plan(self, *, fails: int = 0, delayed: bool = False) -> Body:
        """A job that nobody else has."""
        with self._lock:
            return Body(seq=next(self._seqs), fails=fails, delayed=delayed)

    def claim(self, claim: Claim) -> None:
        """Note a transaction."""
        with self._lock:
            self._claims.append(claim)
            append(self.folder / "claims", [claim])

    @contextmanager
    def breaking(self, what: str, **more: Any) -> Iterator[None]:
        """Note that something is broken during a block, whether the block succeeds or not."""
        at = time.monotonic()
        try:
            yield
        finally:
            self.broke(Break(what=what, at=at, until=time.monotonic(), **more))

    def broke(self, what: Break) -> None:
        """Note that something was broken."""
        with self._lock:
            self._breaks.append(what)
            append(self.folder / "breaks", [what])

    @property
    def claims(self) -> list[Claim]:
        with self._lock:
            return list(self._claims)

    @property
    def breaks(self) -> list[Break]:
        with self._lock:
            return list(self._breaks)

    @property
    def executions(self) -> list[Execution]:
        """Every execution so far, in the order in which they were written down."""
        with self._lock:
            return list(self._executions.read())

    @property
    def done(self) -> set[int]:
        """The seqs of the jobs that succeeded so far."""
        with self._lock:
            runs = self._executions.read()
            self._done.update(run.seq for run in runs[self._looked_at :] if not run.failed)
            self._looked_at = len(runs)
            return self._done

    @property
    def counted(self) -> Counter[str]:
        """How often each thing was broken, whichever worker it was."""
        return Counter(re.sub(r" worker-\d+", " a worker", each.what) for each in self.breaks)

    def jobs(self, fate: Fate) -> dict[int, Body]:
        """The jobs of every transaction of this fate, by seq."""
        return {job.seq: job for claim in self.claims if claim.fate == fate for job in claim.jobs}


class Lines(Generic[T]):
    """A file to which whole lines are added, read on from where the last reading ended."""

    def __init__(self, path: Path, kind: type[T]) -> None:
        self._path = path
        self._decoder = msgspec.json.Decoder(kind)
        self._offset = 0
        self._rows: list[T] = []

    def read(self) -> list[T]:
        """Every line so far."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                text = file.read()

            whole = text[: text.rfind(b"\n") + 1]
            self._offset += len(whole)
            self._rows += filter(None, map(self._row, whole.splitlines()))

        return self._rows

    def _row(self, line: bytes) -> T | None:
        try:
            return self._decoder.decode(line)
        except msgspec.DecodeError:
            # Empty, or torn: its writer was killed in the middle of it, and had not returned.
            return None


def append(path: Path, rows: Sequence[Struct]) -> None:
    """Add lines to a file, behind whatever somebody else did not finish."""
    with path.open("ab", buffering=0) as file:
        file.write(b"\n" + b"".join(msgspec.json.encode(row) + b"\n" for row in rows))


def position(text: str) -> int:
    """A position in the log as a number."""
    return int(LSN.parse(text))
