"""What a lent connection may not do, whatever its kind."""

from typing import Any, NoReturn

from psycopg import sql

from pgcdc_outbox.errors import TransactionOver, TransactionOwned
from pgcdc_outbox.postgres.effects.keywords import transaction_command


class Loan:
    """Whether a part of a transaction is still going on."""

    __slots__ = ("over",)

    def __init__(self) -> None:
        self.over = False

    def check(self) -> None:
        """Raise `TransactionOver` if it is over."""
        if self.over:
            raise TransactionOver("the transaction of this connection has ended")


def refuse(what: str) -> NoReturn:
    """Raise `TransactionOwned` for what was called or sent."""
    raise TransactionOwned(f"{what}: this transaction belongs to the consumer")


def check_text(query: Any, context: Any) -> None:
    """Raise `TransactionOwned` for a query that begins or ends a transaction."""
    if isinstance(query, sql.Composable):
        query = query.as_string(context)
    elif isinstance(query, bytes):
        query = query.decode("latin-1")

    # A template is left to the last check.
    if isinstance(query, str) and (command := transaction_command(query)):
        refuse(f"execute({command!r})")
