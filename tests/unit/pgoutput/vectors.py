"""One message of every kind, its bytes written out by hand from the manual."""

from __future__ import annotations

from typing import NamedTuple

from pgcdc_outbox.pgoutput import (
    UNCHANGED,
    Begin,
    BeginPrepare,
    Column,
    Commit,
    CommitPrepared,
    Delete,
    Insert,
    LogicalMessage,
    Message,
    Origin,
    Prepare,
    Relation,
    RollbackPrepared,
    Row,
    StreamAbort,
    StreamCommit,
    StreamPrepare,
    StreamStart,
    StreamStop,
    Truncate,
    Type,
    Update,
)

LAST = 0xFFFFFFFF_FFFFFFFF


class Vector(NamedTuple):
    name: str
    data: bytes
    message: Message
    streaming: bool = False
    parallel: bool = False


def _hex(text: str) -> bytes:
    return bytes.fromhex(text)


_TABLE = _hex("00004001") + b"sch\xc3\xa9ma\0\xe8\xa1\xa8\0"
_COLUMNS = _hex("0002 01") + b"id\0" + _hex("00000014 ffffffff 00") + "größe\0".encode()
_RELATION = b"R" + _TABLE + b"d" + _COLUMNS + _hex("00000413 0000002c")

_ROW_BYTES = _hex("0005") + b"n" + b"u" + b"t" + _hex("00000002") + b"42"
_ROW_BYTES += b"b" + _hex("00000000") + b"b" + _hex("00000003 00ff00")
_ROW = Row((None, UNCHANGED, b"42", b"", b"\0\xff\0"), b"bbtbb")
_KEY_BYTES = _hex("0001") + b"t" + _hex("00000001") + b"7"
_KEY = Row((b"7",), b"t")

_RELATION_VALUE = Relation(
    oid=0x4001,
    namespace="schéma",
    name="表",
    replica_identity="d",
    columns=(Column("id", 20, -1, 1), Column("größe", 1043, 44, 0)),
)
_TIMES = _hex("0000000100000002 0000000300000004 fffffffffffffffe")
_FIRST, _SECOND, _BEFORE = 0x100000002, 0x300000004, -2

