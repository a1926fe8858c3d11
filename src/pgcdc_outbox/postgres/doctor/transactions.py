"""Transactions that are open for long: they hold the log, or keep vacuum from its work."""

from collections.abc import Iterator

from psycopg import sql

from pgcdc_outbox.postgres.connection import Row
from pgcdc_outbox.postgres.doctor.finding import Finding, note, ok, warning
from pgcdc_outbox.postgres.doctor.look import Look, spelled


def transactions(look: Look) -> Iterator[Finding]:
    """Nobody has been writing, or reading, for long. Anywhere in the cluster."""
    found = [finding for row in look.rows("doctor_writers") for finding in _judged(look, row)]
    yield from found or [ok("no transaction is open for long")]


def prepared_transactions(look: Look) -> Iterator[Finding]:
    """No prepared transaction was forgotten."""
    longest = look.limits.writing.total_seconds()
    found = [row for row in look.rows("doctor_prepared") if row["age_seconds"] >= longest]
    if not found:
        yield ok("no prepared transaction was forgotten")

    for row in found:
        gid = sql.Literal(row["gid"]).as_string(None)
        yield warning(
            f"transaction {row['gid']} of {row['role']} was prepared "
            f"{_long(row['age_seconds'])} ago",
            f"-- in database {row['database']}, or `commit prepared`, as its coordinator says:",
            f"rollback prepared {gid};",
            detail=_HOLDS,
        )


def visibility(look: Look) -> Iterator[Finding]:
    """We see everybody's transactions."""
    if look.row("doctor_sees_everybody")["sees"]:
        yield ok("the transactions of every role can be seen")
        return

    role = spelled(look.server.role)
    yield note(
        "the transactions of other roles cannot be seen",
        f"grant pg_read_all_stats to {role};",
        detail="One of them may hold the log.",
    )


_HOLDS = "It keeps the log from where it began, and no slot can be made until it ends."


def _judged(look: Look, row: Row) -> Iterator[Finding]:
    age = row["age_seconds"]
    who = " ".join(
        str(word)
        for word in (row["state"], "in", row["database"], "by", row["role"], row["application"])
        if word
    )
    remedy = f"select pg_terminate_backend({row['pid']});"
    if row["writes"] and age >= look.limits.writing.total_seconds():
        yield warning(
            f"pid {row['pid']} has been writing for {_long(age)}: {who}", remedy, detail=_HOLDS
        )
    elif age >= look.limits.reading.total_seconds():
        yield note(
            f"pid {row['pid']} has kept a snapshot for {_long(age)}: {who}",
            remedy,
            detail="Vacuum cannot remove what it may still see.",
        )


def _long(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


CHECKS = (visibility, transactions, prepared_transactions)
