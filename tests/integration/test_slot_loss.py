"""A slot or a publication that is gone costs no job."""

from collections.abc import Sequence
from typing import Any

import anyio
import psycopg
import pytest

from pgcdc_outbox import Job
from pgcdc_outbox.errors import CheckpointForeign, PublicationMissing
from pgcdc_outbox.events import (
    CheckpointSaved,
    Disconnected,
    Reconciled,
    Reconciling,
    SlotCreated,
    Streaming,
)
from pgcdc_outbox.postgres.source import span
from pgcdc_outbox.postgres.source.page import Part
from tests.harness import Outbox, Recorder, Watcher, consumer, running, slot_of, streaming
from tests.wait import eventually


async def test_a_slot_dropped_while_away_is_made_anew_and_the_gap_is_read_from_the_table(
    outbox: Outbox,
) -> None:
    recorder, watcher = Recorder(lambda jobs: [j.id for j in jobs if j.topic == "fails"]), Watcher()
    subject = consumer(outbox, recorder, observers=[watcher])
    async with streaming(subject, watcher):
        before = outbox.put(range(5))
        await recorder.got(5)

    gap = outbox.put(range(5, 10))
    outbox.rows("select pg_drop_replication_slot(%s)", [slot_of(outbox)])
    gap += outbox.put([10])
    async with streaming(subject, watcher):
        after = outbox.put([11])
        await recorder.until(lambda: set(after) <= set(recorder.ids))

    assert set(recorder.ids) == {*before, *gap, *after}
    assert recorder.ids.count(gap[0]) == recorder.ids.count(after[0]) == 1
    assert [event.reason for event in watcher.of(SlotCreated)] == [
        "first start",
        "the slot is missing",
    ]


async def test_a_crash_between_making_the_slot_and_reading_the_table_loses_nothing(
    outbox: Outbox,
) -> None:
    """The slot alone proves nothing: only a plan that was saved after it does."""
    recorder, watcher = Recorder(), Watcher()
    subject = consumer(outbox, recorder, observers=[watcher])
    async with streaming(subject, watcher):
        pass

    ids = outbox.put(range(3))
    outbox.rows("select pg_drop_replication_slot(%s)", [slot_of(outbox)])
    outbox.rows("update consumer set slot = null")
    # What the crash left: a slot that begins after the jobs.
    outbox.rows("select pg_create_logical_replication_slot(%s, 'pgoutput')", [slot_of(outbox)])
    async with running(subject):
        await recorder.got(3)

    assert recorder.ids == ids


def _make_slot_anew(outbox: Outbox) -> None:
    # A reader that was ended says so before it lets go of the slot.
    eventually(lambda: not outbox.slot()["active"])
    outbox.rows("select pg_drop_replication_slot(%s)", [slot_of(outbox)])
    outbox.rows("select pg_create_logical_replication_slot(%s, 'pgoutput')", [slot_of(outbox)])


async def test_a_slot_that_somebody_made_anew_while_away_is_not_believed(outbox: Outbox) -> None:
    """It begins after jobs that nobody has seen."""
    recorder, watcher = Recorder(), Watcher()
    subject = consumer(outbox, recorder, observers=[watcher])
    async with streaming(subject, watcher):
        before = outbox.put([1])
        await recorder.got(1)

    gap = outbox.put([2])
    _make_slot_anew(outbox)
    async with streaming(subject, watcher):
        after = outbox.put([3])
        await recorder.until(lambda: set(after) <= set(recorder.ids))

    assert set(recorder.ids) == {*before, *gap, *after}
    assert "anew" in watcher.of(SlotCreated)[1].reason


async def test_a_slot_made_anew_after_a_crash_is_not_believed_either(outbox: Outbox) -> None:
    recorder, watcher = Recorder(), Watcher()
    async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
        pass

    # As a process leaves it that was killed.
    outbox.rows("update consumer set released_at = null")
    gap = outbox.put([2])
    _make_slot_anew(outbox)
    async with running(consumer(outbox, recorder)):
        await recorder.until(lambda: set(gap) <= set(recorder.ids))


async def test_a_slot_made_anew_while_the_connection_was_lost_is_not_believed_either(
    outbox: Outbox,
) -> None:
    made = False

    def make_anew(event: Any) -> None:
        nonlocal made
        if isinstance(event, Disconnected) and not made:
            made = True
            gap.extend(outbox.put([2]))
            _make_slot_anew(outbox)

    gap: list[int] = []
    recorder, watcher = Recorder(), Watcher()
    async with streaming(consumer(outbox, recorder, observers=[watcher, make_anew]), watcher):
        outbox.put([1])
        await recorder.got(1)
        outbox.end_slot_reader()
        await recorder.until(lambda: bool(gap) and set(gap) <= set(recorder.ids))


async def test_a_slot_that_goes_on_is_kept(outbox: Outbox) -> None:
    """After a clean stop, a lost connection and a crash the same slot serves."""
    recorder, watcher = Recorder(), Watcher()
    subject = consumer(outbox, recorder, observers=[watcher])
    for round_ in range(3):
        async with streaming(subject, watcher):
            outbox.put([round_])
            await recorder.got(2 * round_ + 1)
            outbox.end_slot_reader()
            await watcher.saw(Streaming, 2 * round_ + 2)
            outbox.put([round_])
            await recorder.got(2 * round_ + 2)

        if round_ == 1:
            outbox.rows("update consumer set released_at = null")

    assert len(watcher.of(SlotCreated)) == 1
    assert len(recorder.ids) == len(set(recorder.ids)) == 6


