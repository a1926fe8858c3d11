"""What the demo says at the end: the table, and the sentence below it."""

from collections.abc import Iterator
from typing import Final

from pgcdc_outbox.demo.audit import Audit
from pgcdc_outbox.demo.orders import MAX_ATTEMPTS

_LABEL: Final = 34
_NUMBER: Final = 10


def table(audit: Audit) -> list[str]:
    """The count as lines: a label, a number, a remark."""
    return list(_lines(audit))


def verdict(audit: Audit) -> str:
    """The outcome, as a sentence."""
    if not audit.committed:
        return "Nothing was committed, so nothing is proved."

    if audit.unrecorded:
        return f"The notes and shop.orders differ by {audit.unrecorded:,}: this proves nothing."

    if not audit.good:
        return "Something went wrong that must not: see lost, and rolled back but handled."

    return "Every committed order was handled or given up by plan; no other was."


def _lines(audit: Audit) -> Iterator[str]:
    yield "Orders"
    yield _row("committed", audit.committed, "the order and its job in one transaction")
    yield _row("rolled back", audit.rolled_back, "after the job was enqueued")
    yield ""
    yield "Their jobs"
    yield _row("handled", audit.handled)
    yield _row("  enqueued by plain SQL", audit.by_sql)
    yield _row("  failed at first, retried", audit.retried)
    yield _row("  scheduled for later", audit.scheduled, _lateness(audit))
    yield _row("dead letters", audit.dead, f"failed all {MAX_ATTEMPTS} attempts, as planned")
    if audit.earlier:
        yield _row("of an earlier run", audit.earlier, "handled now, and not counted above")

    yield ""
    yield "What must be 0"
    yield _row("lost", audit.lost, "committed, but neither handled nor a dead letter")
    yield _row("rolled back but handled", audit.undone_but_handled)
    yield _row("duplicates", audit.duplicates, "the promise is at least once")
    yield ""
    yield "Speed"
    yield _row("jobs/s while orders came in", f"{audit.rate:,.0f}", "limited by the producers")
    yield _row("commit to handler, p50", _milliseconds(audit.p50), "ms, from COMMIT returned")
    yield _row("commit to handler, p99", _milliseconds(audit.p99), "ms, to handler entered")
    yield _row("handled before it returned", audit.sooner, "the log was quicker: 0 ms")
    yield _row("slot lag at the end", _bytes(audit.lag_bytes), "bytes")


def _row(label: str, number: int | str, remark: str = "") -> str:
    shown = f"{number:,}" if isinstance(number, int) else number
    return f"  {label:<{_LABEL}}{shown:>{_NUMBER}}  {remark}".rstrip()


def _lateness(audit: Audit) -> str:
    if audit.latenesses is None:
        return ""

    least, most = audit.latenesses
    return f"{least:.2f} to {most:.2f} s after they were due"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f}"


def _bytes(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"
