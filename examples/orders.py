"""A handler of orders, for `pgcdc-outbox consume --handler examples.orders:handle`."""

import logging
from collections.abc import Sequence

from msgspec import Struct

from pgcdc_outbox import Dead, Job
from pgcdc_outbox.errors import PayloadInvalid

logger = logging.getLogger(__name__)


class OrderPlaced(Struct):
    """The payload."""

    order: int
    total: float


def handle(jobs: Sequence[Job]) -> dict[int, Exception]:
    """Confirm orders. Returns those that failed, by id; the others are done.

    A job can come twice, for instance after a crash: make sure that the second time
    changes nothing. `job.id` stays the same, and is a good idempotency key.
    """
    failed: dict[int, Exception] = {}
    for job in jobs:
        try:
            placed = job.json(OrderPlaced)
        except PayloadInvalid as error:
            # Raised, it would fail the whole batch; and trying again will not help.
            failed[job.id] = error
            continue

        if placed.total > 0:
            logger.info("job %s confirms order %s: %.2f", job.id, placed.order, placed.total)
        else:
            failed[job.id] = Dead("the order costs nothing")

    return failed
