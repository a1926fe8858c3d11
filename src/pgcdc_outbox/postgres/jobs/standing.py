"""What one job is to one consumer, judged by what the tables say."""

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from pgcdc_outbox.job import Failing
from pgcdc_outbox.postgres.jobs.consumers import Reader
from pgcdc_outbox.postgres.jobs.found import Attempted, Found, Line, Running, Waiting

IN_LINE = "in_line"

_GONE = (
    "handled, and its partition was dropped; or its transaction was rolled back. "
    "With audit=all its attempts would be here, for as long as they are kept"
)


class Try(Struct, frozen=True, kw_only=True):
    """One attempt, as far as it is known."""

    attempt: int
    outcome: str
    started_at: datetime | None = None
    """None if only its failure was kept with the job, and not the execution."""
    seconds: float | None = None
    instance: str | None = None
    recorded_at: str | None = None
    """When its failure was recorded, if that is kept with the job."""
    jobs: int = 1
    """How many jobs shared the call."""
    error: str | None = None
    text: str | None = None


class Standing(Struct, frozen=True, kw_only=True):
    """Where one job is for one consumer."""

    consumer: str
    state: str
    """``scheduled``, ``in_line``, ``running``, ``failed``, ``parked``, ``dead``, ``done``,
    ``settled`` (handled, or given up and discarded) or ``gone``."""
    about: str
    """The state in a sentence."""
    attempt: int | None
    """The attempt that the state is about."""
    due_at: datetime | None = None
    since: datetime | None = None
    reason: str | None = None
    behind: int | None = None
    instance: str | None = None
    """Who runs it, or holds the consumer."""
    passed: bool | None = None
    """Whether its checkpoint or its slot has passed the last row; None without a row."""
    checkpoint_at: datetime | None = None
    confirmed: str | None = None
    attempts: tuple[Try, ...] = ()


class _Verdict(Struct, frozen=True, kw_only=True):
    state: str
    about: str
    attempt: int | None
    due_at: datetime | None = None
    since: datetime | None = None
    reason: str | None = None
    behind: int | None = None
    instance: str | None = None


def standing(reader: Reader, found: Found) -> Standing:
    """Judge one job for one consumer."""
    lines = [line for line in found.lines if line.consumer in (None, reader.name)]
    last = max(lines, key=lambda line: (line.attempt, line.created_at), default=None)
    verdict = (
        _waiting(reader, found)
        or _running(reader, found, last)
        or _in_line(reader, found, last)
        or _past(reader, found, last)
    )
    return Standing(
        consumer=reader.name,
        state=verdict.state,
        about=verdict.about,
        attempt=verdict.attempt,
        due_at=verdict.due_at,
        since=verdict.since,
        reason=verdict.reason,
        behind=verdict.behind,
        instance=verdict.instance,
        passed=None if last is None else _has_passed(reader, found, last),
        checkpoint_at=reader.checkpoint_at,
        confirmed=reader.confirmed,
        attempts=_tries(reader.name, found, lines),
    )


def _waiting(reader: Reader, found: Found) -> _Verdict | None:
    """Scheduled, failed, parked or dead: a row says so."""
    mine = [each for each in found.waiting if each.consumer in (None, reader.name)]
    if not mine:
        return None

    row = mine[0]
    return _Verdict(
        state=row.place,
        about=_about(row),
        attempt=row.attempt,
        due_at=row.due_at,
        since=row.since,
        reason=row.reason,
        behind=row.behind,
    )


def _about(row: Waiting) -> str:
    match row.place:
        case "scheduled":
            return f"scheduled for {_second(row.due_at)}"
        case "failed":
            return f"attempt {row.attempt} failed; the next one is due {_second(row.due_at)}"
        case "parked":
            holder = "another of its key" if row.behind is None else f"job {row.behind}"
            return f"parked behind {holder} since {_second(row.since)}"
        case _:
            return f"dead since {_second(row.since)}: {row.reason}"


