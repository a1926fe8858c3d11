"""Bytes that make no sense are a `ProtocolError`, whatever is wrong with them."""

from __future__ import annotations

import pytest

from pgcdc_outbox.pgoutput import ProtocolError, Unchanged, decode
from tests.recordings import recordings
from tests.unit.pgoutput.vectors import VECTORS, Vector

every = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)

INSERT = b"I\0\0\0\1N"


def recorded() -> list[tuple[bytes, bool, bool]]:
    """The recorded messages, one for every kind and length."""
    shapes = {
        (data[0], len(data), streaming, recording.parallel): data
        for recording in recordings()
        for data, _, streaming in recording.decoded()
    }
    return [(data, shape[2], shape[3]) for shape, data in shapes.items()]


@every
def test_cut_short_anywhere(vector: Vector):
    for size in range(len(vector.data)):
        with pytest.raises(ProtocolError):
            decode(vector.data[:size], streaming=vector.streaming, parallel=vector.parallel)


@every
def test_too_long(vector: Vector):
    for extra in (b"\0", b"N", b"\xff" * 8):
        with pytest.raises(ProtocolError):
            decode(vector.data + extra, streaming=vector.streaming, parallel=vector.parallel)


def test_recorded_messages_cut_short_anywhere_or_too_long():
    sample = recorded()
    assert len(sample) > 50
    for data, streaming, parallel in sample:
        for size in range(len(data)):
            with pytest.raises(ProtocolError):
                decode(data[:size], streaming=streaming, parallel=parallel)

        with pytest.raises(ProtocolError):
            decode(data + b"\0", streaming=streaming, parallel=parallel)


@pytest.mark.parametrize("tag", sorted(set(range(256)) - set(b"BCORYIUDTMSEcAbPKrp")))
def test_unknown_type(tag: int):
    with pytest.raises(ProtocolError, match="unknown type") as caught:
        decode(bytes((tag,)) + bytes(30))

    assert caught.value.offset == 0


@pytest.mark.parametrize(
    ("data", "what", "offset", "problem"),
    [
        (b"", "message", 0, "no bytes at all"),
        (b"E\0", "StreamStop", 1, "1 bytes too many"),
        (INSERT + b"\0\1x", "Insert", 8, "unknown kind of column 0x78"),
        (INSERT + b"\0\2nx", "Insert", 9, "unknown kind of column 0x78"),
        (INSERT + b"\0\1b\0\0\0\2a", "Insert", 14, "the row is cut short"),
        (INSERT + b"\0\2b\0\0\0\2an", "Insert", 15, "the row is cut short"),
        (INSERT + b"\0\1b\xff\xff\xff\xff", "Insert", 13, "the row is cut short"),
        (INSERT + b"\0\1t\x80\0\0\0", "Insert", 13, "the row is cut short"),
        (INSERT + b"\xff\xffn", "Insert", 9, "the row is cut short"),
        (b"I\0\0\0\1K\0\0", "Insert", 5, "expected one of 'N', found 0x4b"),
        (b"U\0\0\0\1X", "Update", 5, "expected one of 'KON', found 0x58"),
        (b"U\0\0\0\1K\0\0K\0\0", "Update", 8, "expected one of 'N', found 0x4b"),
        (b"D\0\0\0\1N\0\0", "Delete", 5, "expected one of 'KO', found 0x4e"),
        (b"R\0\0\0\1a\0b\0x\0\0", "Relation", 9, "expected one of 'dnfi', found 0x78"),
        (b"R\0\0\0\1\xff\0b\0d\0\0", "Relation", 5, "the string is not UTF-8"),
        (b"R\0\0\0\1\xed\xa0\x80\0b\0d\0\0", "Relation", 5, "the string is not UTF-8"),
        (b"R\0\0\0\1a\0b\0d\xff\xff", "Relation", 12, "1 bytes expected, 0 left"),
        (b"O\0\0\0\0\0\0\0\0name", "Origin", 9, "the string does not end"),
        (b"M\0" + bytes(8) + b"p\0\xff\xff\xff\xff", "LogicalMessage", 12, "negative length, -1"),
        (b"M\0" + bytes(8) + b"p\0\x7f\xff\xff\xff", "LogicalMessage", 16, "2147483647 bytes"),
        (b"T\xff\xff\xff\xff\0\0\0\0\1", "Truncate", 10, "4 bytes expected, 0 left"),
    ],
)
def test_it_says_what_is_wrong(data: bytes, what: str, offset: int, problem: str):
    with pytest.raises(ProtocolError) as caught:
        decode(data)

    assert (caught.value.what, caught.value.offset) == (what, offset)
    assert problem in caught.value.problem


def test_the_end_of_a_row_is_found_whatever_it_holds():
    kinds = (b"n", b"u", b"b\0\0\0\0", b"t\0\0\0\1x")
    for first in kinds:
        for second in kinds:
            whole = INSERT + b"\0\2" + first + second
            row = decode(whole)
            assert len(row[1].values) == 2
            for size in range(len(INSERT), len(whole)):
                with pytest.raises(ProtocolError):
                    decode(whole[:size])


def test_unchanged_has_one_value():
    assert [repr(each) for each in Unchanged] == ["UNCHANGED"]
