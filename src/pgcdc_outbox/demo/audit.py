"""The count: what the notes say, beside what the database says."""

import math
from collections.abc import Sequence

import psycopg
from msgspec import Struct

from pgcdc_outbox.demo.orders import Kind
from pgcdc_outbox.demo.record import Call, Order, Record


class Evidence(Struct, frozen=True, kw_only=True):
    """What the database says at the end."""

    orders: int
    """Rows of this run in shop.orders."""
    dead: frozenset[int]
    """Ids of this run's jobs in the dead letters."""
    lag_bytes: int | None
    """Log that the consumer has not confirmed."""


class Audit(Struct, frozen=True, kw_only=True):
    """One run, counted. Seconds."""

    committed: int
    rolled_back: int
    handled: int
    retried: int
    scheduled: int
    latenesses: tuple[float, float] | None
    """The least and the most that a scheduled job came after it was due."""
    by_sql: int
    dead: int
    earlier: int
    lost: int
    undone_but_handled: int
    duplicates: int
    unrecorded: int
    """By how many the notes and the business table differ."""
    rate: float
    p50: float | None
    p99: float | None
    sooner: int
    """Jobs that the handler had before COMMIT returned to the producer."""
    lag_bytes: int | None

    @property
    def good(self) -> bool:
        """Whether it is proved that nothing was lost and nothing undone was handled."""
        return bool(self.committed) and not (
            self.lost or self.undone_but_handled or self.unrecorded
        )


def examine(dsn: str, run: str, record: Record, *, lag_bytes: int | None) -> Evidence:
    """Ask the database about this run."""
    with psycopg.connect(dsn) as connection:
        orders = connection.execute(
            "select count(*) from shop.orders where run = %s", (run,)
        ).fetchone()
        dead = connection.execute(
            "select id from outbox.dead_letter where id = any(%s)",
            ([order.job_id for order in (*record.committed, *record.rolled_back)],),
        ).fetchall()

    assert orders is not None
    return Evidence(
        orders=orders[0], dead=frozenset(job_id for (job_id,) in dead), lag_bytes=lag_bytes
    )


def audit(record: Record, evidence: Evidence) -> Audit:
    """Count a run that has ended."""
    handled = [order for order in record.committed if order.number in record.succeeded]
    dead = [order for order in record.committed if _is_dead(order, record, evidence)]
    undone = {order.number for order in record.rolled_back}
    waits = _waits(record)
    return Audit(
        committed=len(record.committed),
        rolled_back=len(record.rolled_back),
        handled=len(handled),
        retried=len({call.number for call in record.calls if call.succeeded and call.attempt > 1}),
        scheduled=sum(order.kind is Kind.LATER for order in handled),
        latenesses=_latenesses(record),
        by_sql=sum(order.kind is Kind.SQL for order in handled),
        dead=len(dead),
        earlier=record.earlier,
        lost=len(record.committed) - len(handled) - len(dead),
        undone_but_handled=len(undone & {call.number for call in record.calls}),
        duplicates=_duplicates(record.calls),
        unrecorded=abs(evidence.orders - len(record.committed)),
        rate=_rate(record),
        p50=_percentile(waits, 0.50),
        p99=_percentile(waits, 0.99),
        sooner=sum(wait < 0 for wait in waits),
        lag_bytes=evidence.lag_bytes,
    )


def _is_dead(order: Order, record: Record, evidence: Evidence) -> bool:
    """Given up by plan, after as many attempts as planned, and kept among the dead letters."""
    return (
        order.kind is Kind.HOPELESS
        and order.number in record.exhausted
        and order.job_id in evidence.dead
    )


def _duplicates(calls: Sequence[Call]) -> int:
    """How often a job came that had succeeded before, or an attempt that had been made."""
    made: set[tuple[int, int]] = set()
    succeeded: set[int] = set()
    count = 0
    for call in calls:
        attempt = (call.number, call.attempt)
        count += attempt in made or call.number in succeeded
        made.add(attempt)
        if call.succeeded:
            succeeded.add(call.number)

    return count


def _latenesses(record: Record) -> tuple[float, float] | None:
    due = {order.number: order.due for order in record.committed if order.due is not None}
    late = [call.entered - due[call.number] for call in record.calls if call.number in due]
    return (min(late), max(late)) if late else None


def _waits(record: Record) -> list[float]:
    """From COMMIT returned to handler entered, sorted; below zero where the log was quicker."""
    ended = {
        order.number: order.ended for order in record.committed if order.kind is not Kind.LATER
    }
    return sorted(
        call.entered - ended[call.number]
        for call in record.calls
        if call.attempt == 1 and call.number in ended
    )


def _percentile(values: Sequence[float], part: float) -> float | None:
    if not values:
        return None

    return max(0.0, values[math.ceil(part * len(values)) - 1])


def _rate(record: Record) -> float:
    """Jobs handled for each second in which orders were placed."""
    if len(record.committed) < 2:
        return 0.0

    first = min(order.ended for order in record.committed)
    last = max(order.ended for order in record.committed)
    done = sum(call.succeeded and call.entered <= last for call in record.calls)
    return done / (last - first)
