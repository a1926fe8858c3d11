"""A page of the table: rows made into jobs as they are loaded.

What `rows` is for the log. Nearly every row is a fresh job, never tried and without
headers; a few such rows are made into jobs at a time, and anything else one by one.
"""

from typing import Any, Final, NamedTuple

import msgspec

from pgcdc_outbox.job import JSON_TYPE, History, Job
from pgcdc_outbox.postgres.source.rows import Undecodable, expires_us

# Rows of a part: few, for what is settled of one that is not is repeated after a crash.
_PART_ROWS: Final = 32

_UNIX_OF_2000_US: Final = 946_684_800_000_000
_JSON_OBJECT: Final = msgspec.json.Decoder(dict[str, Any])
_HISTORY: Final = msgspec.json.Decoder(History)

Row = tuple[Any, ...]
"""id, created_at, attempt, topic, payload, key, headers, content_type, history, xid, expires_at.

created_at is microseconds since 2000, expires_at the eight bytes of the same.
"""

_PAYLOAD: Final = 4

Cursor = tuple[str, int]
"""Read up to this xid and id."""


class Part(NamedTuple):
    """A few rows, as jobs. Where it ends, reading could begin again."""

    fresh: list[Job]
    """Those of a part that holds nothing but jobs never tried, without headers and expiry."""
    others: list[Job | Undecodable]
    """All of any other part."""
    size: int
    """Bytes of all payloads."""
    end: Cursor


class Page:
    """What one statement found."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.cut = False
        """Whether it ends before a payload that was left out."""
        self.largest = 0
        """Bytes of the largest payload."""

    def load(self, rows: list[Row]) -> None:
        """Take the next rows, unless the page has ended."""
        payloads = [row[_PAYLOAD] for row in rows]
        if self.cut or None in payloads:
            rows = [] if self.cut else rows[: payloads.index(None)]
            self.cut = True

        for at in range(0, len(rows), _PART_ROWS):
            self._add(rows[at : at + _PART_ROWS])

    def _add(self, rows: list[Row]) -> None:
        sizes = [len(row[_PAYLOAD]) for row in rows]
        self.largest = max(self.largest, *sizes)
        fresh = _fresh_jobs(rows)
        others = [_any_job(row) for row in rows] if len(fresh) < len(rows) else []
        end = str(rows[-1][-2]), rows[-1][0]
        self.parts.append(Part([] if others else fresh, others, sum(sizes), end))


def _fresh_jobs(rows: list[Row]) -> list[Job]:
    """The jobs of those rows that were never tried, have no headers and do not expire."""
    # One expression for a part: it is where reading the table spends its time.
    return [
        Job(id_, topic, payload, key, {}, kind or JSON_TYPE, 1, created + _UNIX_OF_2000_US)
        for id_, created, attempt, topic, payload, key, headers, kind, history, _, expires in rows
        if attempt is None and headers is None and history is None and expires is None
    ]


def _any_job(row: Row) -> Job | Undecodable:
    id_, created, attempt, topic, payload, key, headers, kind, history, _, expires = row
    created_us = created + _UNIX_OF_2000_US
    try:
        past = None if history is None else _HISTORY.decode(history)
        return Job(
            id=id_,
            topic=topic,
            payload=payload,
            key=key,
            headers={} if headers is None else _JSON_OBJECT.decode(headers),
            content_type=kind or JSON_TYPE,
            attempt=attempt or 1,
            created_us=created_us if past is None else past.created_us,
            history=past,
            expires_us=None if expires is None else expires_us(expires),
        )
    except Exception as error:
        # Data, as in the log: it must not end the consumer. A person will want to see this.
        bare = Job(id_, topic, payload, key, attempt=attempt or 1, created_us=created_us)
        return Undecodable(bare, f"{type(error).__name__}: {error}")
