"""Dead letters: looked at, retried, discarded or purged, always because a person asks."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from msgspec import Struct
from psycopg import Connection

from pgcdc_outbox.core.once import IN_DOUBT as IN_DOUBT
from pgcdc_outbox.errors import SettingsError
from pgcdc_outbox.job import Failing
from pgcdc_outbox.postgres.connection import Row, run, session
from pgcdc_outbox.postgres.migrate import check_schema

_BATCH: Final = 1000
_LARGEST_BATCH: Final = 100_000
_OLDEST: Final = timedelta(days=36_525)
_EARLIEST: Final = datetime(1, 1, 2, tzinfo=UTC)


class Selection(Struct, frozen=True, kw_only=True):
    """Which dead letters; each field narrows it down, and none means all but those in doubt.

    What may have happened is only taken by its id, or with its reason.
    """

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
        but: str | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> Sequence[DeadLetter]:
        """The newest first; give the last id as ``before`` for the next page.

        ``but`` is a reason to leave out.
        """
        return msgspec.convert(
            self._rows(
                "list_dead",
                consumer=consumer,
                topic=topic,
                reason=reason,
                but=but,
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

    def resolve_done(self, id: int, *, who: str, consumer: str | None = None) -> Sequence[Letter]:
        """Note that a job in doubt did happen: it is done, and never comes again.

        ``who`` says so, and is written to ``attempt`` with it. Only what is in doubt is
        resolved; to try it again is `retry`.
        """
        rows = self._rows(
            "resolve_done",
            id=id,
            consumer=consumer,
            reason=IN_DOUBT,
            who=who,
            note="a person said that it is done",
        )
        return msgspec.convert(rows, tuple[Letter, ...])

    def discard(self, selection: Selection) -> Sequence[Letter]:
        """Delete them for good, all or none."""
        rows = self._rows("discard_dead", **_parameters(selection))
        return msgspec.convert(rows, tuple[Letter, ...])

    def count_older(
        self,
        older_than: timedelta,
        *,
        consumer: str | None = None,
        topic: str | None = None,
        reason: str | None = None,
    ) -> int:
        """How many `purge` would delete now."""
        _check_age(older_than)
        filters = _parameters(Selection(consumer=consumer, topic=topic, reason=reason))
        with session(self._conninfo, doing="count dead letters") as connection:
            until = _until(connection, self._schema, older_than)
            row = run(
                connection, "count_purgeable", self._schema, until=until, **filters
            ).fetchone()

        return 0 if row is None else int(row["jobs"])

    def purge(
        self,
        older_than: timedelta,
        *,
        consumer: str | None = None,
        topic: str | None = None,
        reason: str | None = None,
        batch_size: int = _BATCH,
    ) -> int:
        """Delete for good those that died longer ago than that; how many it were.

        In batches, the oldest first, each a transaction of its own. So a purge of
        any size holds no lock for long, and one that is interrupted has done
        what it has done. Raises `OutboxError`.
        """
        _check_age(older_than)
        if not 1 <= batch_size <= _LARGEST_BATCH:
            raise SettingsError(
                f"batch_size: {batch_size} is not a number from 1 to {_LARGEST_BATCH}"
            )

        filters = _parameters(Selection(consumer=consumer, topic=topic, reason=reason))
        purged = 0
        with session(self._conninfo, doing="purge dead letters") as connection:
            until = _until(connection, self._schema, older_than)
            last: Row | None = {"died_at": _EARLIEST, "consumer": "", "id": 0}
            while last is not None:
                last = run(
                    connection,
                    "purge_dead",
                    self._schema,
                    until=until,
                    after_died_at=last["died_at"],
                    after_consumer=last["consumer"],
                    after_id=last["id"],
                    limit=batch_size,
                    **filters,
                ).fetchone()
                purged += 0 if last is None else int(last["jobs"])

        return purged

    def _rows(self, name: str, **parameters: Any) -> Sequence[Row]:
        with session(self._conninfo, doing="dead letters") as connection:
            return run(connection, name, self._schema, **parameters).fetchall()


def _check_age(older_than: timedelta) -> None:
    if not timedelta(0) <= older_than <= _OLDEST:
        raise SettingsError("older_than: it is not between nothing and a hundred years")


def _until(connection: Connection[Row], schema: str, older_than: timedelta) -> datetime:
    row = run(connection, "purge_until", schema, older_than=older_than).fetchone()
    assert row is not None
    until: datetime = row["until"]
    return until


def _parameters(selection: Selection) -> dict[str, Any]:
    parameters = {**msgspec.structs.asdict(selection), "in_doubt": IN_DOUBT}
    if selection.ids is not None:
        parameters["ids"] = list(selection.ids)

    return parameters
