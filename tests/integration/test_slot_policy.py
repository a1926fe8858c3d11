"""A slot that is lost: why, how often, and what the settings say to do then."""

from collections.abc import Callable, Sequence
from typing import Any

import anyio
import psycopg
import pytest

from pgcdc_outbox import Job
from pgcdc_outbox.errors import SlotForeign, SlotLost
from pgcdc_outbox.events import Reported, SlotCreated, Streaming
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.postgres.migrate import migrate
from pgcdc_outbox.postgres.source.slots import as_slot
from pgcdc_outbox.testing import PostgresServer
from tests.harness import Outbox, Recorder, Watcher, consumer, running, slot_of, streaming
from tests.wait import eventually, eventually_async

DROP = "select pg_drop_replication_slot(%s)"
LITTLE_WAL = {"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB"}


def drop_while_attached(outbox: Outbox) -> None:
    """As a person does it who is in a hurry: end the reader, and be quicker than it."""
    slot = slot_of(outbox)
    with psycopg.connect(outbox.dsn, autocommit=True) as connection:

        def dropped() -> bool:
            connection.execute(
                "select pg_terminate_backend(active_pid) from pg_replication_slots "
                "where slot_name = %s and active",
                [slot],
            )
            try:
                connection.execute(DROP.encode(), [slot])
            except psycopg.errors.ObjectInUse:
                return False

            return True

        eventually(dropped)


async def test_a_slot_dropped_while_attached_is_made_anew(outbox: Outbox) -> None:
    recorder, watcher = Recorder(), Watcher()
    async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
        outbox.put([1])
        await recorder.got(1)
        await anyio.to_thread.run_sync(drop_while_attached, outbox)
        outbox.put([2])
        await recorder.until(lambda: 2 in recorder.values)

    assert [event.reason for event in watcher.of(SlotCreated)] == [
        "first start",
        "the slot is missing",
    ]


async def test_a_slot_that_is_lost_again_and_again_ends_the_consumer(outbox: Outbox) -> None:
    recorder, watcher = Recorder(), Watcher()
    subject = consumer(outbox, recorder, observers=[watcher], max_slot_losses=2)
    for number in range(3):
        async with streaming(subject, watcher):
            outbox.put([number])
            await recorder.until(lambda number=number: number in recorder.values)

        outbox.rows(DROP, [slot_of(outbox)])

    ids = outbox.put([99])
    with (
        pytest.raises(SlotLost, match=r"3 times within an hour.* the slot is missing") as caught,
        anyio.fail_after(60),
    ):
        await subject.run()

    assert "max_slot_wal_keep_size" in caught.value.hint
    assert "--mode polling" in caught.value.hint
    # The newest are kept, and those of an hour ago count no more.
    assert outbox.value("select cardinality(slots_lost) from consumer") == 2
    outbox.rows(
        "update consumer set slots_lost = "
        "array(select lost - interval '1 hour' from unnest(slots_lost) as lost)"
    )
    async with running(subject):
        await recorder.until(lambda: set(ids) <= set(recorder.ids))


@pytest.mark.parametrize("lose", ["drop", "alter", "advance"])
async def test_with_stop_a_lost_slot_ends_the_consumer_until_a_person_has_looked(
    outbox: Outbox, lose: str
) -> None:
    recorder, watcher = Recorder(), Watcher()
    subject = consumer(outbox, recorder, observers=[watcher], on_slot_loss="stop")
    async with streaming(subject, watcher):
        outbox.put([1])
        await recorder.got(1)

    match lose:
        case "drop":
            cause = "the slot is missing"
            outbox.rows(DROP, [slot_of(outbox)])
        case "alter":
            cause = "publication pgcdc_outbox was changed"
            outbox.rows("alter publication pgcdc_outbox drop table immediate")
            outbox.rows("alter publication pgcdc_outbox add table immediate")
        case _:
            cause = "somebody advanced it"
            outbox.put([2])
            outbox.rows(
                "select pg_replication_slot_advance(%s, pg_current_wal_lsn())", [slot_of(outbox)]
            )

    for _ in range(2):
        with (
            pytest.raises(SlotLost, match=cause) as caught,
            anyio.fail_after(60),
            anyio.fail_after(60),
        ):
            await subject.run()

    assert "pgcdc-outbox slot reconcile --name default" in caught.value.hint
    assert len(watcher.of(SlotCreated)) == 1


