"""The outer layer: frames from a server, and to it."""

from __future__ import annotations

import pytest

from pgcdc_outbox.pgoutput import (
    HotStandbyFeedback,
    PrimaryKeepalive,
    ProtocolError,
    StandbyStatusUpdate,
    UnknownFrame,
    XLogData,
    decode_client_frame,
    decode_frame,
)

LAST = 0xFFFFFFFF_FFFFFFFF
POSITIONS = bytes.fromhex("0000000100000002 0000000300000004")

SERVER = [
    (
        b"w" + POSITIONS + bytes.fromhex("fffffffffffffffe") + b"payload",
        XLogData(start=0x100000002, end=0x300000004, sent_at=-2, payload=b"payload"),
    ),
    (
        b"w" + b"\xff" * 16 + bytes(8),
        XLogData(start=LAST, end=LAST, sent_at=0, payload=b""),
    ),
    (
        b"k" + bytes.fromhex("0000000100000002 0000000000000007 01"),
        PrimaryKeepalive(wal_end=0x100000002, sent_at=7, reply_requested=True),
    ),
    (
        b"k" + b"\xff" * 8 + bytes.fromhex("0000000000000007 00"),
        PrimaryKeepalive(wal_end=LAST, sent_at=7, reply_requested=False),
    ),
]
CLIENT = [
    (
        b"r" + POSITIONS + bytes.fromhex("ffffffffffffffff 0000000000000007 01"),
        StandbyStatusUpdate(0x100000002, 0x300000004, LAST, sent_at=7, reply_requested=True),
    ),
    (
        b"h" + bytes.fromhex("0000000000000007 00000001 00000002 00000003 ffffffff"),
        HotStandbyFeedback(7, 1, 2, 3, 2**32 - 1),
    ),
]


@pytest.mark.parametrize(("data", "frame"), SERVER)
def test_a_servers_frame(data: bytes, frame: XLogData | PrimaryKeepalive):
    for form in (data, memoryview(data)):
        decoded = decode_frame(form)
        assert type(decoded) is type(frame)
        assert decoded == frame

    assert frame.encode() == data


@pytest.mark.parametrize(("data", "frame"), CLIENT)
def test_a_clients_frame(data: bytes, frame: StandbyStatusUpdate | HotStandbyFeedback):
    for form in (data, memoryview(data)):
        decoded = decode_client_frame(form)
        assert type(decoded) is type(frame)
        assert decoded == frame

    assert frame.encode() == data


def test_a_status_update_has_the_size_the_manual_gives():
    assert len(StandbyStatusUpdate(1, 2, 3, 4).encode()) == 34
    assert not StandbyStatusUpdate(1, 2, 3, 4).reply_requested


@pytest.mark.parametrize("data", [data for data, _ in SERVER])
def test_a_servers_frame_cut_short(data: bytes):
    for size in range(25 if data[:1] == b"w" else len(data)):
        with pytest.raises(ProtocolError):
            decode_frame(data[:size])


@pytest.mark.parametrize("data", [data for data, _ in CLIENT])
def test_a_clients_frame_cut_short_or_too_long(data: bytes):
    for wrong in (*(data[:size] for size in range(len(data))), data + b"\0"):
        with pytest.raises(ProtocolError):
            decode_client_frame(wrong)


def test_a_keepalive_too_long():
    with pytest.raises(ProtocolError, match="PrimaryKeepalive: 1 bytes too many"):
        decode_frame(SERVER[2][0] + b"\0")


@pytest.mark.parametrize("tag", sorted(set(range(256)) - set(b"wk")))
def test_a_frame_of_a_later_server_is_told_apart(tag: int):
    data = bytes((tag,)) + b"whatever"
    frame = decode_frame(memoryview(data))
    assert frame == UnknownFrame(data)
    assert isinstance(frame, UnknownFrame)
    assert frame.encode() == data


def test_a_client_has_no_unknown_frames():
    with pytest.raises(ProtocolError, match="unknown type b'p'"):
        decode_client_frame(b"p123")


def test_the_payload_outlives_the_buffer_it_came_in():
    arrived = bytearray(SERVER[0][0])
    frame = decode_frame(memoryview(arrived))
    arrived[:] = bytes(len(arrived))
    assert isinstance(frame, XLogData)
    assert frame.payload == b"payload"
