"""From a published row to a job.

This is the hot path of the reader: it runs once for each job, and everything
else runs once for a transaction or a batch. So columns are found by position,
worked out once for each Relation message, and nothing is looked up by name.
"""

from collections.abc import Callable
from struct import Struct as Layout
from typing import Any, Final

import msgspec
from msgspec import Struct

from pgcdc_outbox.errors import StreamCorrupt
from pgcdc_outbox.job import JSON_TYPE, History, Job
from pgcdc_outbox.pgoutput import Relation, Row

_INT8: Final = Layout(">q")
_INT4: Final = Layout(">i")
_UNIX_OF_2000_US: Final = 946_684_800_000_000
_NO_HEADERS: Final[dict[str, Any]] = {}
_JSON_OBJECT: Final = msgspec.json.Decoder(dict[str, Any])
_HISTORY: Final = msgspec.json.Decoder(History)

_COLUMNS: Final = (
    "id", "created_at", "attempt", "topic", "payload",
    "key", "headers", "content_type", "consumer", "history",
)  # fmt: skip


class Undecodable(Struct, frozen=True):
    """A row that is no job, with what could be read of it. It goes to the dead letters."""

    job: Job
    reason: str


Decoder = Callable[[Row], Job | Undecodable | None]


def decoder(relation: Relation, consumer: str) -> Decoder:
    """A function from a row of this relation to a job; None for a row of another consumer.

    Columns are found by name, so that one that was added, dropped or moved does
    no harm: what is missing has the value that the column's null means. Only
    without an id there is nothing to be done, and `StreamCorrupt` is raised.
    """
    places = {column.name: place for place, column in enumerate(relation.columns)}
    if "id" not in places:
        raise StreamCorrupt(
            f"table {relation.namespace}.{relation.name} is published without its column id",
            hint="Restore the column; `pgcdc-outbox migrate --print` shows the table.",
        )

    if all(places.get(name) == place for place, name in enumerate(_COLUMNS)):
        return _in_order(consumer)

    return _by_name(places, consumer)


def _by_name(places: dict[str, int], consumer: str) -> Decoder:
    """Bring the columns into the usual order first."""
    order = [places.get(name) for name in _COLUMNS]
    usual = _in_order(consumer)

    def decode(row: Row) -> Job | Undecodable | None:
        values = tuple(None if place is None else row.values[place] for place in order)
        return usual(Row(values, row.formats))

    return decode


def _in_order(consumer: str) -> Decoder:
    mine = consumer.encode()
    topics: dict[Any, str] = {}

    def decode(row: Row) -> Job | Undecodable | None:
        values: Any = row.values
        id_, created, attempt, topic, payload, key, headers, kind, target, history = values[:10]
        if target is not None and target != mine:
            return None

        try:
            if (name := topics.get(topic)) is None:
                name = _topic(topics, topic)

            if payload is None:
                raise ValueError("it has no payload")

            if attempt is not None or history is not None:
                return _tried(id_, created, attempt, name, payload, key, headers, kind, history)

            return Job(
                _INT8.unpack(id_)[0],
                name,
                payload,
                None if key is None else key.decode(),
                _NO_HEADERS if headers is None else _JSON_OBJECT.decode(headers[1:]),
                JSON_TYPE if kind is None else kind.decode(),
                1,
                0 if created is None else _INT8.unpack(created)[0] + _UNIX_OF_2000_US,
            )
        except Exception as error:
            return _undecodable(values, error)

    return decode


def _tried(
    id_: bytes, created: Any, attempt: Any, topic: str, payload: bytes,
    key: Any, headers: Any, kind: Any, history: Any,
) -> Job:  # fmt: skip
    """A job that comes again, or comes late: rare enough to be written plainly."""
    past = None if history is None else _HISTORY.decode(history[1:])
    if past is not None:
        created_us = past.created_us
    else:
        created_us = 0 if created is None else _INT8.unpack(created)[0] + _UNIX_OF_2000_US

    return Job(
        id=_INT8.unpack(id_)[0],
        topic=topic,
        payload=payload,
        key=None if key is None else key.decode(),
        headers=_NO_HEADERS if headers is None else _JSON_OBJECT.decode(headers[1:]),
        content_type=JSON_TYPE if kind is None else kind.decode(),
        attempt=1 if attempt is None else _INT4.unpack(attempt)[0],
        created_us=created_us,
        history=past,
    )


def _topic(topics: dict[Any, str], topic: Any) -> str:
    """The text of a topic, from a small store: there are few, and each job names one."""
    name = "default" if topic is None else str(topic, "utf-8")
    if len(topics) < 1000:
        topics[topic] = name

    return name


def _undecodable(values: tuple[Any, ...], error: Exception) -> Undecodable:
    """What a person will want to see of a row that is no job."""
    id_, created, attempt, topic, payload, key, *_ = values
    try:
        job = Job(
            id=_INT8.unpack(id_)[0],
            topic="default" if topic is None else topic.decode("utf-8", "replace"),
            payload=payload if isinstance(payload, bytes) else b"",
            key=None if key is None else key.decode("utf-8", "replace"),
            attempt=1 if attempt is None else _INT4.unpack(attempt)[0],
            created_us=0 if created is None else _INT8.unpack(created)[0] + _UNIX_OF_2000_US,
        )
    except Exception as failure:
        raise StreamCorrupt(f"a row of the outbox has no readable id: {failure}") from error

    return Undecodable(job, f"{type(error).__name__}: {error}")