async def test_with_stop_a_publication_gap_under_way_ends_the_consumer(outbox: Outbox) -> None:
    recorder, watcher = Recorder(), Watcher()
    subject = consumer(outbox, recorder, observers=[watcher], on_slot_loss="stop")

    async def alter() -> None:
        async with streaming(subject, watcher):
            outbox.rows("alter publication pgcdc_outbox drop table immediate")
            outbox.rows("alter publication pgcdc_outbox add table immediate")
            await anyio.sleep_forever()

    with pytest.raises(SlotLost, match="publication pgcdc_outbox was changed"):
        await alter()


async def test_with_stop_the_first_start_is_no_loss(outbox: Outbox) -> None:
    recorder = Recorder()
    outbox.put([1])
    async with running(consumer(outbox, recorder, on_slot_loss="stop")):
        await recorder.got(1)


def fill(outbox: Outbox, until: Callable[[], bool]) -> None:
    """Write log, and take checkpoints, until something holds."""
    with psycopg.connect(outbox.dsn, autocommit=True) as connection:
        connection.execute("create table filler (t text)")

        def full() -> bool:
            connection.execute(
                "insert into filler select repeat('x', 2000) from generate_series(1, 8000)"
            )
            connection.execute("select pg_switch_wal()")
            connection.execute("checkpoint")
            return until()

        eventually(full, timeout=120)


def outbox_on(server: PostgresServer, name: str) -> Outbox:
    dsn = server.create_database(name)
    migrate(dsn)
    return Outbox(dsn)


async def test_a_slot_invalidated_while_attached_is_replaced(fresh_server: Any) -> None:
    """The handler is slow, and the limit low."""
    outbox = outbox_on(fresh_server(settings=LITTLE_WAL), "attached")
    release = anyio.Event()

    async def wait(jobs: Sequence[Job]) -> None:
        await recorder(jobs)
        if jobs[0].json() == 1:
            await release.wait()

    recorder, watcher = Recorder(), Watcher()
    subject = consumer(outbox, wait, observers=[watcher], drain_timeout=60)
    async with streaming(subject, watcher):
        ids = outbox.put([1])
        await recorder.got(1)
        await anyio.to_thread.run_sync(fill, outbox, lambda: outbox.slot()["wal_status"] == "lost")
        ids += outbox.put([2])
        release.set()
        await recorder.until(lambda: set(ids) <= set(recorder.ids))

    assert len(watcher.of(SlotCreated)) == 2
    assert "the slot was invalidated: wal_removed" in watcher.of(SlotCreated)[1].reason
    assert set(recorder.ids) == set(ids)


