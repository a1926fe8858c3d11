"""What processes used, as Linux counts it in /proc."""

import os
import resource
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec import Struct

_TICKS = os.sysconf("SC_CLK_TCK")
_WATCH_SECONDS = 0.1


class Usage(Struct, frozen=True, kw_only=True):
    """Processor time, and how often the processor was left."""

    cpu_seconds: float
    switches: int

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(
            cpu_seconds=self.cpu_seconds - other.cpu_seconds,
            switches=self.switches - other.switches,
        )

    @classmethod
    def own(cls) -> "Usage":
        """That of this process, up to now."""
        return cls.counted(resource.getrusage(resource.RUSAGE_SELF))

    @classmethod
    def counted(cls, used: resource.struct_rusage) -> "Usage":
        """As the kernel tells a process about itself, or about a child that ended."""
        return cls(
            cpu_seconds=used.ru_utime + used.ru_stime, switches=used.ru_nvcsw + used.ru_nivcsw
        )

    @classmethod
    def of(cls, pid: int) -> "Usage":
        """That of another process. Raises `OSError` if it is gone."""
        return cls(cpu_seconds=sum(_times(pid)[:2]), switches=_switches(pid))


def peak_memory() -> int:
    """The most memory that this process ever had, in bytes.

    Not from getrusage: that remembers the process which started this one.
    """
    return 1024 * _status(os.getpid())["VmHWM"]


class ServerUsage:
    """What a server uses within a block: all of its processes, and the walsender's share.

    Processes that ended are in the sum, because the postmaster inherits their time. How
    often a walsender left the processor is looked up now and then, and so misses up to a
    tenth of a second before its end. Of a server whose postmaster is unknown, nothing is told.
    """

    def __init__(self, postmaster: int | None) -> None:
        self._postmaster = postmaster
        self._senders: dict[int, Usage] = {}
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._watch_senders, daemon=True)
        self.cpu_seconds: float | None = None

    def __enter__(self) -> Self:
        if self._postmaster is not None:
            self._before = _with_children(self._postmaster)
            self._old = _senders(self._postmaster)
            self._watch.start()

        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._postmaster is not None:
            self.cpu_seconds = _with_children(self._postmaster) - self._before
            self._ended.set()
            self._watch.join()

    @property
    def sender(self) -> Usage | None:
        """What the walsenders used, as far as it was seen; None without one."""
        if not self._senders:
            return None

        nothing = Usage(cpu_seconds=0.0, switches=0)
        used = [last - self._old.get(pid, nothing) for pid, last in self._senders.items()]
        return Usage(
            cpu_seconds=sum(each.cpu_seconds for each in used),
            switches=sum(each.switches for each in used),
        )

    def per_job(self, jobs: int) -> dict[str, float]:
        """For a sample."""
        told: dict[str, float] = {}
        if self.cpu_seconds is not None:
            told["server CPU µs/job"] = 1e6 * self.cpu_seconds / jobs

        if (sender := self.sender) is not None:
            told["walsender switches/job"] = sender.switches / jobs

        return told

    def _watch_senders(self) -> None:
        assert self._postmaster is not None
        while True:
            last = self._ended.wait(_WATCH_SECONDS)
            self._senders |= _senders(self._postmaster)
            if last:
                return


def _with_children(pid: int) -> float:
    """Processor time of a process and of its children, those included that ended."""
    while True:
        before = _times(pid)
        seconds = sum(before)
        for child in _children(pid):
            try:
                seconds += sum(_times(child)[:2])
            except OSError:
                continue  # it ended just now

        if _times(pid)[2:] == before[2:]:
            return seconds
        # One that ended meanwhile may be in both sums, or in neither.


def _senders(postmaster: int) -> dict[int, Usage]:
    found = {}
    for child in _children(postmaster):
        try:
            if b"walsender" in Path(f"/proc/{child}/cmdline").read_bytes():
                found[child] = Usage.of(child)
        except OSError:
            continue

    return found


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _times(pid: int) -> list[float]:
    """User, system; and the same of children that ended."""
    # The name in parentheses may hold anything.
    _, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    return [int(ticks) / _TICKS for ticks in rest.split()[11:15]]


def _switches(pid: int) -> int:
    status = _status(pid)
    return status["voluntary_ctxt_switches"] + status["nonvoluntary_ctxt_switches"]


def _status(pid: int) -> dict[str, int]:
    pairs = (line.split(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        name: int(value.split()[0])
        for name, value, *_ in pairs
        if name == "VmHWM" or name.endswith("ctxt_switches")
    }
