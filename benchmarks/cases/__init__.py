"""The questions that are asked, each in a file of its own."""

from collections.abc import Mapping
from typing import Final

from benchmarks.case import Case
from benchmarks.cases.audit import Audit
from benchmarks.cases.bulk import Bulk
from benchmarks.cases.commits import Commits
from benchmarks.cases.drain import Drain
from benchmarks.cases.enqueue import Enqueue
from benchmarks.cases.growth import GROWTH
from benchmarks.cases.idle import Idle
from benchmarks.cases.peek import Peek
from benchmarks.cases.poll import Poll
from benchmarks.cases.shards import Shards
from benchmarks.cases.steady import Steady
from benchmarks.cases.storage import Storage

MAIN: Final[tuple[type[Case], ...]] = (Drain, Poll, Idle, Steady, Enqueue, Bulk, Commits)
"""What is measured if nothing is named."""

CASES: Final[Mapping[str, type[Case]]] = {
    case.name: case for case in (*MAIN, *GROWTH, Shards, Peek, Storage, Audit)
}
