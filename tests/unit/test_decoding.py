"""From frames of the stream to jobs, and to what may be acknowledged."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pgcdc_outbox.consumer.intake import Intake
from pgcdc_outbox.core.batching import Batch, Batcher
from pgcdc_outbox.core.deliveries import settled
from pgcdc_outbox.core.progress import Progress
from pgcdc_outbox.errors import PublicationChanged, StreamCorrupt
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.pgoutput import (
    Column,
    Commit,
    LogicalMessage,
    Origin,
    Relation,
    StreamAbort,
    Truncate,
    Type,
    UnknownFrame,
    XLogData,
    decode,
    decode_frame,
)
from pgcdc_outbox.postgres.source.decoding import Decoding
from tests.unit.frames import (
    OID,
    USUAL,
    begin,
    commit,
    data,
    insert,
    int4,
    int8,
    keepalive,
    recorded,
    relation,
)

START = LSN(1000)
VERSIONS = (14, 15, 16, 17, 18)


class Reader:
    """A decoding with a real queue behind it, and the settling that a consumer would do."""

    def __init__(
        self,
        *,
        traces: dict[int, int] | None = None,
        consumer: str = "default",
        schema: str | None = "outbox",
        max_jobs: int = 1,
    ) -> None:
        self.skips = False
        self.progress = Progress(START)
        batcher = Batcher(max_jobs=max_jobs, max_bytes=max_jobs * 1000, max_age=0.0)
        self._batcher = batcher
        self.decoding = Decoding(
            Intake(batcher, max_jobs=10, max_bytes=10, clock=lambda: 0.0),
            self.progress,
            consumer=consumer,
            schema=schema,
            traces=traces or {},
            skips_rows=lambda: self.skips,
        )

    def feed(self, *frames: bytes) -> "Reader":
        coming = list(frames)

        def get(_: int) -> tuple[int, bytes]:
            if not coming:
                return 0, b""

            frame = coming.pop(0)
            return len(frame), frame

        self.decoding.take_in(get, lambda: None, len(frames))
        return self

    def batches(self) -> list[Batch]:
        batches = []
        while (batch := self._batcher.take()) is not None:
            batches.append(batch)

        return batches

    def ids(self) -> list[int]:
        return [batch.jobs[0].id for batch in self.batches()]

    def settle(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            self.progress.settle(batch.tickets)


def transaction(*ids: int, end: int, **values: Any) -> list[bytes]:
    return [begin(), *(insert(id=int8(id_), **values) for id_ in ids), commit(end)]


class TestPositions:
    def test_a_transaction_is_acknowledged_when_its_jobs_are_settled(self) -> None:
        reader = Reader().feed(data(relation()), *transaction(1, 2, end=1500))
        first, second = reader.batches()
        assert [first.jobs[0].id, second.jobs[0].id] == [1, 2]
        assert reader.progress.flushed == START

        reader.settle([second])
        assert reader.progress.flushed == START

        reader.settle([first])
        assert reader.progress.flushed == 1500

    def test_each_transaction_waits_for_its_own_jobs(self) -> None:
        reader = Reader().feed(data(relation()), *transaction(1, end=1500))
        reader.feed(*transaction(2, 3, end=1600), *transaction(4, end=1700))
        first, second, third, fourth = reader.batches()

        reader.settle([first])
        assert reader.progress.flushed == 1500

        reader.settle([fourth, second])
        assert reader.progress.flushed == 1500

        reader.settle([third])
        assert reader.progress.flushed == 1700

    @pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 100])
    def test_the_position_moves_with_each_batch(self, size: int) -> None:
        """However many small transactions came at once."""
        reader = Reader(max_jobs=size).feed(
            data(relation()),
            *(frame for id_ in range(1, 13) for frame in transaction(id_, end=1500 + id_)),
        )

        settled = 0
        for batch in reader.batches():
            reader.settle([batch])
            settled += len(batch.jobs)
            assert reader.progress.flushed == 1500 + settled

        assert settled == 12

    @pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 100])
    def test_a_position_never_passes_a_job_that_is_not_settled(self, size: int) -> None:
        """Also with transactions that do not fit into the batches, and ones without jobs."""
        lengths = [1, 5, 0, 2, 3, 0, 0, 1, 8, 1, 1]
        frames, ends, id_ = [data(relation())], dict[int, int](), 0
        for place, length in enumerate(lengths):
            ids = range(id_ + 1, id_ + 1 + length)
            id_ += length
            frames += transaction(*ids, end=1500 + place)
            ends |= dict.fromkeys(ids, 1500 + place)

        reader = Reader(max_jobs=size).feed(*frames)
        left = dict(ends)
        for batch in reader.batches():
            assert reader.progress.flushed < min(left.values())
            reader.settle([batch])
            for job in batch.jobs:
                del left[job.id]

        assert not left
        assert reader.progress.flushed == 1500 + len(lengths) - 1

    def test_jobs_are_handed_out_before_their_commit_comes(self) -> None:
        reader = Reader().feed(data(relation()), begin(), insert(id=int8(1)))
        batches = reader.batches()
        assert [batch.jobs[0].id for batch in batches] == [1]

        reader.settle(batches)
        assert reader.progress.flushed == START, "its transaction may bring more"

        reader.feed(commit(1500))
        assert reader.progress.flushed == 1500

    def test_a_transaction_without_jobs_is_acknowledged_at_once(self) -> None:
        assert Reader().feed(begin(), commit(1500)).progress.flushed == 1500

    def test_a_transaction_of_another_consumer_is_acknowledged_at_once(self) -> None:
        reader = Reader().feed(data(relation()), *transaction(1, end=1500, consumer=b"other"))

        assert reader.ids() == []
        assert reader.progress.flushed == 1500

    def test_what_is_received_inside_a_transaction_does_not_acknowledge_it(self) -> None:
        reader = Reader().feed(data(relation()), begin(), insert(id=int8(1)), keepalive(1400))
        assert reader.progress.flushed == START

        reader.feed(commit(1500))
        assert reader.progress.flushed == START
        assert reader.progress.received == 1500

    def test_the_positions_of_frames_are_not_acknowledged(self) -> None:
        far = XLogData(10**9, 10**9, 0, relation().encode()).encode()

        assert Reader().feed(far).progress.received == START

    def test_a_keepalive_moves_what_is_idle(self) -> None:
        assert Reader().feed(keepalive(1500)).progress.flushed == 1500

    def test_a_keepalive_after_skipped_rows_acknowledges_nothing(self) -> None:
        reader = Reader()
        reader.skips = True

        reader.feed(keepalive(1500, reply=True))

        assert reader.progress.flushed == START
        assert reader.decoding.asked, "the server is answered all the same"

    def test_the_server_may_ask_for_an_answer(self) -> None:
        reader = Reader().feed(keepalive(1500))
        assert not reader.decoding.asked

        reader.feed(keepalive(1500, reply=True), keepalive(1500))
        assert reader.decoding.asked


class TestTraces:
    """What an earlier hold has recorded comes again, and is recognised."""

    @pytest.mark.parametrize(
        ("recorded_attempt", "attempt", "handled"),
        [(1, None, False), (2, None, False), (1, int4(2), True), (2, int4(2), False)],
    )
    def test_a_job_is_known_by_id_and_attempt(
        self, recorded_attempt: int, attempt: bytes | None, handled: bool
    ) -> None:
        reader = Reader(traces={5: settled(recorded_attempt, None)})

        reader.feed(data(relation()), *transaction(5, end=1500, attempt=attempt))

        assert reader.ids() == ([5] if handled else [])
        assert reader.progress.flushed == (START if handled else 1500)

    def test_its_neighbours_are_handled(self) -> None:
        reader = Reader(traces={5: settled(1, None)}).feed(
            data(relation()), *transaction(4, 5, 6, end=1500)
        )

        assert reader.ids() == [4, 6]

    def test_a_row_that_is_no_job_is_recognised_too(self) -> None:
        reader = Reader(traces={5: settled(1, None)})

        reader.feed(data(relation()), *transaction(5, end=1500, payload=None))

        assert reader.batches() == []
        assert reader.progress.flushed == 1500


class TestUndecodable:
    def test_it_is_queued_as_dead_and_holds_its_transaction(self) -> None:
        reader = Reader().feed(data(relation()), *transaction(5, end=1500, payload=None))

        (batch,) = reader.batches()
        assert batch.jobs[0].id == 5
        assert "no payload" in batch.dead
        assert reader.progress.flushed == START

        reader.settle([batch])
        assert reader.progress.flushed == 1500


class TestRelations:
    def test_root_and_leaf_are_told_apart(self) -> None:
        """A row of a partition bears the number of its root; both are described before it."""
        leaf = relation(("payload", *USUAL), oid=OID + 1, name="immediate_20240506")
        reader = Reader().feed(begin(), data(relation()), data(leaf), insert(), commit(1500))

        assert reader.ids() == [1]

    def test_leaves_of_different_columns_are_read_each_in_its_way(self) -> None:
        moved = tuple(reversed(USUAL))
        reader = Reader().feed(data(relation()), data(relation(moved, oid=OID + 1)), begin())

        reader.feed(insert(id=int8(1)), insert(moved, oid=OID + 1, id=int8(2)))

        assert reader.ids() == [1, 2]

    def test_a_table_may_change_under_way(self) -> None:
        reader = Reader().feed(data(relation()), *transaction(1, end=1500))
        wider = (*USUAL, "added")

        reader.feed(data(relation(wider)), begin(), insert(wider, id=int8(2)), commit(1600))

        assert reader.ids() == [1, 2]

    def test_a_table_without_another_column_is_not_read(self) -> None:
        with pytest.raises(PublicationChanged, match="lacks payload"):
            Reader().feed(data(relation(tuple(name for name in USUAL if name != "payload"))))

    def test_rows_of_other_tables_are_no_jobs(self) -> None:
        """Somebody may have added one to the publication."""
        other = relation(oid=OID + 1, name="orders")
        reader = Reader().feed(data(relation()), data(other), begin())

        reader.feed(insert(oid=OID + 1, id=int8(1)), insert(id=int8(2)), commit(1500))

        assert reader.ids() == [2]

    def test_a_table_without_ids_stops_the_reader(self) -> None:
        with pytest.raises(StreamCorrupt, match="column id"):
            Reader().feed(data(relation(USUAL[1:])))


class TestOtherMessages:
    @pytest.mark.parametrize(
        "message",
        [
            StreamAbort(998, 999),
            Type(70_000, "public", "mood"),
            Origin(0, "elsewhere"),
            LogicalMessage(1, 1200, "prefix", b"content"),
            Truncate((OID,), 0),
        ],
        ids=lambda message: type(message).__name__,
    )
    def test_they_are_nothing_of_ours(self, message: Any) -> None:
        reader = Reader().feed(data(relation()), begin(), insert(id=int8(1)))

        reader.feed(data(message), insert(id=int8(2)), commit(1500))

        assert reader.ids() == [1, 2]

    def test_a_frame_of_a_newer_server_is_not_for_us(self) -> None:
        assert Reader().feed(UnknownFrame(b"z123").encode()).progress.received == START


class TestGarbage:
    """Bytes that make no sense stop the reader with the position, and with nothing else."""

    @pytest.mark.parametrize(
        "frame",
        [
            pytest.param(b"w", id="a header cut short"),
            pytest.param(data(b""), id="no message"),
            pytest.param(data(b"!"), id="a message of no kind"),
            pytest.param(data(b"I"), id="an insert of nothing"),
            pytest.param(data(b"I\0\0"), id="an insert cut short in its relation"),
            pytest.param(insert()[:30], id="an insert cut short after its relation"),
            pytest.param(insert()[:-1], id="an insert cut short"),
            pytest.param(insert() + b"!", id="an insert too long"),
            pytest.param(insert(oid=1), id="an insert of an unknown relation"),
            pytest.param(insert().replace(b"N", b"K", 1), id="an insert of no new row"),
            pytest.param(commit(2000)[:-1], id="a commit cut short"),
            pytest.param(commit(2000) + b"!", id="a commit too long"),
            pytest.param(data(relation())[:-1], id="a relation cut short"),
            pytest.param(keepalive(2000)[:-1], id="a keepalive cut short"),
        ],
    )
    def test_it_stops_the_reader(self, frame: bytes) -> None:
        reader = Reader().feed(data(relation()), begin())

        with pytest.raises(StreamCorrupt):
            reader.feed(frame)

        assert reader.progress.flushed == START
        assert reader.batches() == []

    def test_the_position_is_named(self) -> None:
        with pytest.raises(StreamCorrupt, match="after 0/3E8: "):
            Reader().feed(b"w")

    def test_an_insert_outside_a_transaction_is_refused(self) -> None:
        with pytest.raises(StreamCorrupt, match="out of place"):
            Reader().feed(data(relation()), begin(), commit(1500), insert())


SOUND = [
    data(relation()),
    *transaction(1, 2, end=1500),
    keepalive(1600),
    data(relation(tuple(reversed(USUAL)))),
    begin(),
    insert(tuple(reversed(USUAL)), id=int8(3), headers=b'\x01{"a": 1}'),
    commit(1700),
]


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, len(SOUND) - 1),
    st.integers(0, 250),
    st.integers(0, 40),
    st.binary(max_size=8),
)
@example(place=2, at=28, drop=1000, put=b"")
def test_whatever_is_wrong_with_a_frame_nothing_but_our_error_is_raised(
    place: int, at: int, drop: int, put: bytes
) -> None:
    """A part of one frame is replaced; the jobs that come all the same are whole."""
    reader = Reader()
    frames = list(SOUND)
    frames[place] = frames[place][:at] + put + frames[place][at + drop :]

    with suppress(StreamCorrupt, PublicationChanged):
        reader.feed(*frames)

    for batch in reader.batches():
        (job,) = batch.jobs
        assert isinstance(job.id, int)
        assert isinstance(job.topic, str)
        assert isinstance(job.payload, bytes)
        assert isinstance(job.headers, dict)


class TestRecordings:
    """What servers really send, as far as tables of other shapes can show it."""

    @pytest.mark.parametrize("version", VERSIONS)
    def test_rows_of_partitions_come_by_their_root(self, version: int) -> None:
        reader = Reader(schema=None).feed(*recorded(version, "partitions through their root"))

        batches = reader.batches()
        assert [batch.jobs[0].id for batch in batches] == [1, 2, 3]
        assert all("no payload" in batch.dead for batch in batches), "these are no jobs"
        before = reader.progress.flushed

        reader.settle(batches)
        assert before < reader.progress.flushed == reader.progress.received

    @pytest.mark.parametrize("version", VERSIONS)
    def test_updates_deletes_and_truncations_are_nothing_of_ours(self, version: int) -> None:
        reader = Reader(schema=None).feed(*recorded(version, "types, binary"))

        assert sorted(reader.ids()) == [-(2**63), 1, 1, 1, 2**63 - 1]

    @pytest.mark.parametrize("version", VERSIONS)
    def test_a_large_rollback_brings_nothing(self, version: int) -> None:
        """Version 18 sends an abort that belongs to nothing we were told of."""
        frames = recorded(version, "a large rollback, streaming off")
        reader = Reader(schema=None).feed(*map(with_an_id, frames))

        ids = reader.ids()
        assert ids == list(range(3_000_001, 3_000_001 + len(ids)))
        assert len(ids) == 20


def with_an_id(frame: bytes) -> bytes:
    """The same frame; a relation's first column is called ``id``."""
    match decode_frame(frame):
        case XLogData(payload=payload) as outer if payload[:1] == b"R":
            found = decode(payload)
            assert isinstance(found, Relation)
            first, *others = found.columns
            renamed = found._replace(columns=(Column("id", *first[1:]), *others))
            return outer._replace(payload=renamed.encode()).encode()
        case _:
            return frame


def test_a_commit_is_read_by_its_place() -> None:
    """The end is found by its offset; the encoder of the parser says where that is."""
    frame = data(Commit(flags=0, commit_lsn=1111, end_lsn=2222, committed_at=3333))

    assert Reader(schema=None).feed(begin(), frame).progress.received == 2222