def _running(reader: Reader, found: Found, last: Line | None) -> _Verdict | None:
    note = next((each for each in found.running if each.consumer == reader.name), None)
    if note is None or (last is not None and _has_passed(reader, found, last)):
        return None

    return _Verdict(
        state="running",
        about=_running_since(note),
        attempt=note.attempt,
        since=note.started_at,
        instance=note.instance,
    )


def _running_since(note: Running) -> str:
    return (
        f"attempt {note.attempt} was begun by {note.instance} at {_second(note.started_at)}, "
        "and is not known to have ended"
    )


def _in_line(reader: Reader, found: Found, last: Line | None) -> _Verdict | None:
    if last is None or _has_passed(reader, found, last):
        return None

    holder = (
        f"{reader.instance} may be executing it"
        if reader.instance is not None and reader.released_at is None
        else "the consumer does not run"
    )
    return _Verdict(
        state=IN_LINE,
        about=f"in line for attempt {last.attempt}, in {last.partition}; {holder}",
        attempt=last.attempt,
        since=last.created_at,
        instance=reader.instance if reader.released_at is None else None,
    )


def _past(reader: Reader, found: Found, last: Line | None) -> _Verdict:
    """It is in no place where it waits: what can be told of its end?"""
    attempts = [each for each in found.attempts if each.consumer == reader.name]
    final = attempts[-1] if attempts else None
    if final is not None and final.outcome == "done":
        about = f"attempt {final.attempt} succeeded at {_second(final.started_at)}"
        return _Verdict(state="done", about=about, attempt=final.attempt, since=final.started_at)

    if final is not None and final.outcome in ("dead", "in_doubt"):
        about = f"attempt {final.attempt} was the last, and its dead letter was discarded"
        return _Verdict(state="settled", about=about, attempt=final.attempt)

    if final is not None and (last is None or last.attempt <= final.attempt):
        about = f"attempt {final.attempt} failed, and the job was cancelled since"
        return _Verdict(state="settled", about=about, attempt=final.attempt)

    if last is not None:
        about = f"settled: attempt {last.attempt} ended without a failure, or it was discarded"
        return _Verdict(state="settled", about=about, attempt=last.attempt)

    if reader.name in found.traces:
        attempt = found.traces[reader.name]
        about = f"settled after attempt {attempt}: handled, cancelled or discarded"
        return _Verdict(state="settled", about=about, attempt=attempt)

    if found.looked_back_to is not None:
        about = (
            f"not found among rows since {_second(found.looked_back_to)}; there was no more time"
        )
        return _Verdict(state="gone", about=about, attempt=None)

    return _Verdict(state="gone", about=_GONE, attempt=None)


def _has_passed(reader: Reader, found: Found, line: Line) -> bool:
    """Whether nothing is left to be done about a row."""
    return (
        reader.at_the_end
        or reader.name in line.passed
        or found.traces.get(reader.name, 0) >= line.attempt
        or any(
            each.consumer == reader.name and each.attempt >= line.attempt for each in found.attempts
        )
    )


def _tries(consumer: str, found: Found, lines: Sequence[Line]) -> tuple[Try, ...]:
    """Every attempt that is known: those that were audited, and failures kept with the job."""
    audited = [_audited(each) for each in found.attempts if each.consumer == consumer]
    known = {each.attempt for each in audited}
    kept: dict[int, Failing] = {}
    rows: list[Waiting | Line] = [*lines]
    rows += [each for each in found.waiting if each.consumer == consumer]
    for row in rows:
        kept.update((failing.attempt, failing) for failing in row.errors)

    failed = [_kept(failing) for failing in kept.values() if failing.attempt not in known]
    return tuple(sorted([*audited, *failed], key=lambda each: each.attempt))


def _audited(each: Attempted) -> Try:
    return Try(
        attempt=each.attempt,
        outcome=each.outcome,
        started_at=each.started_at,
        seconds=each.seconds,
        instance=each.instance,
        jobs=each.jobs,
        error=each.error,
        text=each.text,
    )


def _kept(failing: Failing) -> Try:
    return Try(
        attempt=failing.attempt,
        outcome="failed",
        recorded_at=failing.at,
        jobs=failing.jobs,
        error=failing.error,
        text=failing.text,
    )


def _second(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S%z}"
