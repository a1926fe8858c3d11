"""The examination: every check in turn, none of which can spoil another."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import psycopg
from msgspec import Struct
from msgspec.structs import replace

from pgcdc_outbox.postgres.connection import session
from pgcdc_outbox.postgres.doctor import (
    catalog,
    consumers,
    failover,
    partitions,
    publication,
    role,
    schema,
    server,
    settings,
    slots,
    transactions,
)
from pgcdc_outbox.postgres.doctor.finding import Finding, Result, note
from pgcdc_outbox.postgres.doctor.look import Clock, Limits, Look, utc_now
from pgcdc_outbox.postgres.migrate import check_schema

Check = Callable[[Look], Iterator[Finding]]

# What does not depend on there being an outbox.
_SURROUNDINGS: Final[dict[str, tuple[Check, ...]]] = {
    "server": server.CHECKS,
    "settings": settings.CHECKS,
    "transactions": transactions.CHECKS,
}
_OUTBOX: Final[dict[str, tuple[Check, ...]]] = {
    "role": role.CHECKS,
    "publication": publication.CHECKS,
    "partitions": partitions.CHECKS,
    "slots": slots.CHECKS,
    "consumers": consumers.CHECKS,
    "failover": failover.CHECKS,
}

# Nobody is kept waiting by a look, and a look does not wait for ever.
_SETUP: Final = (
    b"set default_transaction_read_only = on",
    b"set lock_timeout = '3s'",
    b"set statement_timeout = '30s'",
)

# What one check may run into while the others go on, by its SQLSTATE: a right that the
# role does not have, something missing or altered, a lock that somebody holds for long.
_CANNOT_TELL: Final = ("42", "55", "57014")


class Examination(Struct, frozen=True, kw_only=True):
    """What was found, in the order in which it should be mended."""

    schema: str
    findings: tuple[Finding, ...]

    @property
    def result(self) -> Result:
        """The worst of it."""
        found = {finding.result for finding in self.findings}
        return next(each for each in reversed(Result) if each in found)


def examine(
    conninfo: str,
    *,
    schema: str = "outbox",
    name: str | None = None,
    limits: Limits | None = None,
    clock: Clock = utc_now,
) -> Examination:
    """Check everything around an outbox and in it; changes nothing.

    ``name`` asks about one consumer, whether it has run or not; without it about
    all that are registered. Raises `OutboxError` if the server cannot be reached.
    """
    check_schema(schema)
    with session(conninfo, doing="examine the outbox") as connection:
        for statement in _SETUP:
            connection.execute(statement)

        catalog.qualify(connection)
        look = Look(
            connection,
            conninfo=conninfo,
            schema=schema,
            name=name,
            limits=limits or Limits(),
            clock=clock,
        )
        return Examination(schema=schema, findings=tuple(_all(look)))


def _all(look: Look) -> Iterator[Finding]:
    for group, checks in _SURROUNDINGS.items():
        yield from _group(look, group, checks)

    presence = [*_group(look, "schema", schema.PRESENCE)]
    yield from presence
    if not look.has_outbox:
        return

    # What the next migration makes is not missing.
    if all(finding.result is not Result.PROBLEM for finding in presence):
        yield from _group(look, "schema", schema.DRIFT)

    for group, checks in _OUTBOX.items():
        yield from _group(look, group, checks)


def _group(look: Look, group: str, checks: Iterable[Check]) -> Iterator[Finding]:
    for check in checks:
        for finding in _run(look, check):
            yield replace(finding, group=group, check=check.__name__)


def _run(look: Look, check: Check) -> list[Finding]:
    try:
        return list(check(look))
    except psycopg.Error as error:
        if not (error.sqlstate or "").startswith(_CANNOT_TELL):
            raise

        why = " ".join((error.diag.message_primary or str(error)).split())
        return [
            note(
                f"{check.__name__} cannot be told: {why}",
                detail="The role may lack a right, or what is missing is named elsewhere.",
            )
        ]
