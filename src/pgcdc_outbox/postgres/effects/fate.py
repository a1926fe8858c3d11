"""What became of a transaction whose connection was lost at its commit."""

from typing import Final

import psycopg

from pgcdc_outbox.errors import LedgerUnavailable, OutboxError
from pgcdc_outbox.job import Job
from pgcdc_outbox.postgres.queries import query
from pgcdc_outbox.postgres.session import Session
from pgcdc_outbox.postgres.sqlstate import ledger_error

_DOING: Final = "find out whether effects were committed"


async def was_committed(
    session: Session, xid: str, job: Job, *, consumer: str, schema: str
) -> bool:
    """Whether a transaction was committed in which the outcome of ``job`` was written.

    Raises `LedgerUnavailable` while nobody can tell: the server cannot be reached, or
    the transaction is still in progress.

    The number alone is no proof. After a failover the server may have given it to
    somebody else. It is asked for first, because only what has ended can be looked
    for, and the row that it wrote then is the proof.
    """
    about = {"consumer": consumer, "id": job.id, "attempt": job.attempt}
    try:
        if await _is_in_progress(session, xid, schema):
            raise LedgerUnavailable(f"{_DOING}: transaction {xid} is in progress")

        (recorded,) = await session.row(query("is_recorded", schema), about, doing=_DOING)
    except OutboxError as error:
        raise ledger_error(error) from error

    return bool(recorded)


async def _is_in_progress(session: Session, xid: str, schema: str) -> bool:
    try:
        (status,) = await session.row(query("xact_status", schema), {"xid": xid}, doing=_DOING)
    except OutboxError as error:
        cause = error.__cause__
        if isinstance(cause, psycopg.errors.InvalidParameterValue):
            # In the future: a crash has taken the number back, and all it wrote.
            return False

        raise

    return bool(status == "in progress")
