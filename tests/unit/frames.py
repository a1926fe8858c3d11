"""Frames as a server sends them, made from plain values."""

import json
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pgcdc_outbox.pgoutput import (
    UNCHANGED,
    Begin,
    Cell,
    Column,
    Commit,
    Insert,
    Message,
    PrimaryKeepalive,
    Relation,
    Row,
    XLogData,
    from_datetime,
)

USUAL = (
    "id", "created_at", "attempt", "topic", "payload",
    "key", "headers", "content_type", "consumer", "history", "expires_at",
)  # fmt: skip
WITH_XID = (*USUAL[:-1], "xid", "expires_at")
OID = 16_400
RECORDINGS = Path(__file__).parent.parent / "recordings"

NOON = datetime(2024, 5, 6, 12, tzinfo=UTC)
NOON_US = int(NOON.timestamp()) * 1_000_000


def relation(
    names: tuple[str, ...] = USUAL, *, oid: int = OID, name: str = "immediate"
) -> Relation:
    return Relation(oid, "outbox", name, "d", tuple(Column(each, 25) for each in names))


def int8(value: int) -> bytes:
    return struct.pack(">q", value)


def int4(value: int) -> bytes:
    return struct.pack(">i", value)


def jsonb(value: Any) -> bytes:
    return b"\x01" + json.dumps(value).encode()


def cells(**values: Any) -> dict[str, Cell]:
    """The columns of a row. By default those of a fresh job; cells are given as bytes."""
    usual = {
        "id": int8(1),
        "created_at": int8(from_datetime(NOON)),
        "topic": b"orders",
        "payload": b"{}",
        "xid": int8(999),
    }
    return {**dict.fromkeys(WITH_XID), **usual, **values}


def row(names: tuple[str, ...] = USUAL, *, texts: str = "", **values: Any) -> Row:
    """A row; the columns named in ``texts`` are in text form."""
    given = cells(**values)
    formats = bytes(
        ord("t") if name in texts.split() and isinstance(given.get(name), bytes) else ord("b")
        for name in names
    )
    return Row(tuple(given.get(name) for name in names), formats)


def data(message: Message | bytes) -> bytes:
    payload = message if isinstance(message, bytes) else message.encode()
    return XLogData(0, 0, 0, payload).encode()


def insert(
    names: tuple[str, ...] = USUAL, *, oid: int = OID, texts: str = "", **values: Any
) -> bytes:
    return data(Insert(oid, row(names, texts=texts, **values)))


def begin() -> bytes:
    return data(Begin(0, 0, 999))


def commit(end: int) -> bytes:
    return data(Commit(0, end - 8, end, 0))


def keepalive(position: int, *, reply: bool = False) -> bytes:
    return PrimaryKeepalive(position, 0, reply).encode()


def recorded(version: int, scenario: str) -> list[bytes]:
    """The frames that a server of that version sent."""
    described = json.loads((RECORDINGS / f"pg{version}.json").read_text(encoding="utf-8"))
    (found,) = (each for each in described["scenarios"] if each["name"] == scenario)
    content = (RECORDINGS / f"pg{version}.bin").read_bytes()
    frames, at = [], found["begin"]
    for _ in range(found["frames"]):
        (size,) = struct.unpack_from(">I", content, at)
        frames.append(content[at + 4 : at + 4 + size])
        at += 4 + size

    return frames


__all__ = [
    "NOON", "NOON_US", "OID", "UNCHANGED", "USUAL", "WITH_XID", "begin", "cells", "commit", "data",
    "insert", "int4", "int8", "jsonb", "keepalive", "recorded", "relation", "row",
]  # fmt: skip
