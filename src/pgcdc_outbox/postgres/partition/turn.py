"""Taking turns: one maintainer of an outbox at a time."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Final

import psycopg
from psycopg import Connection

from pgcdc_outbox.postgres.connection import Row, run, session
from pgcdc_outbox.postgres.names import lock_key

_DOING: Final = "take turns at maintaining the partitions"

BESIDE_AUTOVACUUM: Final = timedelta(seconds=5)
"""How long to wait at least for a lock that no producer needs.

After ``deadlock_timeout``, a second, the server ends an autovacuum that is in the way of one.
"""

# Before this version there is no limit to a whole transaction.
_LIMITS_TRANSACTIONS: Final = 17_00_00


class Turn:
    """The right to maintain, which lasts as long as a transaction that is kept open.

    It has a connection of its own. So the lock can be one of a transaction, which
    is given back at once and in order, and which also holds behind a pooler that
    shares connections between transactions. As the transaction neither reads a
    table nor writes, it keeps nobody from vacuuming, and no log.
    """

    def __init__(self, connection: Connection[Row]) -> None:
        self._connection = connection

    def keep(self) -> None:
        """Make sure of it before each step; raises what the driver does if it was lost."""
        self._connection.execute("select")


@contextmanager
def turn(conninfo: str, schema: str) -> Iterator[Turn | None]:
    """Take the turn for the length of a block; None if somebody else has it."""
    with session(conninfo, doing=_DOING) as connection:
        connection.execute("begin")
        be_unhurried(connection)
        row = run(connection, "take_turn", schema, key=lock_key(schema, "maintain")).fetchone()
        try:
            yield Turn(connection) if row is not None and row["taken"] else None
        finally:
            # Said, not left to the end of the connection: that the server may notice later.
            with suppress(psycopg.OperationalError):
                connection.execute("commit")


@contextmanager
def unhurried(connection: Connection[Row]) -> Iterator[None]:
    """A transaction that may take its time, whatever limits the role or the database has."""
    with connection.transaction():
        be_unhurried(connection)
        yield


def be_unhurried(connection: Connection[Row]) -> None:
    """Lift the limits of time for the rest of the transaction, and no longer."""
    names = ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"]
    if connection.info.server_version >= _LIMITS_TRANSACTIONS:
        names.append("transaction_timeout")

    connection.execute("; ".join(f"set local {name} = 0" for name in names).encode())