async def test_a_slot_given_up_for_idleness_is_replaced(fresh_server: Any) -> None:
    server = fresh_server()
    if server.version < 180000:
        pytest.skip("needs PostgreSQL 18")

    outbox = outbox_on(server, "idle")
    recorder, watcher = Recorder(), Watcher()
    subject = consumer(outbox, recorder, observers=[watcher])
    async with streaming(subject, watcher):
        pass

    with psycopg.connect(outbox.dsn, autocommit=True) as connection:
        connection.execute("alter system set idle_replication_slot_timeout = '1s'")
        connection.execute("select pg_reload_conf()")

        async def lost() -> bool:
            connection.execute("checkpoint")
            return outbox.slot()["wal_status"] == "lost"

        await eventually_async(lost)

    ids = outbox.put([1])
    async with streaming(subject, watcher):
        await recorder.got(1)

    assert recorder.ids == ids
    assert "idle_timeout: nobody read it" in watcher.of(SlotCreated)[1].reason


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        ({"wal_status": "reserved"}, ""),
        ({"wal_status": "unreserved"}, ""),
        ({"wal_status": "lost"}, "wal_removed: its log was removed, see max_slot_wal_keep_size"),
        ({"wal_status": "lost", "conflicting": True}, "wal_removed: "),
        ({"wal_status": "lost", "conflicting": True, "restart_lsn": "0/1"}, "rows_removed: "),
        ({"wal_status": "lost", "invalidation_reason": "rows_removed"}, "rows_removed: rows"),
        (
            {"wal_status": "lost", "invalidation_reason": "wal_level_insufficient"},
            "wal_level_insufficient: wal_level was too low",
        ),
        ({"wal_status": "lost", "invalidation_reason": "of_2031"}, "of_2031"),
    ],
)
def test_why_a_slot_is_invalid(view: dict[str, Any], reason: str) -> None:
    """Also what a primary of today cannot show."""
    slot = as_slot({"slot_name": "s", "slot_type": "logical", **view}, reader=None)
    assert slot.invalid.startswith(reason)
    assert bool(slot.invalid) == bool(reason)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        ("pg_create_physical_replication_slot(%s)", "a physical slot"),
        ("pg_create_logical_replication_slot(%s, 'pgoutput', true)", "a temporary slot"),
        (
            "pg_create_logical_replication_slot(%s, 'pgoutput', false, true)",
            "a slot for two-phase commit",
        ),
    ],
)
async def test_a_slot_of_another_kind_is_refused(outbox: Outbox, make: str, what: str) -> None:
    slot = slot_of(outbox)
    with psycopg.connect(outbox.dsn, autocommit=True) as connection:
        connection.execute(f"select {make}".encode(), [slot])
        with pytest.raises(SlotForeign, match=what) as caught, anyio.fail_after(60):
            await consumer(outbox, Recorder()).run()

        connection.execute(caught.value.hint.partition(": ")[2].encode())


@pytest.mark.parametrize(
    "change", ["timeline = timeline + 1", "flushed = 'FFFFFFFF/0', lsn = 'FFFFFFFF/0'"]
)
async def test_a_position_that_means_nothing_here_is_left_to_the_slot(
    outbox: Outbox, change: str
) -> None:
    """Of another history, or beyond the end of the log: the server would skip jobs for it."""
    recorder, watcher = Recorder(), Watcher()
    subject = consumer(outbox, recorder, observers=[watcher])
    async with streaming(subject, watcher):
        outbox.put([1])
        await recorder.got(1)

    outbox.rows(f"update checkpoint set {change}")
    outbox.put([2])
    async with streaming(subject, watcher):
        await recorder.until(lambda: 2 in recorder.values)
        assert watcher.of(Streaming)[-1].position == LSN(0)

        # And it comes right again.
        async def saved() -> bool:
            return bool(
                outbox.value(
                    "select timeline = 1 and greatest(lsn, flushed) <= pg_current_wal_insert_lsn() "
                    "from checkpoint"
                )
            )

        await eventually_async(saved)

    assert len(watcher.of(SlotCreated)) == 1


async def test_other_peoples_transactions_cost_little(outbox: Outbox) -> None:
    """Version 14 sends a begin and a commit for each of them."""
    watcher = Watcher()
    async with streaming(consumer(outbox, Recorder(), observers=[watcher]), watcher):
        outbox.rows("create table theirs (n int)")
        before = len(watcher.of(Reported))
        started = anyio.current_time()
        with psycopg.connect(outbox.dsn, autocommit=True) as connection:
            connection.execute("set synchronous_commit = off")
            await anyio.to_thread.run_sync(
                connection.execute,
                b"do $$ begin for n in 1..50000 loop "
                b"insert into outbox.theirs values (n); commit; end loop; end $$",
            )
            connection.execute("checkpoint")

        # All but so little that saving it would write as much.
        end = outbox.value("select (pg_current_wal_insert_lsn() - 4096)::text")

        async def confirmed() -> bool:
            return bool(
                outbox.value(
                    "select confirmed_flush_lsn >= %s from pg_replication_slots "
                    "where slot_name = %s",
                    [end, slot_of(outbox)],
                )
            )

        await eventually_async(confirmed, timeout=120)
        seconds = anyio.current_time() - started
        reports = len(watcher.of(Reported)) - before

    # Ten a second, and what the server asks for.
    assert reports < 20 * seconds + 20
