"""Connections of asyncio: opened, and looked at without asking the server."""

import select
from typing import Any

import psycopg
from anyio import to_thread
from psycopg.conninfo import make_conninfo

from pgcdc_outbox.postgres.conninfo import parse
from pgcdc_outbox.postgres.hail import Door
from pgcdc_outbox.postgres.refusal import explain
from pgcdc_outbox.postgres.sqlstate import first_line
from pgcdc_outbox.postgres.statements import Connection

# A half-open connection would otherwise hang a read for hours.
KEEPALIVE = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}


async def connect(
    conninfo: str, *, name: str, doing: str, options: str = "", **more: Any
) -> Connection:
    """Open a connection in autocommit mode. Raises `OutboxError`, without the password."""
    given = parse(conninfo)
    # Whatever the database has: the driver gives bytes for text in SQL_ASCII.
    merged: dict[str, Any] = {
        **KEEPALIVE,
        **given,
        "client_encoding": "UTF8",
        **more,
        "application_name": name,
    }
    if options:
        merged["options"] = " ".join(filter(None, (str(given.get("options", "")), options)))

    conninfo = make_conninfo(**merged)
    try:
        return await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
    except psycopg.OperationalError as error:
        text = f"{doing}: {first_line(str(error))}"
        raise await to_thread.run_sync(
            explain, error, text, conninfo, abandon_on_cancel=True
        ) from error


def door(connection: Connection) -> Door:
    """The very server that it goes, or went, to."""
    info = connection.info
    return Door(
        host=info.host if is_local(connection) else info.hostaddr or info.host,
        port=info.port,
        user=info.user,
        database=info.dbname,
        tls=bool(connection.pgconn.ssl_in_use),
    )


def is_local(connection: Connection) -> bool:
    """Whether it goes through a Unix socket, in the file system or in the abstract."""
    return connection.info.host.startswith(("/", "@"))


def has_ended(connection: Connection) -> bool:
    """Whether one that is idle has ended, as far as that can be told without asking the server."""
    pgconn = connection.pgconn
    if connection.closed:
        return True

    poll = select.poll()
    poll.register(pgconn.socket, select.POLLIN)
    if not poll.poll(0):
        return False

    try:
        # A server says little to an idle session, and mostly that it ends it.
        pgconn.consume_input()
        pgconn.is_busy()
    except psycopg.Error:
        return True

    return connection.closed
