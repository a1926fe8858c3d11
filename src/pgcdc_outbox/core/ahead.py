"""Jobs that are settled although the flushed position has not passed them yet."""

from array import array
from collections import deque
from collections.abc import Sequence

from pgcdc_outbox.core.deliveries import numbers
from pgcdc_outbox.core.progress import Ticket
from pgcdc_outbox.job import Job
from pgcdc_outbox.lsn import LSN

# About 8 MB. Beyond it the oldest are forgotten, and may be handled once more.
_LIMIT = 500_000


class Ahead:
    """Remembers what the log would bring again if reading began anew now.

    That is what is done of a transaction which is not finished, and whatever
    stands behind a job that still runs. Kept small: sixteen bytes for each job.
    """

    def __init__(self) -> None:
        self._parts: deque[tuple[Ticket, array[int], array[int]]] = deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, jobs: Sequence[Job], tickets: Sequence[Ticket], flushed: LSN) -> None:
        """Note jobs that are settled, in the order of the log, and forget what is passed."""
        self._forget(flushed)
        last = tickets[-1]
        if _passed(last, flushed):
            return

        ids = array("q", [job.id for job in jobs])
        self._parts.append((last, ids, numbers(jobs)))
        self._count += len(ids)
        while self._count > _LIMIT:
            self._drop()

    def deliveries(self, flushed: LSN) -> dict[int, int]:
        """The last settled delivery of each job that the flushed position has not passed."""
        deliveries: dict[int, int] = {}
        for last, ids, settled in self._parts:
            if not _passed(last, flushed):
                for id_, each in zip(ids, settled, strict=True):
                    deliveries[id_] = max(each, deliveries.get(id_, 0))

        return deliveries

    def _forget(self, flushed: LSN) -> None:
        while self._parts and _passed(self._parts[0][0], flushed):
            self._drop()

    def _drop(self) -> None:
        _, ids, _ = self._parts.popleft()
        self._count -= len(ids)


def _passed(ticket: Ticket, flushed: LSN) -> bool:
    return not ticket.owed and ticket.end <= flushed
