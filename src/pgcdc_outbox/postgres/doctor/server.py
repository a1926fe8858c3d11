"""The server and the way to it."""

from collections.abc import Iterator
from datetime import UTC, timedelta

import psycopg
from psycopg import pq

from pgcdc_outbox.errors import OutboxError
from pgcdc_outbox.pgoutput import commands
from pgcdc_outbox.postgres.connection import connect
from pgcdc_outbox.postgres.doctor import releases
from pgcdc_outbox.postgres.doctor.finding import Finding, note, ok, problem, warning
from pgcdc_outbox.postgres.doctor.look import Look
from pgcdc_outbox.postgres.sqlstate import map_error, map_result


def connection(look: Look) -> Iterator[Finding]:
    """Where we are connected, and as whom."""
    server = look.server
    yield ok(f"connected to database {server.database} as {server.role}")


def replication_connection(look: Look) -> Iterator[Finding]:
    """The role gets a connection of the kind that a consumer reads from."""
    may, role = _may_replicate(look)
    if not may:
        yield problem(
            f"role {role} may not replicate",
            f"alter role {role} replication;",
            "-- on RDS instead: grant rds_replication to " + f"{role};",
            detail="A consumer cannot open its replication connection.",
        )
        return

    if why := _why_no_replication(look):
        yield problem(
            "a replication connection is refused",
            detail=f"{why}. It has to be a direct one, not through a pooler, and counts towards "
            "max_wal_senders.",
        )
    else:
        yield ok("a replication connection is to be had")


def version(look: Look) -> Iterator[Finding]:
    """The server is one that this library is tested with."""
    server = look.server
    name = f"PostgreSQL {server.version}"
    if server.major < releases.OLDEST:
        yield problem(f"{name} is too old", f"# upgrade to PostgreSQL {releases.NEWEST}")
    elif server.major > releases.NEWEST:
        yield warning(f"{name} is newer than what this version was tested with")
    else:
        yield ok(name)


def known_bugs(look: Look) -> Iterator[Finding]:
    """The release has none that concern us."""
    found = [*releases.server(look.server.major, look.server.minor)]
    yield from found or [ok("no known trouble with this release")]


def client_library(look: Look) -> Iterator[Finding]:
    """psycopg and libpq."""
    version = pq.version()
    found = [*releases.libpq(version, tls=bool(look.connection.pgconn.ssl_in_use))]
    if pq.__impl__ == "python":
        found.append(
            note(
                "psycopg runs without its C part",
                "pip install 'psycopg[binary]'",
                detail="It works, and takes about half as long again for each row.",
            )
        )

    major, minor = divmod(version, 10000)
    name = f"psycopg {psycopg.__version__} ({pq.__impl__}), libpq {major}.{minor}"
    yield from found or [ok(name)]


def primary(look: Look) -> Iterator[Finding]:
    """The server is one that can be written to."""
    if not look.server.standby:
        yield ok("the server is a primary")
        return

    yield problem(
        "the server is a standby",
        "# in the DSN, with every host in it: target_session_attrs=read-write",
        detail="A consumer waits until it is promoted. What is said below is of the standby.",
    )


def clock(look: Look) -> Iterator[Finding]:
    """The clocks of server and client agree."""
    before = look.clock()
    now = look.row("doctor_now")["now"].replace(tzinfo=UTC)
    after = look.clock()
    ahead: timedelta = max(now - after, before - now, timedelta())
    if ahead <= look.limits.skew:
        yield ok("the clocks of server and client agree")
        return

    yield warning(
        f"the clocks of server and client are {ahead.total_seconds():.0f} s apart",
        "# let both keep time by NTP: timedatectl set-ntp true",
        detail="Jobs are due by the clock of the server; a run_at that a client computes is off.",
    )


def encoding(look: Look) -> Iterator[Finding]:
    """The database keeps text as UTF-8."""
    if look.server.encoding == "UTF8":
        yield ok("the database is encoded in UTF8")
        return

    yield note(
        f"the database is encoded in {look.server.encoding}",
        detail="Topics, keys and errors can only hold what that encoding has. "
        "Payloads are bytes, and not concerned.",
    )


def _may_replicate(look: Look) -> tuple[bool, str]:
    role, may = look.row("may_replicate").values()
    return may, role


def _why_no_replication(look: Look) -> str:
    """What the server answers who asks for such a connection; empty if it is well."""
    try:
        opened = connect(look.conninfo, replication="database")
    except OutboxError as error:
        return str(error)

    try:
        result = opened.pgconn.exec_(commands.identify_system().encode())
        if result.status != pq.ExecStatus.TUPLES_OK:
            return str(map_result(result, doing="identify the system"))
    except psycopg.Error as error:
        return str(map_error(error, doing="identify the system"))
    finally:
        opened.close()

    return ""


CHECKS = (
    connection,
    replication_connection,
    version,
    known_bugs,
    client_library,
    primary,
    clock,
    encoding,
)
