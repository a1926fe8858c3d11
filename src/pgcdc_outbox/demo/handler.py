"""The handler of the demo: notes each job, and fails where the order says so."""

import time
from collections.abc import Sequence

from pgcdc_outbox.demo.orders import Kind, Placed
from pgcdc_outbox.demo.record import Call, Record
from pgcdc_outbox.job import Job
from pgcdc_outbox.outcome import Outcome, Retry


class OrderHandler:
    """Handles the orders of one run; those of earlier runs are handled, but not counted."""

    def __init__(self, run: str, record: Record) -> None:
        self._run = run
        self._record = record

    async def handle(self, jobs: Sequence[Job]) -> dict[int, Outcome]:
        """Handle a batch; returns the jobs that failed."""
        entered = time.monotonic()
        failed: dict[int, Outcome] = {}
        for job in jobs:
            order = job.json(Placed)
            if failure := _failure(order.kind, job.attempt):
                failed[job.id] = failure

            if order.run != self._run:
                self._record.note_earlier()
                continue

            self._record.note_call(
                Call(
                    number=order.number,
                    attempt=job.attempt,
                    entered=entered,
                    succeeded=failure is None,
                )
            )

        return failed


def _failure(kind: Kind, attempt: int) -> Outcome | None:
    match kind:
        case Kind.STUMBLES if attempt == 1:
            return Retry(error="the payment service did not answer")
        case Kind.HOPELESS:
            return Retry(error="the card has expired")
        case _:
            return None
