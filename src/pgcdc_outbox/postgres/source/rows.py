"""From a published row to a job.

This is the hot path of the reader: it runs once for each job, and nearly
everything else once for a transaction or a batch. So what can be known of a
relation is worked out once, when its Relation message comes.
"""

import struct
from collections.abc import Callable
from struct import Struct as Layout
from typing import Any, Final

import msgspec
from msgspec import Struct

from pgcdc_outbox.errors import StreamCorrupt
from pgcdc_outbox.job import JSON_TYPE, History, Job
from pgcdc_outbox.pgoutput import UNCHANGED, ProtocolError, Relation
from pgcdc_outbox.pgoutput.rows import read_row

_INT8: Final = Layout(">q")
_INT4: Final = Layout(">i")
_UNIX_OF_2000_US: Final = 946_684_800_000_000
_JSON_OBJECT: Final = msgspec.json.Decoder(dict[str, Any])
_HISTORY: Final = msgspec.json.Decoder(History)

COLUMNS: Final = (
    "id", "created_at", "attempt", "topic", "payload",
    "key", "headers", "content_type", "consumer", "history", "expires_at",
)  # fmt: skip


class Undecodable(Struct, frozen=True):
    """A row that is no job, with what could be read of it. It goes to the dead letters."""

    job: Job
    reason: str


Decoder = Callable[[bytes], Job | Undecodable | None]
"""From the frame of an insert to a job; None for a row of another consumer."""

# Where the row begins in a frame: after its own 25 bytes, the type, the relation, the N.
ROW_AT: Final = 31

# A fresh job: so many columns, id and created_at in binary, no attempt, a topic.
_FRESH: Final = Layout(">HBIqBIqBBI")
_FRESH_SIZE: Final = _FRESH.size
_LENGTH: Final = Layout(">I")
_BINARY: Final = ord("b")
_NULL: Final = ord("n")
_NOTHING_ELSE: Final = b"nnnnnn"

# Version 14 has no column lists, so it sends xid too: a type, a length, 8 bytes.
_COLUMNS_OF_14: Final = (*COLUMNS[:-1], "xid", COLUMNS[-1])
_AFTER_XID: Final = 5 + 13

# Further than a datetime reaches: somebody wrote infinity, and means never.
_LAST_US: Final = 253_402_300_799_999_999


def decoder(relation: Relation, consumer: str) -> Decoder:
    """How rows of this relation are read.

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

    topics: dict[Any, str] = {}
    any_row = _any_row(places, consumer, topics)
    match tuple(column.name for column in relation.columns):
        case names if names == COLUMNS:
            return _fresh_first(any_row, topics, len(names), has_xid=False)
        case names if names == _COLUMNS_OF_14:
            return _fresh_first(any_row, topics, len(names), has_xid=True)
        case _:
            return any_row


def _fresh_first(
    any_row: Decoder, topics: dict[Any, str], columns: int, *, has_xid: bool
) -> Decoder:
    """Read the usual row in one go: a job never tried, with a topic and a payload only.

    Written flat, with places counted by hand: it takes a third of the time that
    column after column does. Whatever is not as expected is left to `any_row`.
    """
    unpack = _FRESH.unpack_from
    unpack_length = _LENGTH.unpack_from

    def decode(frame: bytes) -> Job | Undecodable | None:
        try:
            count, a, b, id_, c, d, created, attempt, e, size = unpack(frame, ROW_AT)
            at = ROW_AT + _FRESH_SIZE + size
            start = at + 5
            end = start + unpack_length(frame, at + 1)[0]
            if (
                a == c == e == frame[at] == _BINARY
                and b == d == 8
                and attempt == _NULL
                and count == columns
                and (
                    frame[end : end + 5] == b"nnnnn" and frame[end + _AFTER_XID :] == b"n"
                    if has_xid
                    else frame[end:] == _NOTHING_ELSE
                )
            ):
                topic = topics.get(frame[at - size : at])
                if topic is None:
                    topic = _topic(topics, frame[at - size : at])

                return Job(
                    id_, topic, frame[start:end], None, {}, JSON_TYPE, 1,
                    created + _UNIX_OF_2000_US,
                )  # fmt: skip
        except (IndexError, struct.error, UnicodeDecodeError):
            pass

        return any_row(frame)

    return decode


def _any_row(places: dict[str, int], consumer: str, topics: dict[Any, str]) -> Decoder:
    mine = consumer.encode()
    order = [places.get(name) for name in COLUMNS]

    def decode(frame: bytes) -> Job | Undecodable | None:
        row, end = read_row(frame, ROW_AT, "Insert")
        if end != len(frame) or len(row.values) != len(places):
            raise ProtocolError("the row does not fit its relation", what="Insert", offset=ROW_AT)

        if UNCHANGED in row.values:
            raise ProtocolError("a new row leaves nothing unchanged", what="Insert", offset=ROW_AT)

        values: list[Any] = [None if place is None else row.values[place] for place in order]
        id_, created, attempt, topic, payload, key, headers, kind, target, history, expires = values
        if target is not None and target != mine:
            return None

        try:
            if payload is None:
                raise ValueError("it has no payload")

            past = None if history is None else _HISTORY.decode(history[1:])
            return Job(
                id=_INT8.unpack(id_)[0],
                topic=topics.get(topic) or _topic(topics, topic),
                payload=payload,
                key=None if key is None else key.decode(),
                headers={} if headers is None else _JSON_OBJECT.decode(headers[1:]),
                content_type=JSON_TYPE if kind is None else kind.decode(),
                attempt=1 if attempt is None else _INT4.unpack(attempt)[0],
                created_us=_created(created) if past is None else past.created_us,
                history=past,
                expires_us=None if expires is None else expires_us(expires),
            )
        except Exception as error:
            return _undecodable(values, error)

    return decode


def _created(created: bytes | None) -> int:
    return 0 if created is None else int(_INT8.unpack(created)[0]) + _UNIX_OF_2000_US


def expires_us(expires: bytes) -> int | None:
    """When a job expires, from the eight bytes of a timestamptz; None for never."""
    moment = int(_INT8.unpack(expires)[0]) + _UNIX_OF_2000_US
    return None if moment > _LAST_US else max(moment, 0)


def _topic(topics: dict[Any, str], topic: bytes | None) -> str:
    """The text of a topic, from a small store: there are few, and each job names one."""
    name = "default" if topic is None else str(topic, "utf-8")
    if len(topics) < 1000:
        topics[topic] = name

    return name


def _undecodable(values: list[Any], error: Exception) -> Undecodable:
    """What a person will want to see of a row that is no job."""
    id_, created, attempt, topic, payload, key, *_ = values
    try:
        job = Job(
            id=_INT8.unpack(id_)[0],
            topic="default" if topic is None else topic.decode("utf-8", "replace"),
            payload=payload if isinstance(payload, bytes) else b"",
            key=None if key is None else key.decode("utf-8", "replace"),
            attempt=1 if attempt is None else _INT4.unpack(attempt)[0],
            created_us=_created(created),
        )
    except Exception as failure:
        raise StreamCorrupt(f"a row of the outbox has no readable id: {failure}") from error

    return Undecodable(job, f"{type(error).__name__}: {error}")
