"""Plain connections for commands and maintenance: opened, mapped and closed in one place."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import ClientCursor, Connection, IsolationLevel, errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import DictRow, dict_row

from pgcdc_outbox.errors import (
    OutboxError,
    PermissionMissing,
    SchemaBehind,
    SourceUnavailable,
)
from pgcdc_outbox.postgres.conninfo import parse
from pgcdc_outbox.postgres.names import publication_name
from pgcdc_outbox.postgres.opening import KEEPALIVE
from pgcdc_outbox.postgres.queries import query
from pgcdc_outbox.postgres.refusal import explain
from pgcdc_outbox.postgres.sqlstate import map_error

Row = DictRow

_DEFAULTS: Final[dict[str, Any]] = {**KEEPALIVE, "fallback_application_name": "pgcdc-outbox"}


def connect(conninfo: str, **more: str) -> Connection[Row]:
    """Connect in autocommit mode. Whatever ``conninfo`` leaves open, libpq's PG* variables give.

    ``more`` are further parameters of libpq, which ``conninfo`` does not override.

    Parameters are bound by the client, so that statements such as CREATE TABLE
    can have some. Raises `SourceUnavailable`, `PermissionMissing` or
    `SettingsError`, none of which holds the password.
    """
    parameters = parse(conninfo)
    try:
        connection = Connection[Row].connect(
            **_DEFAULTS | parameters | {"client_encoding": "utf8"} | more,
            autocommit=True,
            row_factory=dict_row,
            cursor_factory=ClientCursor,
        )
    except psycopg.OperationalError as error:
        # Not chained: what libpq says may quote what it was given.
        text = _one_line(_struck_out(str(error), parameters))
        raise explain(error, text, make_conninfo(**_DEFAULTS | parameters)) from None

    # Whoever waited for a lock must see what its holder did.
    connection.isolation_level = IsolationLevel.READ_COMMITTED
    return connection


@contextmanager
def session(conninfo: str, *, doing: str) -> Iterator[Connection[Row]]:
    """A connection for one errand; errors of the driver leave as errors of this library."""
    connection = connect(conninfo)
    try:
        yield connection
    except psycopg.Error as error:
        raise translate(error) or map_error(error, doing=doing) from error
    finally:
        connection.close()


def run(
    connection: Connection[Row],
    name: str,
    schema: str,
    /,
    *,
    partition: str = "",
    parent: str = "immediate",
    moment: str = "created_at",
    **parameters: Any,
) -> psycopg.Cursor[Row]:
    """Execute the statement called ``name``.

    ``partition``, ``parent`` and ``moment`` replace ``:"partition"``, ``:"parent"`` and
    ``:"moment"``: a partition, the table that it is one of, and the column that decides.
    """
    # Parameters are always given, so "%" is always read as a marker: it is doubled in names.
    text = query(name, schema).replace(':"publication"', quoted(publication_name(schema)))
    text = text.replace(':"parent"', quoted(parent)).replace(':"moment"', quoted(moment))
    if partition:
        text = text.replace(':"partition"', quoted(partition).replace("%", "%%"))

    return connection.execute(text.encode(), parameters)


def quoted(name: str) -> str:
    """An identifier as SQL spells it."""
    return psycopg.sql.Identifier(name).as_string(None)


def check_conninfo(conninfo: str) -> None:
    """Raise `SettingsError` for a connection string that makes no sense, without quoting it."""
    parse(conninfo)


def redact(text: str, conninfo: str) -> str:
    """The text, with the password of a connection string struck out, wherever it came from."""
    try:
        return _struck_out(text, conninfo_to_dict(conninfo))
    except psycopg.ProgrammingError:
        return text.replace(conninfo, "***")


def translate(error: psycopg.Error) -> OutboxError | None:
    """What an error of the driver means here; None if it means nothing in particular."""
    text = _one_line(error.diag.message_primary or str(error))
    match error:
        case errors.InsufficientPrivilege():
            return PermissionMissing(
                text, hint="Run it as the owner of the outbox, or see the grants in sql/roles.sql."
            )
        case errors.ReadOnlySqlTransaction():
            return SourceUnavailable(text, hint="This server is a standby: connect to the primary.")
        case errors.UndefinedTable() | errors.InvalidSchemaName() | errors.UndefinedColumn():
            return SchemaBehind(text)
        case psycopg.OperationalError():
            return SourceUnavailable(text)
        case _:
            return None


def _struck_out(text: str, parameters: dict[str, Any]) -> str:
    password = str(parameters.get("password") or "")
    if not password:
        return text

    # As a word: striking out every "a" would tell the password rather than hide it.
    return re.sub(rf"(?<!\w){re.escape(password)}(?!\w)", "***", text)


def _one_line(text: str) -> str:
    return " ".join(text.split())
