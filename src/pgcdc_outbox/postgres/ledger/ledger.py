"""Where failures become durable: one statement for each batch."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

import msgspec

from pgcdc_outbox.core.call import Execution
from pgcdc_outbox.core.once import IN_DOUBT
from pgcdc_outbox.core.verdict import Failure
from pgcdc_outbox.errors import Fenced, OutboxError
from pgcdc_outbox.job import JSON_TYPE, Failing, Job
from pgcdc_outbox.outcome import Dead, Retry, Snooze
from pgcdc_outbox.postgres.queries import query
from pgcdc_outbox.postgres.sqlstate import ledger_error
from pgcdc_outbox.postgres.statements import Params, Row

# The first error tells what went wrong, the last ones what goes wrong now.
_HISTORY_LIMIT = 50

# Encodings that take any text: in SQL_ASCII bytes are bytes.
_UNICODE = ("UTF8", "SQL_ASCII")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

# A date that PostgreSQL can express, whatever a handler asks for: ten years.
_LONGEST_DELAY = 10 * 366 * 86400.0


class Runs(Protocol):
    """What runs the statements: a `Session`, or a transaction that is open."""

    async def row(self, statement: str, params: Params = None, *, doing: str) -> Row:
        """Run a statement that gives exactly one row."""
        ...

    async def encoding(self, *, doing: str) -> str:
        """How the database keeps text."""
        ...


class PostgresLedger:
    """Writes to ``failed`` and ``dead_letter``, under the epoch of the hold."""

    def __init__(
        self,
        session: Runs,
        *,
        consumer: str,
        schema: str,
        instance: str,
        holds_keys: bool = False,
    ) -> None:
        """``holds_keys`` says whether others of a key wait for one that is due again."""
        self._session = session
        self._holds_keys = holds_keys
        self._consumer = consumer
        self._instance = instance
        self._record = query("record", schema)
        self._record_done = query("record_done", schema)
        self._record_attempts = query("record_attempts", schema)
        self._current = query("current_epoch", schema)

    async def record(self, failures: Sequence[Failure], *, epoch: int) -> None:
        """Write all of them, or none; an attempt that is known already is passed over.

        Raises `Fenced` for an old epoch, `LedgerUnavailable` when trying again
        may help, and other `OutboxError` when it will not.
        """
        try:
            unicode = await self._session.encoding(doing="record outcomes") in _UNICODE
            (held,) = await self._session.row(
                self._record,
                {
                    "consumer": self._consumer,
                    "epoch": epoch,
                    "instance": self._instance,
                    "holds": self._holds_keys,
                    **_columns(failures, unicode=unicode),
                    **_calls(failures),
                },
                doing="record outcomes",
            )
        except OutboxError as error:
            raise ledger_error(error) from error

        if not held:
            raise Fenced(f"consumer {self._consumer}: epoch {epoch} is over")

    async def record_done(self, jobs: Sequence[Job], *, epoch: int) -> int:
        """Write that attempts succeeded; how many of them were not known to. Raises as `record`."""
        ids = [job.id for job in jobs]
        attempts = [job.attempt for job in jobs]
        params = {"consumer": self._consumer, "epoch": epoch, "ids": ids, "attempts": attempts}
        try:
            held, fresh = await self._session.row(
                self._record_done, params, doing="record what is done"
            )
        except OutboxError as error:
            raise ledger_error(error) from error

        if not held:
            raise Fenced(f"consumer {self._consumer}: epoch {epoch} is over")

        return int(fresh)

    async def record_attempts(self, execution: Execution) -> None:
        """Keep what succeeded for the audit; where a transaction is open, in it."""
        jobs, call = execution.jobs, execution.call
        params = {
            "consumer": self._consumer,
            "instance": self._instance,
            "ids": [job.id for job in jobs],
            "attempts": [job.attempt for job in jobs],
            "topics": [job.topic for job in jobs],
            "keys": [job.key for job in jobs],
            "age": time.perf_counter() - call.began,
            "seconds": call.seconds,
            "jobs": execution.shared,
        }
        try:
            await self._session.row(
                self._record_attempts, params, doing="write down what was executed"
            )
        except OutboxError as error:
            raise ledger_error(error) from error

    async def check(self, *, epoch: int) -> None:
        """Raise `Fenced` if another hold has begun, `OutboxError` if nobody can tell."""
        (current,) = await self._session.row(
            self._current, {"consumer": self._consumer}, doing="look at the epoch"
        )
        if current != epoch:
            raise Fenced(f"consumer {self._consumer}: epoch {epoch} is over")


def _columns(failures: Sequence[Failure], *, unicode: bool) -> dict[str, list[object]]:
    # A message that the database cannot spell must not keep its job from being recorded.
    spell = str if unicode else ascii_only
    jobs = [failure.job for failure in failures]
    fates = [failure.fate for failure in failures]
    return {
        **job_columns(jobs),
        "parked": [job.parked for job in jobs],
        "prior_attempts": [
            job.prior_attempts + isinstance(fate, Snooze)
            for job, fate in zip(jobs, fates, strict=True)
        ],
        "delays": [_delay(fate) for fate in fates],
        "due_us": [_due_us(fate) for fate in fates],
        "reasons": [spell(fate.reason) if isinstance(fate, Dead) else None for fate in fates],
        # To be put off is no error.
        "errors": [
            None if isinstance(failure.fate, Snooze) else spell(failure.error)
            for failure in failures
        ],
        "texts": [spell(failure.text) for failure in failures],
        "jobs": [failure.jobs for failure in failures],
    }


def job_columns(jobs: Sequence[Job]) -> dict[str, list[object]]:
    """What a table keeps of a job, as arrays."""
    return {
        "ids": [job.id for job in jobs],
        "attempts": [job.attempt for job in jobs],
        "prior_attempts": [job.prior_attempts for job in jobs],
        "created_us": [job.created_us for job in jobs],
        "topics": [job.topic for job in jobs],
        "payloads": [job.payload for job in jobs],
        "keys": [job.key for job in jobs],
        "headers": [_json(job.headers) if job.headers else None for job in jobs],
        "content_types": [
            None if job.content_type == JSON_TYPE else job.content_type for job in jobs
        ],
        "expires_us": [job.expires_us for job in jobs],
        "histories": [_json(_bounded(job.errors)) for job in jobs],
    }


def _calls(failures: Sequence[Failure]) -> dict[str, list[object]]:
    """What is to be kept about the calls, for the audit: null for those that are not."""
    now = time.perf_counter()
    calls = [failure.call for failure in failures]
    return {
        "outcomes": [_outcome(failure.fate) for failure in failures],
        # How long ago, because the clock that counts is the server's.
        "ages": [None if call is None else now - call.began for call in calls],
        "seconds": [None if call is None else call.seconds for call in calls],
    }


def _outcome(fate: Retry | Dead | Snooze) -> str:
    if isinstance(fate, Dead) and fate.reason == IN_DOUBT:
        return IN_DOUBT

    return type(fate).__name__.lower()


def ascii_only(text: str) -> str:
    """The text with everything else escaped as Python does."""
    return text.encode("ascii", "backslashreplace").decode("ascii")


def _delay(fate: Retry | Dead | Snooze) -> float | None:
    """Seconds until the next attempt; None for no further one."""
    return None if isinstance(fate, Dead) else min(fate.after or 0.0, _LONGEST_DELAY)


def _due_us(fate: Retry | Dead | Snooze) -> int | None:
    """The moment of the next attempt, if one is given: microseconds since 1970."""
    until = fate.until if isinstance(fate, Snooze) else None
    return None if until is None else (until - _EPOCH) // _MICROSECOND


def _bounded(errors: Sequence[Failing]) -> Sequence[Failing]:
    if len(errors) < _HISTORY_LIMIT:
        return errors

    return [errors[0], *errors[2 - _HISTORY_LIMIT :]]


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
