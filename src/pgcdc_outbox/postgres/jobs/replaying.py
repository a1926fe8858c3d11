"""Putting copies of jobs in line again, from the partitions that still have them."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from msgspec import Struct
from psycopg import Connection

from pgcdc_outbox.errors import ReplayIncomplete, SettingsError
from pgcdc_outbox.postgres.connection import Row, run
from pgcdc_outbox.postgres.jobs.horizon import horizon

_LARGEST_BATCH: Final = 100_000


class Cursor(Struct, frozen=True):
    """A place in the order of jobs: behind this transaction's job of this id."""

    xid: int
    id: int

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Read ``xid:id``. Raises `SettingsError`."""
        xid, colon, id_ = text.partition(":")
        if not colon or not xid.isdecimal() or not id_.isdecimal():
            raise SettingsError(
                f"after: {text!r} is not a place in a replay",
                hint="Give what the replay printed that was interrupted, such as 7731:42.",
            )

        return cls(int(xid), int(id_))

    def __str__(self) -> str:
        return f"{self.xid}:{self.id}"


class Replay(Struct, frozen=True, kw_only=True):
    """Which jobs to replay, by the time at which they came in line.

    ``since`` and ``until`` are aware; ``until`` is not included, and never after the
    beginning of the replay. ``consumer`` is who gets the copies: None for every one.
    ``after`` is where an earlier replay of the same jobs ended. ``partial`` accepts that
    some jobs of that time are gone.
    """

    since: datetime
    until: datetime | None = None
    topic: str | None = None
    key: str | None = None
    consumer: str | None = None
    batch_size: int = 1000
    after: Cursor = Cursor(0, 0)
    partial: bool = False


class TopicSpan(Struct, frozen=True, kw_only=True):
    """Jobs of one topic that would be replayed."""

    topic: str
    jobs: int
    first: datetime
    last: datetime


class Replayed(Struct, frozen=True, kw_only=True):
    """How far a replay came."""

    jobs: int = 0
    after: Cursor | None = None
    """Behind the last job that was copied; None if none was."""
    last_at: datetime | None = None
    """When that one came in line at first."""


def preview(connection: Connection[Row], schema: str, replay: Replay) -> Sequence[TopicSpan]:
    """Count, by topic, what would be replayed."""
    _check(connection, schema, replay)
    about = {**_span(connection, schema, replay), "topic": replay.topic, "key": replay.key}
    rows = run(connection, "replay_preview", schema, **about).fetchall()
    return msgspec.convert(rows, tuple[TopicSpan, ...])


def replay(
    connection: Connection[Row],
    schema: str,
    replay: Replay,
    observe: Callable[[Replayed], None],
) -> Replayed:
    """Copy them, a batch at a time."""
    _check(connection, schema, replay)
    parameters: dict[str, Any] = {
        **_span(connection, schema, replay),
        "topic": replay.topic,
        "key": replay.key,
        "consumer": replay.consumer,
        "limit": replay.batch_size,
    }
    done, after = Replayed(), replay.after
    while True:
        row = run(
            connection,
            "replay",
            schema,
            **parameters,
            after_xid=str(after.xid),
            after_id=after.id,
        ).fetchone()
        if row is None:
            return done

        after = Cursor(int(row["xid"]), row["id"])
        done = Replayed(jobs=done.jobs + row["jobs"], after=after, last_at=row["created_at"])
        observe(done)


def _span(connection: Connection[Row], schema: str, replay: Replay) -> dict[str, Any]:
    row = run(connection, "server_now", schema).fetchone()
    assert row is not None
    now = row["now"].replace(tzinfo=UTC)
    return {"since": replay.since, "until": min(replay.until or now, now)}


def _check(connection: Connection[Row], schema: str, replay: Replay) -> None:
    for name, moment in (("since", replay.since), ("until", replay.until)):
        if moment is not None and moment.tzinfo is None:
            raise SettingsError(
                f"{name}: it has no time zone",
                hint="Give an aware datetime, such as datetime.now(UTC).",
            )

    if replay.until is not None and replay.until <= replay.since:
        raise SettingsError("until: it is not after since")

    if not 1 <= replay.batch_size <= _LARGEST_BATCH:
        raise SettingsError(
            f"batch_size: {replay.batch_size} is not a number from 1 to {_LARGEST_BATCH}"
        )

    begin = horizon(connection, schema)
    if begin is not None and replay.since < begin and not replay.partial:
        raise ReplayIncomplete(
            f"since: jobs from before {begin.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ} may be gone, "
            "dropped with their partitions",
            hint=f"Begin at {begin.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}, "
            "or accept with --partial that some are left out.",
        )
