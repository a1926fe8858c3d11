"""What real servers sent is understood, and means what their workload meant."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from pgcdc_outbox.pgoutput import (
    UNCHANGED,
    Begin,
    BeginPrepare,
    Commit,
    CommitPrepared,
    Delete,
    Insert,
    LogicalMessage,
    Message,
    Origin,
    Prepare,
    PrimaryKeepalive,
    Relation,
    RollbackPrepared,
    StreamAbort,
    StreamCommit,
    StreamPrepare,
    StreamStart,
    StreamStop,
    Truncate,
    Type,
    Update,
    decode_frame,
    format_lsn,
)
from tests.recordings import Recording, recordings

VERSIONS = (14, 15, 16, 17, 18)


def expecting(key: str) -> pytest.MarkDecorator:
    chosen = [recording for recording in recordings() if key in recording.expect]
    assert chosen
    return pytest.mark.parametrize("recording", chosen, ids=str)


every = pytest.mark.parametrize("recording", recordings(), ids=str)


def named(name: str) -> pytest.MarkDecorator:
    chosen = [recording for recording in recordings() if recording.name == name]
    assert chosen
    return pytest.mark.parametrize("recording", chosen, ids=str)


def test_every_supported_version_was_recorded():
    assert {recording.version // 10000 for recording in recordings()} == set(VERSIONS)


def test_every_kind_of_message_was_recorded():
    tags = {chr(data[0]) for each in recordings() for data, _, _ in each.decoded()}
    assert tags == set("BCORYIUDTMSEcAbPKrp")


@every
def test_frames_encode_to_the_bytes_they_came_from(recording: Recording):
    assert [decode_frame(data).encode() for data in recording.frames] == list(recording.frames)


@every
def test_messages_encode_to_the_bytes_they_came_from(recording: Recording):
    for data, message, _ in recording.decoded():
        assert message.encode() == data


@every
def test_a_view_decodes_as_bytes_do(recording: Recording):
    for data in recording.frames:
        assert decode_frame(memoryview(data)) == decode_frame(data)


@every
def test_keepalives_never_go_back(recording: Recording):
    frames = map(decode_frame, recording.frames)
    ends = [frame.wal_end for frame in frames if isinstance(frame, PrimaryKeepalive)]
    assert ends
    assert ends == sorted(ends)


@every
def test_the_kinds_that_must_occur_do(recording: Recording):
    tags = {chr(data[0]) for data, _, _ in recording.decoded()}
    assert tags >= set(recording.expect["kinds"])


@expecting("counts")
def test_there_are_as_many_as_the_workload_made(recording: Recording):
    tags = Counter(chr(data[0]) for data, _, _ in recording.decoded())
    expected = recording.expect["counts"]
    assert {tag: tags[tag] for tag in expected} == expected


@expecting("inserted")
def test_rows_hold_the_values_that_a_query_returns(recording: Recording):
    names: dict[int, str] = {}
    rows = defaultdict(list)
    for message in recording.messages():
        match message:
            case Relation(oid=oid, namespace=namespace, name=name):
                names[oid] = f"{namespace}.{name}"
            case Insert(relation=oid, row=row):
                rows[names[oid]].append(row)

    for table, expected in recording.expect["inserted"].items():
        values = [tuple(None if v is None else bytes.fromhex(v) for v in row) for row in expected]
        assert [row.values for row in rows[table]] == values
        for row in rows[table]:
            assert [row.is_text(n) for n in range(len(row.values))] == [
                value is not None and not recording.options["binary"] for value in row.values
            ]


@named("types, binary")
def test_zero_length_is_not_null(recording: Recording):
    _, empty, nulls = [m.row for m in recording.messages() if isinstance(m, Insert)][:3]
    assert empty.values[1:3] == (b"", b"")
    assert nulls.values[1:] == (None,) * (len(nulls.values) - 1)


@named("types, text")
def test_updates_and_deletes_say_how_the_row_was(recording: Recording):
    changes = [m for m in recording.messages() if isinstance(m, Update | Delete)]
    plain, rekeyed, delete, full, full_delete, untouched = changes
    assert isinstance(plain, Update)
    assert (plain.key, plain.old) == (None, None)
    assert isinstance(rekeyed, Update)
    assert rekeyed.key is not None
    assert rekeyed.key.values[0] == b"1"
    assert rekeyed.row.values[0] == b"2"
    assert isinstance(delete, Delete)
    assert delete.key is not None
    assert delete.key.values[0] == b"2"
    assert set(delete.key.values[1:]) == {None}
    assert isinstance(full, Update)
    assert full.old is not None
    assert (full.old.values[1], full.row.values[1]) == (b"", b"more")
    assert isinstance(full_delete, Delete)
    assert full_delete.old == full.row
    assert isinstance(untouched, Update)
    assert untouched.row.values == (b"1", UNCHANGED, b"1")


@named("types, binary")
def test_a_truncate_names_its_tables_and_how(recording: Recording):
    (truncate,) = [m for m in recording.messages() if isinstance(m, Truncate)]
    names = {m.oid: m.name for m in recording.messages() if isinstance(m, Relation)}
    assert sorted(names[oid] for oid in truncate.relations) == ["emptied", "large"]
    assert truncate.cascade
    assert truncate.restart_identity


@named("types, binary")
def test_types_are_described(recording: Recording):
    types = [m for m in recording.messages() if isinstance(m, Type)]
    names = {(each.namespace, each.name) for each in types}
    assert ("recording", "mood") in names
    # A domain goes by the name of the type beneath it, and "" is pg_catalog.
    assert ("", "int4") in names


@named("types, binary")
def test_columns_are_described(recording: Recording):
    relation = next(m for m in recording.messages() if isinstance(m, Relation))
    assert (relation.namespace, relation.name) == ("recording", "types")
    assert relation.replica_identity == "d"
    assert [column.name for column in relation.columns if column.is_key] == ["id"]
    columns = {column.name: column for column in relation.columns}
    assert columns["id"].type_oid == 20
    assert columns["id"].type_modifier == -1
    # What PostgreSQL adds to a length, and to a precision and a scale.
    assert columns["label"].type_modifier == 40 + 4
    assert columns["amount"].type_modifier == (20 << 16 | 4) + 4


@expecting("relations")
def test_a_partition_is_described_with_its_root(recording: Recording):
    relations = [m for m in recording.messages() if isinstance(m, Relation)]
    names = [f"{each.namespace}.{each.name}" for each in relations]
    assert sorted(set(names)) == recording.expect["relations"]
    assert names == [
        "recording.parent", "recording.leaf_1", "recording.parent", "recording.leaf_2",
    ]  # fmt: skip
    root = relations[0].oid
    assert {m.relation for m in recording.messages() if isinstance(m, Insert)} == {root}


@expecting("origins")
def test_origins_are_named(recording: Recording):
    messages = recording.messages()
    at = next(n for n, message in enumerate(messages) if isinstance(message, Origin))
    assert isinstance(messages[at - 1], Begin)
    origins = [m for m in messages if isinstance(m, Origin)]
    assert [[format_lsn(m.commit_lsn), m.name] for m in origins] == recording.expect["origins"]


@expecting("messages")
def test_logical_messages_keep_their_content(recording: Recording):
    found = [m for m in recording.messages() if isinstance(m, LogicalMessage)]
    assert sorted([m.transactional, m.prefix, m.content.hex()] for m in found) == sorted(
        recording.expect["messages"]
    )


@expecting("aborts")
def test_aborts_are_of_a_part_or_of_the_whole(recording: Recording):
    aborts = [m for m in recording.messages() if isinstance(m, StreamAbort)]
    whole = [abort for abort in aborts if abort.xid == abort.subxid]
    assert {"whole": len(whole), "part": len(aborts) - len(whole)} == recording.expect["aborts"]
    for abort in aborts:
        assert (abort.abort_lsn is not None) == recording.parallel
        assert len(abort.encode()) == (25 if recording.parallel else 9)


@expecting("streams")
def test_streams_take_turns(recording: Recording):
    turns = [m.xid for m in recording.messages() if isinstance(m, StreamStart)]
    commits = [m.xid for m in recording.messages() if isinstance(m, StreamCommit)]
    assert len(set(turns)) == len(set(commits)) == recording.expect["streams"]
    # The first goes on after the second has begun.
    assert turns != sorted(turns)


@expecting("survive")
def test_what_rolled_back_does_not_survive(recording: Recording):
    assert survivors(recording.messages()) == recording.expect["survive"]


@expecting("gids")
def test_prepared_transactions_keep_their_name(recording: Recording):
    messages = recording.messages()
    prepared = [m for m in messages if isinstance(m, Prepare | StreamPrepare)]
    fates = [m for m in messages if isinstance(m, CommitPrepared | RollbackPrepared)]
    assert [m.gid for m in prepared] == recording.expect["gids"]
    assert [(m.gid, m.xid) for m in fates] == [(m.gid, m.xid) for m in prepared]
    for begin, prepare in zip(
        [m for m in messages if isinstance(m, BeginPrepare)],
        [m for m in messages if isinstance(m, Prepare)],
        strict=True,
    ):
        assert (begin.prepare_lsn, begin.end_lsn, begin.xid, begin.gid) == (
            prepare.prepare_lsn, prepare.end_lsn, prepare.xid, prepare.gid,
        )  # fmt: skip

    for rollback in (m for m in fates if isinstance(m, RollbackPrepared)):
        assert rollback.prepare_end_lsn in {prepare.end_lsn for prepare in prepared}


@every
def test_the_grammar_of_a_stream_holds(recording: Recording):
    begin: Begin | None = None
    block: int | None = None
    ends = [0]
    known: set[int] = set()
    for message in recording.messages():
        match message:
            case Begin():
                assert begin is None
                begin = message
            case Commit():
                assert begin is not None
                assert message.commit_lsn == begin.final_lsn
                assert message.committed_at == begin.committed_at
                assert message.flags == 0
                assert message.commit_lsn < message.end_lsn
                ends.append(message.end_lsn)
                begin = None
            case StreamStart(xid=xid):
                assert block is None
                block = xid
            case StreamStop():
                assert block is not None
                block = None
            case StreamCommit() | Prepare() | StreamPrepare() | CommitPrepared():
                assert block is None
                ends.append(message.end_lsn)
            case Relation(oid=oid):
                known.add(oid)
            case Insert(relation=oid) | Update(relation=oid) | Delete(relation=oid):
                assert oid in known
                assert (message.xid is not None) == (block is not None)
            case _:
                pass

    assert begin is None
    assert block is None
    assert ends == sorted(set(ends))


def survivors(messages: list[Message]) -> int:
    """How many rows a client should keep."""
    held: dict[int, list[int | None]] = defaultdict(list)
    top, kept = 0, 0
    for message in messages:
        match message:
            case StreamStart(xid=xid):
                top = xid
            case Insert(xid=None):
                kept += 1
            case Insert(xid=xid):
                held[top].append(xid)
            case StreamAbort(xid=xid, subxid=subxid) if xid == subxid:
                held.pop(xid, None)
            case StreamAbort(xid=xid, subxid=subxid):
                held[xid] = [each for each in held[xid] if each != subxid]
            case StreamCommit(xid=xid) | StreamPrepare(xid=xid):
                kept += len(held.pop(xid))

    return kept
