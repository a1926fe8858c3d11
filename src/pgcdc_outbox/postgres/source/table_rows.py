"""From a row of the table to a job.

What `rows` is for the log. Nearly every row is a fresh job, so those are made a run at a
time, and anything else is left to `job_of`.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from pgcdc_outbox.job import JSON_TYPE, History, Job
from pgcdc_outbox.postgres.source.rows import expires_us
from pgcdc_outbox.postgres.source.span import Row

_UNIX_OF_2000_US: Final = 946_684_800_000_000
_JSON_OBJECT: Final = msgspec.json.Decoder(dict[str, Any])
_HISTORY: Final = msgspec.json.Decoder(History)


def fresh_jobs(rows: Sequence[Row]) -> list[Job]:
    """The jobs of those rows that were never tried, have no headers and do not expire."""
    # One expression for a whole run: it is where reading the table spends its time.
    return [
        Job(id_, topic, payload, key, {}, kind or JSON_TYPE, 1, created + _UNIX_OF_2000_US)
        for id_, created, attempt, topic, payload, key, headers, kind, history, _, expires in rows
        if attempt is None and headers is None and history is None and expires is None
    ]


def job_of(row: Row) -> Job:
    """The job of any row. Raises an error of any kind for one that is no job."""
    id_, created, attempt, topic, payload, key, headers, kind, history, _, expires = row
    past = None if history is None else _HISTORY.decode(history)
    return Job(
        id=id_,
        topic=topic,
        payload=payload,
        key=key,
        headers={} if headers is None else _JSON_OBJECT.decode(headers),
        content_type=kind or JSON_TYPE,
        attempt=attempt or 1,
        created_us=created + _UNIX_OF_2000_US if past is None else past.created_us,
        history=past,
        expires_us=None if expires is None else expires_us(expires),
    )


def bare(row: Row) -> Job:
    """What a person will want to see of a row that is no job."""
    id_, created, attempt, topic, payload, key, *_ = row
    return Job(
        id=id_,
        topic=topic,
        payload=payload,
        key=key,
        attempt=attempt or 1,
        created_us=created + _UNIX_OF_2000_US,
    )
