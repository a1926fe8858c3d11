"""Why a server did not let us in.

The driver knows no SQLSTATE of a connection that could not be made, and the text is in
the server's language. So this asks again: once whether the server takes connections at
all, and then as ourselves. From version 18 on libpq's trace shows what is answered; with
an older one whoever was refused twice by a server that takes connections is refused.
All of it blocks, though not the other threads.
"""

import os
import re
import select
import sys
import time
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgcdc_outbox.errors import AccessRefused, OutboxError, SourceUnavailable
from pgcdc_outbox.postgres.access import hba_line
from pgcdc_outbox.postgres.hail import Door
from pgcdc_outbox.postgres.sqlstate import is_transient, unavailable

_SECONDS = 10.0

# The state comes before the message, so no text can pretend to be one.
_ANSWER = re.compile(rb'ErrorResponse\t S "[^"]*" V "[^"]*" C "([0-9A-Z]{5})"')


def explain(error: psycopg.OperationalError, text: str, conninfo: str) -> OutboxError:
    """The error of ours for a connection that could not be made; ``text`` is what was said.

    `AccessRefused` if the server runs and will not have us as long as nobody mends
    it, else `SourceUnavailable`: it does not answer, is starting, stopping or full.
    """
    tried = error.pgconn
    if tried is None or isinstance(error, psycopg.errors.ConnectionTimeout):
        # Nobody there, or no such host: it would only cost the same time again.
        return SourceUnavailable(text)

    # The very server that refused, without looking up its name again.
    host, address, port = (_text(part) for part in (tried.host, tried.hostaddr, tried.port))
    given: dict[str, Any] = conninfo_to_dict(conninfo)
    mode = str(given.get("sslmode") or os.environ.get("PGSSLMODE") or "prefer")
    door = Door(
        host=host if host.startswith(("/", "@")) else address or host,
        port=int(port or 5432),
        user=_text(tried.user),
        database=_text(tried.db),
        tls=mode not in ("disable", "allow"),
    )
    state = door.hail()
    if state is None or (state and is_transient(state)):
        return SourceUnavailable(text) if state is None else unavailable(state, text)

    given |= {"host": host, "port": port} | ({"hostaddr": address} if address else {})
    refused, told = _ask(make_conninfo(**given))
    if not refused:
        return SourceUnavailable(text)

    state = told or state
    return (
        unavailable(state, text)
        if is_transient(state)
        else AccessRefused(text, hint=_hint(state, text))
    )


def _text(value: bytes | None) -> str:
    return (value or b"").decode()


def _hint(state: str, text: str) -> str | None:
    if line := hba_line(text):
        return f"Add to pg_hba.conf: {line} -- and then: select pg_reload_conf();"

    match state:
        case "28P01":
            return "Check user and password; the role may not exist."
        case "28000":
            return "Check that the role exists and may log in, and pg_hba.conf."
        case "3D000":
            return "Create the database, or correct its name."
        case "42501":
            return "grant connect on database; a consumer's role needs REPLICATION, too."
        case _:
            return None


def _ask(conninfo: str) -> tuple[bool, str | None]:
    """Connect once more: whether that was refused, and with which SQLSTATE, if it can be told."""
    file = os.memfd_create("trace") if _can_trace() else None
    connection = pq.PGconn.connect_start(conninfo.encode())
    try:
        if file is not None:
            connection.trace(file)

        refused = not _connects(connection)
        if file is None:
            return refused, None

        connection.untrace()
        states = _ANSWER.findall(os.pread(file, os.fstat(file).st_size, 0))
        return refused, states[-1].decode() if states else None
    finally:
        connection.finish()
        if file is not None:
            os.close(file)


def _can_trace() -> bool:
    # Before version 18 libpq did not trace how a connection is made.
    return sys.platform == "linux" and pq.version() >= 180000


def _connects(connection: pq.abc.PGconn) -> bool:
    deadline = time.monotonic() + _SECONDS
    while (left := deadline - time.monotonic()) > 0:
        match connection.connect_poll():
            case pq.PollingStatus.OK:
                return True
            case pq.PollingStatus.READING:
                select.select([connection.socket], [], [], left)
            case pq.PollingStatus.WRITING:
                select.select([], [connection.socket], [], left)
            case _:
                return False

    # No answer is not a refusal.
    return True
