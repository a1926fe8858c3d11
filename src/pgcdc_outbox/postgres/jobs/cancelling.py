"""Taking a job back while it waits."""

from datetime import timedelta
from typing import Final

from msgspec import Struct
from psycopg import Connection

from pgcdc_outbox.postgres.connection import Row, run
from pgcdc_outbox.postgres.jobs.consumers import readers
from pgcdc_outbox.postgres.jobs.showing import Shown, show
from pgcdc_outbox.postgres.jobs.standing import Standing

# How long to look for the reason why a job cannot be cancelled.
_EXPLAIN: Final = timedelta(seconds=10)

_REMEDIES: Final = {
    "in_line": "It may start at any moment: let the handler pass over it. "
    "If it fails, it can be cancelled then.",
    "running": "Wait for its end: if it fails, it can be cancelled then.",
    "done": "Nothing is left to be cancelled; what it did has to be undone by other means.",
    "settled": "Nothing is left to be cancelled; what it did has to be undone by other means.",
    "dead": "It does not run again by itself; `pgcdc-outbox dead discard {id}` removes it.",
    "gone": "Nothing is left to be cancelled.",
}


class Cancelling(Struct, frozen=True, kw_only=True):
    """What became of the wish to cancel a job."""

    id: int
    cancelled: bool
    """Whether it is certain that it is not executed any more, for these consumers."""
    place: str | None = None
    """Where it was taken from: ``scheduled``, ``failed`` or ``parked``."""
    consumers: tuple[str, ...] = ()
    """For whom it was cancelled; empty for a scheduled one, which is for every consumer."""
    others: tuple[str, ...] = ()
    """Further consumers, for whom it did not wait."""
    reason: str = ""
    """Why it was not."""
    remedy: str = ""


def cancel(
    connection: Connection[Row], schema: str, id: int, *, consumer: str | None
) -> Cancelling:
    """Cancel one job, in a transaction of its own."""
    named = [each.name for each in readers(connection, schema, consumer=consumer)]
    taken = run(
        connection, "cancel", schema, id=id, consumers=named, everybody=consumer is None
    ).fetchall()
    if not taken:
        return _refusal(show(connection, schema, id, consumer=consumer, within=_EXPLAIN), consumer)

    whom = tuple(row["consumer"] for row in taken if row["consumer"] is not None)
    return Cancelling(
        id=id,
        cancelled=True,
        place=taken[0]["place"],
        consumers=whom,
        others=tuple(name for name in named if whom and name not in whom),
    )


def _refusal(shown: Shown, consumer: str | None) -> Cancelling:
    if not shown.known or not shown.consumers:
        return Cancelling(
            id=shown.id,
            cancelled=False,
            reason=shown.about or _nobody(shown, consumer),
            remedy=_REMEDIES["gone"],
        )

    # What is nearest to being executed says most about why it cannot be taken back.
    worst = min(shown.consumers, key=_nearness)
    if worst.state in ("failed", "parked", "scheduled"):
        return Cancelling(
            id=shown.id,
            cancelled=False,
            reason=_moved(worst, consumer),
            remedy="Leave --consumer out." if consumer else "Try again.",
        )

    return Cancelling(
        id=shown.id,
        cancelled=False,
        reason=worst.about,
        remedy=_REMEDIES[worst.state].format(id=shown.id),
    )


def _nobody(shown: Shown, consumer: str | None) -> str:
    if shown.consumers:
        return shown.consumers[0].about

    return f"there is no consumer {consumer}" if consumer else "no consumer is registered"


def _moved(standing: Standing, consumer: str | None) -> str:
    if standing.state == "scheduled" and consumer:
        return "it is scheduled, and so for every consumer: it cannot be cancelled for one"

    return f"it was on its way: {standing.about}"


def _nearness(standing: Standing) -> int:
    order = ("running", "in_line", "parked", "failed", "scheduled", "dead", "done", "settled")
    return order.index(standing.state) if standing.state in order else len(order)