VECTORS = (
    Vector(
        "begin",
        b"B" + _hex("0000000100000002 fffffffffffffffe 000002ff"),
        Begin(final_lsn=_FIRST, committed_at=_BEFORE, xid=767),
    ),
    Vector(
        "begin at the last position",
        b"B" + _hex("ffffffffffffffff 7fffffffffffffff ffffffff"),
        Begin(final_lsn=LAST, committed_at=2**63 - 1, xid=2**32 - 1),
    ),
    Vector(
        "commit",
        b"C" + b"\0" + _TIMES,
        Commit(flags=0, commit_lsn=_FIRST, end_lsn=_SECOND, committed_at=_BEFORE),
    ),
    Vector(
        "origin",
        b"O" + _hex("0000000100000002") + "Ω\0".encode(),
        Origin(commit_lsn=_FIRST, name="Ω"),
    ),
    Vector("relation", _RELATION, _RELATION_VALUE),
    Vector(
        "relation in a stream",
        b"R" + _hex("000002ff") + _RELATION[1:],
        _RELATION_VALUE._replace(xid=767),
        streaming=True,
    ),
    Vector(
        "type", b"Y" + _hex("00004002") + b"\0int4\0", Type(oid=0x4002, namespace="", name="int4")
    ),
    Vector(
        "type in a stream",
        b"Y" + _hex("000002ff 00004002") + b"\0int4\0",
        Type(oid=0x4002, namespace="", name="int4", xid=767),
        streaming=True,
    ),
    Vector(
        "insert", b"I" + _hex("00004001") + b"N" + _ROW_BYTES, Insert(relation=0x4001, row=_ROW)
    ),
    Vector(
        "insert in a stream",
        b"I" + _hex("000002ff 00004001") + b"N" + _ROW_BYTES,
        Insert(relation=0x4001, row=_ROW, xid=767),
        streaming=True,
    ),
    Vector(
        "insert of no columns",
        b"I" + _hex("00004001") + b"N" + _hex("0000"),
        Insert(relation=0x4001, row=Row((), b"")),
    ),
    Vector(
        "update", b"U" + _hex("00004001") + b"N" + _ROW_BYTES, Update(relation=0x4001, row=_ROW)
    ),
    Vector(
        "update of the key",
        b"U" + _hex("00004001") + b"K" + _KEY_BYTES + b"N" + _ROW_BYTES,
        Update(relation=0x4001, row=_ROW, key=_KEY),
    ),
    Vector(
        "update in a stream, with the old row",
        b"U" + _hex("000002ff 00004001") + b"O" + _KEY_BYTES + b"N" + _ROW_BYTES,
        Update(relation=0x4001, row=_ROW, old=_KEY, xid=767),
        streaming=True,
    ),
    Vector(
        "delete by key",
        b"D" + _hex("00004001") + b"K" + _KEY_BYTES,
        Delete(relation=0x4001, key=_KEY),
    ),
    Vector(
        "delete in a stream, with the old row",
        b"D" + _hex("000002ff 00004001") + b"O" + _KEY_BYTES,
        Delete(relation=0x4001, old=_KEY, xid=767),
        streaming=True,
    ),
    Vector(
        "truncate",
        b"T" + _hex("00000002 03 00004001 00004002"),
        Truncate(relations=(0x4001, 0x4002), flags=3),
    ),
    Vector(
        "truncate in a stream",
        b"T" + _hex("000002ff 00000001 00 00004001"),
        Truncate(relations=(0x4001,), xid=767),
        streaming=True,
    ),
    Vector(
        "message",
        b"M" + _hex("00 0000000100000002") + b"pr\xc3\xa9\0" + _hex("00000002 00ff"),
        LogicalMessage(flags=0, lsn=_FIRST, prefix="pré", content=b"\0\xff"),
    ),
    Vector(
        "message in a stream",
        b"M" + _hex("000002ff 01 0000000100000002") + b"\0" + _hex("00000000"),
        LogicalMessage(flags=1, lsn=_FIRST, prefix="", content=b"", xid=767),
        streaming=True,
    ),
    Vector("stream start", b"S" + _hex("000002ff 01"), StreamStart(xid=767, first_segment=True)),
    Vector("stream stop", b"E", StreamStop(), streaming=True),
    Vector(
        "stream commit",
        b"c" + _hex("000002ff 00") + _TIMES,
        StreamCommit(xid=767, flags=0, commit_lsn=_FIRST, end_lsn=_SECOND, committed_at=_BEFORE),
    ),
    Vector("stream abort", b"A" + _hex("000002ff 00000300"), StreamAbort(xid=767, subxid=768)),
    Vector(
        "stream abort, parallel",
        b"A" + _hex("000002ff 00000300 0000000100000002 fffffffffffffffe"),
        StreamAbort(xid=767, subxid=768, abort_lsn=_FIRST, aborted_at=_BEFORE),
        parallel=True,
    ),
    Vector(
        "begin prepare",
        b"b" + _TIMES + _hex("000002ff") + b"gid\0",
        BeginPrepare(prepare_lsn=_FIRST, end_lsn=_SECOND, prepared_at=_BEFORE, xid=767, gid="gid"),
    ),
    Vector(
        "prepare",
        b"P" + b"\0" + _TIMES + _hex("000002ff") + b"gid\0",
        Prepare(
            flags=0, prepare_lsn=_FIRST, end_lsn=_SECOND, prepared_at=_BEFORE, xid=767, gid="gid"
        ),
    ),
    Vector(
        "commit prepared",
        b"K" + b"\0" + _TIMES + _hex("000002ff") + b"gid\0",
        CommitPrepared(
            flags=0, commit_lsn=_FIRST, end_lsn=_SECOND, committed_at=_BEFORE, xid=767, gid="gid"
        ),
    ),
    Vector(
        "rollback prepared",
        b"r" + b"\0" + _TIMES + _hex("0000000000000005 000002ff") + b"gid\0",
        RollbackPrepared(
            flags=0,
            prepare_end_lsn=_FIRST,
            end_lsn=_SECOND,
            prepared_at=_BEFORE,
            rolled_back_at=5,
            xid=767,
            gid="gid",
        ),
    ),
    Vector(
        "stream prepare",
        b"p" + b"\0" + _TIMES + _hex("000002ff") + b"gid\0",
        StreamPrepare(
            flags=0, prepare_lsn=_FIRST, end_lsn=_SECOND, prepared_at=_BEFORE, xid=767, gid="gid"
        ),
    ),
)
