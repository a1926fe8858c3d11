"""The statements of enqueueing, as each driver writes its parameters.

Values only. The order of the parameters is the one in ``queries/enqueue.sql``.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final

from msgspec import Struct
from psycopg import sql

from pgcdc_outbox.postgres.producer.enqueue import Row
from pgcdc_outbox.postgres.queries import query

# Stands in for the schema while parameters are rewritten, as its name may look like one.
_MARK: Final = "\x01"
_PARAMETER: Final = re.compile(r"%\((\w+)\)s")


class Statement:
    """One statement and the names of its parameters, in order."""

    __slots__ = ("names", "text", "values_of")

    def __init__(self, text: str, names: Sequence[str]) -> None:
        self.text = text
        self.names = tuple(names)
        # A statement that takes rows has several parameters: this gives a tuple.
        self.values_of: Callable[[object], tuple[Any, ...]] = attrgetter(*names or ("names",))

    def values(self, arguments: Mapping[str, Any]) -> tuple[Any, ...]:
        """Arguments by name, in the order of the parameters."""
        return tuple(arguments[name] for name in self.names)


class Statements(Struct, frozen=True):
    """Everything a handle sends, for one schema and one way to write parameters."""

    sequence: str
    """What the ids come from, quoted as an argument of nextval()."""
    immediate: Statement
    expiring: Statement
    later: Statement
    take_ids: Statement
    many_immediate: Statement
    many_scheduled: Statement
    once: Statement
    replace: Statement

    def of(self, row: Row) -> Statement:
        """The statement that inserts this row."""
        if row.delay is not None or row.run_at is not None:
            return self.later

        if row.expires_at is not None or row.time_to_live is not None:
            return self.expiring

        return self.immediate


@lru_cache(maxsize=256)
def formatted(schema: str) -> Statements:
    """Parameters as ``%s``, for psycopg."""
    return _written(schema, lambda number, name: "%s", lambda quoted: quoted.replace("%", "%%"))


@lru_cache(maxsize=256)
def numbered(schema: str) -> Statements:
    """Parameters as ``$1``, for asyncpg."""
    return _written(schema, lambda number, name: f"${number}", lambda quoted: quoted)


@lru_cache(maxsize=256)
def named(schema: str) -> Statements:
    """Parameters as ``:name``, for SQLAlchemy."""
    return _written(
        schema, lambda number, name: f":{name}", lambda quoted: quoted.replace(":", "\\:")
    )


def _written(
    schema: str, write: Callable[[int, str], str], escape: Callable[[str], str]
) -> Statements:
    quoted = escape(sql.Identifier(schema).as_string(None))

    def statement(name: str) -> Statement:
        names: list[str] = []

        def place(match: re.Match[str]) -> str:
            names.append(match[1])
            return write(len(names), match[1])

        text = _PARAMETER.sub(place, query(name, _MARK))
        return Statement(text.replace(f'"{_MARK}"', quoted), names)

    return Statements(
        sequence=sql.Identifier(schema, "job_id").as_string(None),
        immediate=statement("enqueue_immediate"),
        expiring=statement("enqueue_expiring"),
        later=statement("enqueue_later"),
        take_ids=statement("take_ids"),
        many_immediate=statement("enqueue_many_immediate"),
        many_scheduled=statement("enqueue_many_scheduled"),
        once=statement("enqueue_once"),
        replace=statement("replace_waiting"),
    )
