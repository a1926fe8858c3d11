"""Every message, against bytes that were not written by our encoder."""

from __future__ import annotations

import pickle

import pytest

from pgcdc_outbox.pgoutput import (
    Delete,
    Insert,
    Parser,
    ProtocolError,
    Relation,
    Row,
    StreamAbort,
    StreamStart,
    StreamStop,
    Truncate,
    Update,
    decode,
)
from tests.unit.pgoutput.vectors import VECTORS, Vector

every = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)


@every
def test_it_decodes(vector: Vector):
    message = decode(vector.data, streaming=vector.streaming, parallel=vector.parallel)
    assert type(message) is type(vector.message)
    assert message == vector.message


@every
def test_it_encodes(vector: Vector):
    assert vector.message.encode() == vector.data


@every
def test_a_view_will_do_and_is_not_kept(vector: Vector):
    arrived = bytearray(vector.data)
    view = memoryview(arrived)
    message = decode(view, streaming=vector.streaming, parallel=vector.parallel)
    view.release()
    arrived[:] = bytes(len(arrived))
    assert message == vector.message


def test_there_is_a_vector_for_every_kind():
    assert {chr(vector.data[0]) for vector in VECTORS} == set("BCORYIUDTMSEcAbPKrp")


def test_a_message_cannot_be_changed():
    with pytest.raises(AttributeError):
        StreamStart(1, True).xid = 2  # type: ignore[misc]


def test_flags_have_names():
    assert not Truncate((1,), flags=0).cascade
    assert Truncate((1,), flags=1).cascade
    assert not Truncate((1,), flags=1).restart_identity
    assert Truncate((1,), flags=2).restart_identity


def test_what_cannot_be_said_is_not_encoded():
    row = Row((b"1",), b"b")
    with pytest.raises(ValueError, match="never both"):
        Update(1, row, key=row, old=row).encode()

    with pytest.raises(ValueError, match="a key or an old row"):
        Delete(1).encode()

    with pytest.raises(ValueError, match="first NUL"):
        Relation(1, "public", "a\0b", "d", ()).encode()

    with pytest.raises(ValueError, match="shorter"):
        Insert(1, Row((b"1", b"2"), b"b")).encode()


class TestParser:
    def test_changes_bear_an_xid_between_start_and_stop_only(self):
        parser = Parser()
        plain = Insert(1, Row((b"1",), b"b"))
        streamed = plain._replace(xid=767)
        sequence = [plain, StreamStart(766, True), streamed, StreamStop(), plain]
        assert [parser.decode(message.encode()) for message in sequence] == sequence

    def test_it_knows_whether_a_block_is_open(self):
        parser = Parser()
        assert not parser.in_stream
        parser.decode(StreamStart(1, True).encode())
        assert parser.in_stream
        parser.decode(memoryview(StreamStop().encode()))
        assert not parser.in_stream

    def test_an_abort_outside_any_block_is_no_surprise(self):
        stray = StreamAbort(1, 2)
        assert Parser().decode(stray.encode()) == stray

    def test_an_abort_is_longer_in_the_parallel_form(self):
        short, long = StreamAbort(1, 2), StreamAbort(1, 2, 3, 4)
        assert Parser(parallel=True).decode(long.encode()) == long
        with pytest.raises(ProtocolError, match="StreamAbort: 24 bytes expected, 8 left"):
            Parser(parallel=True).decode(short.encode())

        with pytest.raises(ProtocolError, match="StreamAbort: 16 bytes too many"):
            Parser().decode(long.encode())

    def test_blocks_neither_nest_nor_end_twice(self):
        parser = Parser()
        with pytest.raises(ProtocolError, match="no streamed block is open"):
            parser.decode(b"E")

        parser.decode(StreamStart(1, True).encode())
        with pytest.raises(ProtocolError, match="StreamStart: it cannot stand inside"):
            parser.decode(StreamStart(1, False).encode())

    @pytest.mark.parametrize(
        "vector",
        [vector for vector in VECTORS if vector.data[:1] in set(map(bytes, zip(b"BCcAbPKrp")))],
        ids=lambda vector: vector.name,
    )
    def test_no_transaction_ends_or_begins_inside_a_block(self, vector: Vector):
        parser = Parser(parallel=vector.parallel)
        parser.decode(StreamStart(1, True).encode())
        with pytest.raises(ProtocolError, match="cannot stand inside a streamed block"):
            parser.decode(vector.data)


class TestError:
    def test_it_says_what_and_where(self):
        with pytest.raises(ProtocolError) as caught:
            decode(b"B\0\0")

        assert caught.value.what == "Begin"
        assert caught.value.offset == 1
        assert str(caught.value) == "Begin: 20 bytes expected, 2 left (at byte 1)"

    def test_it_survives_a_journey_between_processes(self):
        error = ProtocolError("odd", what="Begin", offset=3)
        again = pickle.loads(pickle.dumps(error))
        assert (again.problem, again.what, again.offset) == ("odd", "Begin", 3)
