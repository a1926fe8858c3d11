"""Dead letters: looked at, retried, or discarded by a person."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from pgcdc_outbox.job import Failing
from pgcdc_outbox.postgres.connection import Row, run, session
from pgcdc_outbox.postgres.migrate import check_schema


class Selection(Struct, frozen=True, kw_only=True):
    """Which dead letters; each field narrows it down, and none means all."""

    ids: tuple[int, ...] | None = None
    consumer: str | None = None
    topic: str | None = None
    reason: str | None = None


class DeadLetter(Struct, frozen=True, kw_only=True):
    """A dead letter, as a list shows it."""

    consumer: str
    id: int
    reason: str
    topic: str
    key: str | None
    attempt: int
    prior_attempts: int
    created_at: datetime
    died_at: datetime
    payload_bytes: int
    last_error: str | None
    last_text: str | None


class Autopsy(Struct, frozen=True, kw_only=True):
    """Everything about a dead letter."""

    consumer: str
    id: int
    reason: str
    topic: str
    key: str | None
    headers: dict[str, Any] | None
    content_type: str
    attempt: int
    prior_attempts: int
    created_at: datetime
    died_at: datetime
    payload: bytes
    body: str
    """The payload as text: JSON as it is, anything else in hex."""
    errors: tuple[Failing, ...]


class Letter(Struct, frozen=True):
    """Names one dead letter."""

    consumer: str
    id: int


class DeadLetters:
    """The dead letters of one outbox."""

    def __init__(self, conninfo: str, *, schema: str = "outbox") -> None:
        check_schema(schema)
        self._conninfo = conninfo
        self._schema = schema

    def list(
        self,
        *,
        consumer: str | None = None,
        topic: str | None = None,
        reason: str | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> Sequence[DeadLetter]:
        """The newest first; give the last id as ``before`` for the next page."""
        return msgspec.convert(
            self._rows(
                "list_dead",
                consumer=consumer,
                topic=topic,
                reason=reason,
                before=before,
                limit=limit,
            ),
            tuple[DeadLetter, ...],
        )

    def show(self, id: int, *, consumer: str | None = None) -> Sequence[Autopsy]:
        """Everything about one job: an entry for each consumer it died for."""
        return msgspec.convert(
            self._rows("show_dead", id=id, consumer=consumer), tuple[Autopsy, ...]
        )

    def count(self, selection: Selection) -> int:
        """How many are selected."""
        (row,) = self._rows("count_dead", **_parameters(selection))
        return int(row["jobs"])

    def retry(self, selection: Selection) -> Sequence[Letter]:
        """Put them back in line, all or none. The ids stay, and so does the history."""
        rows = self._rows("retry_dead", **_parameters(selection))
        return msgspec.convert(rows, tuple[Letter, ...])

    def discard(self, selection: Selection) -> Sequence[Letter]:
        """Delete them for good, all or none."""
        rows = self._rows("discard_dead", **_parameters(selection))
        return msgspec.convert(rows, tuple[Letter, ...])

    def _rows(self, name: str, **parameters: Any) -> Sequence[Row]:
        with session(self._conninfo, doing="dead letters") as connection:
            return run(connection, name, self._schema, **parameters).fetchall()


def _parameters(selection: Selection) -> dict[str, Any]:
    parameters = msgspec.structs.asdict(selection)
    if selection.ids is not None:
        parameters["ids"] = list(selection.ids)

    return parameters
