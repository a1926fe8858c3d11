"""From a published row to a job.

This is the hot path of the reader: it runs once for each job, and nearly
everything else once for a transaction or a batch. So what can be known of a
relation is worked out once, when its Relation message comes.
"""

import struct
from collections.abc import Callable
from functools import cache
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

FreshDecoder = Callable[[bytes], Job | None]
"""From the frame of an insert to a fresh job; None for a row that is to be looked at closely."""

# Where the row begins in a frame: after its own 25 bytes, the type, the relation, the N.
ROW_AT: Final = 31
# Where the payload of a fresh row begins, if its topic has no length.
_PAYLOAD_AT: Final = 70

# A fresh job: what stands before its id, so many bytes of id and of created_at, no attempt, a
# topic; and behind the payload nothing else.
_HEAD: Final = b"I%bN%b" + b"b\0\0\0\x08"
_EIGHT: Final = b"b\0\0\0\x08"
_NO_ATTEMPT: Final = b"nb"
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

    any_row = _any_row(places, consumer)
    fresh = fresh_decoder(relation)
    if fresh is None:
        return any_row

    return lambda frame: any_row(frame) if (job := fresh(frame)) is None else job


def fresh_decoder(relation: Relation) -> FreshDecoder | None:
    """How the usual row of this relation is read: a job never tried, with topic and payload only.

    None if its columns stand in an order that is not ours.

    A row is taken apart in one go, the length of its topic being that of the last
    one, and compared with what it has to look like: a third of the time that column
    after column takes.
    """
    names = tuple(column.name for column in relation.columns)
    if names not in (COLUMNS, _COLUMNS_OF_14):
        return None

    has_xid = names == _COLUMNS_OF_14
    head = _HEAD % (relation.oid.to_bytes(4, "big"), len(names).to_bytes(2, "big"))
    topics: dict[Any, str] = {}
    expected = 0
    unpack = _fresh(0)

    def decode(frame: bytes) -> Job | None:
        nonlocal expected, unpack
        try:
            start, id_, eight, created, rest, length, topic, kind, size = unpack(frame)
            if start != head or eight != _EIGHT or rest != _NO_ATTEMPT or length > len(frame):
                return None

            if length != expected:
                expected, unpack = length, _fresh(length)
                topic, kind, size = unpack(frame)[6:]

            at = _PAYLOAD_AT + length
            end = at + size
            if (
                kind != b"b"
                or (frame[end : end + 5] + frame[end + _AFTER_XID :] if has_xid else frame[end:])
                != _NOTHING_ELSE
            ):
                return None

            return Job(
                id_, topics.get(topic) or _topic(topics, topic), frame[at:end],
                None, {}, JSON_TYPE, 1, created + _UNIX_OF_2000_US,
            )  # fmt: skip
        except (struct.error, UnicodeDecodeError):
            return None

    return decode


@cache
def _fresh(topic: int) -> Callable[[bytes], tuple[Any, ...]]:
    """The layout of a fresh row whose topic is so long, up to the length of its payload."""
    return Layout(f">25x13sq5sq2sI{topic}scI").unpack_from


def _any_row(places: dict[str, int], consumer: str) -> Decoder:
    topics: dict[Any, str] = {}
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
