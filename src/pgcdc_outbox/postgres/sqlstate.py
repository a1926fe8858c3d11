"""Driver errors in our words: the one place where they are mapped."""

import psycopg
from psycopg import pq

from pgcdc_outbox.errors import (
    LedgerUnavailable,
    OutboxError,
    PermissionMissing,
    SchemaBehind,
    SettingsError,
    SlotBlocked,
    SlotInUse,
    SlotInvalidated,
    SlotMissing,
    SourceUnavailable,
)

# Classes of SQLSTATE (manual, appendix A) whose errors pass: connection trouble,
# a transaction that lost a race, resources, an operator, the system. And two limits of
# time that end the connection, too.
_TRANSIENT = ("08", "40", "53", "57", "58", "25P03", "25P04")


def map_error(error: psycopg.Error, *, doing: str) -> OutboxError:
    """The error of ours for one of the driver's."""
    message = first_line(error.diag.message_primary or str(error))
    return error_for(error.sqlstate, message, doing=doing, lost=_is_lost(error))


def map_result(result: pq.abc.PGresult, *, doing: str) -> OutboxError:
    """The error of ours for a failed result of a replication command."""
    state = result.error_field(pq.DiagnosticField.SQLSTATE)
    message = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.error_message
    return error_for(
        state.decode("ascii") if state else None,
        first_line(message.decode("utf-8", "replace")),
        doing=doing,
        lost=not state,
    )


def error_for(state: str | None, message: str, *, doing: str, lost: bool = False) -> OutboxError:
    """The error of ours for a SQLSTATE. Never by the text: it is translated and changes."""
    text = f"{doing}: {message}"
    match state:
        case "55006":
            return SlotInUse(text)
        case "55P03":
            return SlotBlocked(
                text,
                hint="A transaction that writes has been open for long (see pg_stat_activity); "
                "this is tried again.",
            )
        case "42704":
            return SlotMissing(text)
        case "55000":
            return SlotInvalidated(text)
        case "42501":
            return PermissionMissing(text, hint="Grant what is missing: see sql/roles.sql.")
        case "28000" | "28P01":
            return PermissionMissing(
                text, hint="Check user, password and pg_hba.conf; the role needs REPLICATION too."
            )
        case "3D000":
            return SettingsError(text, hint="Create the database, or correct the connection.")
        case "42P01" | "3F000" | "42703" | "42883":
            return SchemaBehind(text)
        case None:
            return SourceUnavailable(text)

    if lost or is_transient(state):
        return unavailable(state, text)

    return OutboxError(text, hint="This is not expected; please report it with the server's log.")


def is_transient(state: str) -> bool:
    """Whether an error of this SQLSTATE passes."""
    return state.startswith(_TRANSIENT)


def unavailable(state: str, text: str) -> SourceUnavailable:
    """The error of ours for a SQLSTATE that passes, with a hint for what a person can do."""
    match state:
        case "53300":
            hint = (
                "All connections are taken: raise max_connections, max_wal_senders, or the limit "
                "of the role or the database (manual: alter role, alter database)."
            )
        case "53400":
            hint = (
                "All replication slots are taken: raise max_replication_slots, or drop one that "
                "nobody needs (see pg_replication_slots)."
            )
        case "57P03":
            hint = "The server is starting or shutting down; this is tried again."
        case _:
            return SourceUnavailable(text)

    return SourceUnavailable(text, hint=hint)


def ledger_error(error: OutboxError) -> OutboxError:
    """The same error, as the ledger tells it: transient trouble leaves the batch unacknowledged.

    One that does not pass is raised here, as it is: from itself it would be its own cause.
    """
    if isinstance(error, SourceUnavailable):
        return LedgerUnavailable(str(error))

    raise error


def _is_lost(error: psycopg.Error) -> bool:
    return isinstance(error, psycopg.OperationalError) and error.sqlstate is None


def first_line(text: str) -> str:
    """The text without its line breaks."""
    return " ".join(text.split())
