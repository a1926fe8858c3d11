"""What is encoded decodes to itself, and no bytes surprise the decoder."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from pgcdc_outbox.pgoutput import (
    UNCHANGED,
    Begin,
    BeginPrepare,
    Column,
    Commit,
    CommitPrepared,
    Delete,
    HotStandbyFeedback,
    Insert,
    LogicalMessage,
    Message,
    Origin,
    Parser,
    Prepare,
    PrimaryKeepalive,
    ProtocolError,
    Relation,
    RollbackPrepared,
    Row,
    StandbyStatusUpdate,
    StreamAbort,
    StreamCommit,
    StreamPrepare,
    StreamStart,
    StreamStop,
    Truncate,
    Type,
    UnknownFrame,
    Update,
    XLogData,
    decode,
    decode_client_frame,
    decode_frame,
    format_lsn,
    from_datetime,
    parse_lsn,
    to_datetime,
)

TAGS = b"BCORYIUDTMSEcAbPKrp"


def unsigned(bits: int) -> SearchStrategy[int]:
    return st.integers(0, (1 << bits) - 1)


u8, u32, u64 = unsigned(8), unsigned(32), unsigned(64)
i32 = st.integers(-(1 << 31), (1 << 31) - 1)
times = st.integers(-(1 << 63), (1 << 63) - 1)
# Said aloud wherever a field may be left out: Hypothesis would make one up.
nothing = st.none()
names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    values = draw(st.lists(st.none() | st.just(UNCHANGED) | st.binary(max_size=20), max_size=8))
    formats = bytes(
        draw(st.sampled_from(b"tb")) if isinstance(value, bytes) else ord("b") for value in values
    )
    return Row(tuple(values), formats)


columns = st.builds(Column, names, u32, i32, u8)
prepared = (u8, u64, u64, times, u32, names)

PLAIN: SearchStrategy[Message] = st.one_of(
    st.builds(Begin, u64, times, u32),
    st.builds(Commit, u8, u64, u64, times),
    st.builds(StreamCommit, u32, u8, u64, u64, times),
    st.builds(BeginPrepare, u64, u64, times, u32, names),
    st.builds(Prepare, *prepared),
    st.builds(CommitPrepared, *prepared),
    st.builds(StreamPrepare, *prepared),
    st.builds(RollbackPrepared, u8, u64, u64, times, times, u32, names),
)


def changes(xids: SearchStrategy[int | None]) -> SearchStrategy[Message]:
    """What may stand inside a block and outside it, with or without an xid."""
    return st.one_of(
        st.builds(
            Relation, u32, names, names, st.sampled_from("dnfi"),
            st.lists(columns, max_size=5).map(tuple), xids,
        ),
        st.builds(Type, u32, names, names, xids),
        st.builds(Insert, u32, rows(), xids),
        st.builds(Update, u32, rows(), key=nothing, old=nothing, xid=xids),
        st.builds(Update, u32, rows(), key=rows(), old=nothing, xid=xids),
        st.builds(Update, u32, rows(), key=nothing, old=rows(), xid=xids),
        st.builds(Delete, u32, key=rows(), old=nothing, xid=xids),
        st.builds(Delete, u32, key=nothing, old=rows(), xid=xids),
        st.builds(Truncate, st.lists(u32, max_size=5).map(tuple), u8, xids),
        st.builds(LogicalMessage, u8, u64, names, st.binary(max_size=20), xids),
        st.builds(Origin, u64, names),
    )  # fmt: skip


def aborts(*, parallel: bool) -> SearchStrategy[StreamAbort]:
    if parallel:
        return st.builds(StreamAbort, u32, u32, u64, times)

    return st.builds(StreamAbort, u32, u32, nothing, nothing)


@st.composite
def streams(draw: st.DrawFn, *, parallel: bool) -> list[Message]:
    """Messages in an order that a server may send."""
    sequence: list[Message] = []
    outside = st.one_of(PLAIN, changes(nothing), aborts(parallel=parallel))
    for _ in range(draw(st.integers(0, 4))):
        sequence += draw(st.lists(outside, max_size=3))
        sequence.append(draw(st.builds(StreamStart, u32, st.booleans())))
        sequence += draw(st.lists(changes(u32), max_size=4))
        sequence.append(StreamStop())

    return sequence


@given(message=PLAIN | changes(nothing) | aborts(parallel=False) | st.just(StreamStop()))
def test_a_message_outside_a_block(message: Message):
    same(message, decode(message.encode()))


@given(message=changes(u32))
def test_a_message_inside_a_block(message: Message):
    same(message, decode(message.encode(), streaming=True))


@given(message=aborts(parallel=True))
def test_an_abort_in_the_parallel_form(message: Message):
    same(message, decode(message.encode(), parallel=True))


# Slow to draw on a busy machine: that is about the machine.
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), parallel=st.booleans())
def test_a_connections_worth(data: st.DataObject, parallel: bool):
    sequence = data.draw(streams(parallel=parallel))
    parser = Parser(parallel=parallel)
    assert [parser.decode(message.encode()) for message in sequence] == sequence


@given(
    frame=st.one_of(
        st.builds(XLogData, u64, u64, times, st.binary(max_size=40)),
        st.builds(PrimaryKeepalive, u64, times, st.booleans()),
        st.binary(min_size=1).filter(lambda data: data[0] not in b"wk").map(UnknownFrame),
    )
)
def test_a_servers_frame(frame: XLogData | PrimaryKeepalive | UnknownFrame):
    same(frame, decode_frame(frame.encode()))
    same(frame, decode_frame(memoryview(frame.encode())))


@given(
    frame=st.one_of(
        st.builds(StandbyStatusUpdate, u64, u64, u64, times, st.booleans()),
        st.builds(HotStandbyFeedback, times, u32, u32, u32, u32),
    )
)
def test_a_clients_frame(frame: StandbyStatusUpdate | HotStandbyFeedback):
    same(frame, decode_client_frame(frame.encode()))


@given(
    data=st.binary(max_size=200)
    | st.builds(lambda tag, rest: bytes((tag,)) + rest, st.sampled_from(TAGS), st.binary()),
    streaming=st.booleans(),
    parallel=st.booleans(),
)
def test_any_bytes_are_a_message_or_an_error(data: bytes, streaming: bool, parallel: bool):
    try:
        message = decode(data, streaming=streaming, parallel=parallel)
    except ProtocolError:
        return

    again = decode(message.encode(), streaming=streaming, parallel=parallel)
    same(message, again)


@given(data=st.binary(max_size=60))
def test_any_bytes_are_a_frame_or_an_error(data: bytes):
    attempts: list[Callable[[bytes], object]] = [decode_frame, decode_client_frame]
    for attempt in attempts:
        with suppress(ProtocolError):
            assert isinstance(attempt(data), tuple)


@given(
    message=PLAIN | changes(nothing),
    data=st.data(),
)
def test_a_prefix_is_never_a_message(message: Message, data: st.DataObject):
    whole = message.encode()
    size = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ProtocolError):
        decode(whole[:size])


@given(lsn=u64)
def test_positions(lsn: int):
    assert parse_lsn(format_lsn(lsn)) == lsn


@given(time=st.integers(-62_135_596_800_000_000, 250_000_000_000_000_000).map(lambda n: n // 2))
def test_times(time: int):
    assert from_datetime(to_datetime(time)) == time


def same(one: object, other: object) -> None:
    """Named tuples are equal if their fields are, so their classes matter too."""
    assert type(one) is type(other)
    assert one == other