async def test_a_stop_while_reading_the_table_repeats_nothing(outbox: Outbox) -> None:
    ids = outbox.put(range(2500))
    recorder, watcher = Recorder(), Watcher()
    subject = consumer(outbox, recorder, observers=[watcher], batch_size=100)
    async with running(subject):
        await recorder.got(1200)

    async with running(subject):
        await recorder.until(lambda: set(ids) <= set(recorder.ids))
        await watcher.saw(Reconciled)

    assert recorder.ids == ids


async def test_large_payloads_are_re_read_a_few_at_a_time(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(span, "PAGE_BYTES", 1_000_000)
    pages: list[int] = []

    read = span.Pages.next

    async def counting(self: span.Pages) -> list[Part]:
        parts = await read(self)
        pages.append(sum(len(part.fresh) for part in parts))
        return parts

    monkeypatch.setattr(span.Pages, "next", counting)
    ids = outbox.put([b"x" * 400_000] * 10)
    recorder, watcher = Recorder(), Watcher()
    async with running(consumer(outbox, recorder, observers=[watcher])):
        await watcher.saw(Reconciled)

    assert recorder.ids == ids
    assert pages == [3, 3, 3, 1, 0]


async def test_a_connection_lost_while_reading_the_table_repeats_nothing(outbox: Outbox) -> None:
    """Killed by an administrator in the middle: it goes on where it was."""
    ids = outbox.put(range(4500))
    recorder, watcher = Recorder(), Watcher()

    async def handle(jobs: Sequence[Job]) -> None:
        await recorder(jobs)
        if len(recorder.batches) == 20:
            await watcher.saw(CheckpointSaved)
            outbox.rows(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and application_name like 'pgcdc-outbox/%%'"
            )

    async with running(consumer(outbox, handle, observers=[watcher])):
        await recorder.until(lambda: set(ids) <= set(recorder.ids))
        await watcher.saw(Reconciled)

    assert watcher.of(Disconnected)
    assert recorder.ids == ids
    assert watcher.of(Reconciling)[1].jobs < watcher.of(Reconciling)[0].jobs


async def test_a_publication_dropped_while_streaming_is_noticed_and_nothing_is_skipped(
    outbox: Outbox,
) -> None:
    recorder, watcher = Recorder(), Watcher()
    statement = (
        "create publication pgcdc_outbox for table immediate "
        "with (publish = 'insert', publish_via_partition_root = true)"
    )
    subject = consumer(outbox, recorder, observers=[watcher])
    ids: list[int] = []

    async def lose_the_publication() -> None:
        async with streaming(subject, watcher):
            ids.extend(outbox.put([1]))
            await recorder.got(1)
            # What was settled before the last checkpoint is not read again.
            await outbox.settled()
            outbox.rows("drop publication pgcdc_outbox")
            ids.extend(outbox.put([2, 3]))
            await recorder.got(99)  # ends with the error, for nobody mends it

    with pytest.raises(PublicationMissing):
        await lose_the_publication()

    assert watcher.of(Disconnected)
    outbox.rows(statement)
    outbox.put([4])
    async with streaming(subject, watcher):
        await recorder.got(4)

    assert recorder.values == [1, 2, 3, 4]
    assert recorder.ids[:3] == ids


async def test_a_publication_that_publishes_something_else_is_an_error(outbox: Outbox) -> None:
    outbox.rows("alter publication pgcdc_outbox set (publish = 'update')")
    with pytest.raises(PublicationMissing, match="pgcdc_outbox") as caught, anyio.fail_after(60):
        await consumer(outbox, Recorder()).run()

    outbox.rows(caught.value.hint)
    async with running(consumer(outbox, Recorder())):
        pass


async def test_a_checkpoint_of_another_cluster_is_refused(outbox: Outbox) -> None:
    watcher = Watcher()
    async with streaming(consumer(outbox, Recorder(), observers=[watcher]), watcher):
        pass

    outbox.rows("update checkpoint set system_id = '42'")
    with pytest.raises(CheckpointForeign, match="42"), anyio.fail_after(60):
        await consumer(outbox, Recorder()).run()


async def test_an_invalidated_slot_is_replaced(fresh_server) -> None:
    from pgcdc_outbox.postgres.migrate import migrate

    server = fresh_server(
        settings={"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB"}
    )
    dsn = server.create_database("invalid")
    migrate(dsn)
    outbox = Outbox(dsn)
    recorder, watcher = Recorder(), Watcher()
    subject = consumer(outbox, recorder, observers=[watcher])
    async with streaming(subject, watcher):
        pass

    ids = outbox.put(range(3))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("create table filler (t text)")
        for _ in range(5):
            connection.execute(
                "insert into filler select repeat('x', 2000) from generate_series(1, 8000)"
            )
            connection.execute("select pg_switch_wal()")
            connection.execute("checkpoint")

    assert outbox.slot()["wal_status"] == "lost"
    async with streaming(subject, watcher):
        await recorder.got(3)

    assert recorder.ids == ids
    assert "invalidated" in watcher.of(SlotCreated)[1].reason
    assert len(watcher.of(Streaming)) == 2
