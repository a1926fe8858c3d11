"""Jobs reach the handler: from before the first start, in order, at once, each once."""

import os
import resource
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import anyio
import psycopg
import pytest

from pgcdc_outbox import Consumer, Job
from pgcdc_outbox.errors import HandlerInvalid, PermissionMissing, SettingsError, SlotForeign
from pgcdc_outbox.events import (
    BatchSettled,
    CheckpointSaved,
    Disconnected,
    Reconciled,
    SlotCreated,
    StandingBy,
    Streaming,
)
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.postgres.migrate import migrate
from pgcdc_outbox.postgres.names import slot_name
from pgcdc_outbox.postgres.source import stream
from pgcdc_outbox.postgres.source.lock import IDLE_SECONDS
from tests.harness import READING, Outbox, Recorder, Watcher, consumer, running, streaming
from tests.wait import eventually_async


@pytest.mark.both_modes
async def test_jobs_from_before_the_first_start_come_first_and_once(outbox: Outbox) -> None:
    early = outbox.put(range(5))
    recorder, watcher = Recorder(), Watcher()
    async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
        late = outbox.put(range(5, 10))
        await recorder.got(10)

    assert recorder.ids == early + late
    assert recorder.values == list(range(10))
    assert [event.jobs for event in watcher.of(Reconciled)] == [5] * (outbox.mode == "logical")


@pytest.mark.both_modes
async def test_nothing_is_lost_or_doubled_where_the_table_hands_over_to_the_log(
    outbox: Outbox,
) -> None:
    """Producers commit all the while the slot is made, some of them long after their INSERT."""
    recorder = Recorder()
    done = threading.Event()
    committed: list[int] = []

    def produce(pause: float) -> None:
        with psycopg.connect(outbox.dsn) as connection:
            while not done.is_set():
                ids = [outbox.client.enqueue(n, tx=connection) for n in range(3)]
                done.wait(pause)
                connection.commit()
                committed.extend(ids)

    producers = [threading.Thread(target=produce, args=(pause,)) for pause in (0, 0.003, 0.03)]
    for producer in producers:
        producer.start()

    try:
        await eventually_async(lambda: _is(len(committed) > 100), timeout=120)
        async with running(consumer(outbox, recorder)):
            await recorder.until(lambda: len(recorder.jobs) > 1000, timeout=300)
            done.set()
            for producer in producers:
                await anyio.to_thread.run_sync(producer.join)

            await recorder.got(len(committed), timeout=120)
    finally:
        done.set()

    assert sorted(recorder.ids) == sorted(committed)


async def test_a_transaction_that_was_open_when_the_slot_was_made_comes_after_its_commit(
    outbox: Outbox,
) -> None:
    recorder, watcher = Recorder(), Watcher()
    subject = consumer(outbox, recorder, observers=[watcher])
    with psycopg.connect(outbox.dsn) as early:
        slow = outbox.client.enqueue("slow", tx=early)
        async with running(subject):
            # The slot waits for the transaction: nothing can be skipped.
            quick = outbox.put(["quick"])
            await eventually_async(
                lambda: _is(outbox.value("select count(*) from pg_replication_slots") > 0)
            )
            early.commit()
            await recorder.got(2)

    assert sorted(recorder.ids) == sorted([slow, *quick])


async def test_commits_arrive_in_their_order_and_a_transaction_in_that_of_its_inserts(
    outbox: Outbox,
) -> None:
    recorder, watcher = Recorder(), Watcher()
    async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
        with psycopg.connect(outbox.dsn) as first, psycopg.connect(outbox.dsn) as second:
            a = [outbox.client.enqueue("a", tx=first) for _ in range(3)]
            b = [outbox.client.enqueue("b", tx=second) for _ in range(3)]
            second.commit()
            first.commit()

        await recorder.got(6)

    assert recorder.ids == b + a


@pytest.mark.both_modes
async def test_a_lone_job_is_not_kept_waiting_for_others(outbox: Outbox) -> None:
    """Nor is a second one 30 ms later, or either without a wal_sender_timeout."""
    arrived: dict[int, float] = {}

    async def handle(jobs: Sequence[Job]) -> None:
        arrived.update((job.id, time.monotonic()) for job in jobs)

    watcher = Watcher()
    outbox.rows(f"alter database {_database(outbox)} set wal_sender_timeout = 0")
    async with streaming(consumer(outbox, handle, observers=[watcher], linger=60), watcher):
        waits = []
        for _ in range(20):
            (first,) = outbox.put([1])
            first_at = time.monotonic()
            await anyio.sleep(0.03)
            (second,) = outbox.put([2])
            second_at = time.monotonic()
            await eventually_async(lambda id_=second: _is(id_ in arrived), timeout=45)
            waits += [arrived[first] - first_at, arrived[second] - second_at]

    # Most are there at once, however loaded the machine is; some may meet a stall, and none
    # waits as long as a batch would.
    assert sorted(waits)[len(waits) // 2] < (0.1 if outbox.mode == "logical" else 0.2)
    assert max(waits) < 45


async def test_a_handler_slower_than_the_servers_patience_costs_no_connection(
    outbox: Outbox,
) -> None:
    outbox.rows(f"alter database {_database(outbox)} set wal_sender_timeout = '10s'")
    release = threading.Event()
    calls: list[list[int]] = []

    def handle(jobs: Sequence[Job]) -> None:
        calls.append([job.id for job in jobs])
        release.wait(30)

    watcher = Watcher()
    async with streaming(consumer(outbox, handle, observers=[watcher]), watcher):
        ids = outbox.put(range(10))
        started = time.monotonic()
        # Far more than the intake takes, so that the reader stops reading.
        await anyio.to_thread.run_sync(outbox.put, ["x" * 1000] * 5000)
        await eventually_async(lambda: _is(time.monotonic() - started > 15), timeout=60)
        release.set()
        await eventually_async(lambda: _is(sum(map(len, calls)) == 5010), timeout=120)

    assert not watcher.of(Disconnected)
    assert len(watcher.of(Streaming)) == 1
    assert [id_ for call in calls for id_ in call][:10] == ids


async def test_the_slot_follows_when_others_write(outbox: Outbox) -> None:
    recorder, watcher = Recorder(), Watcher()
    async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
        outbox.rows("create table elsewhere (n int)")
        outbox.rows("insert into elsewhere select generate_series(1, 100000)")
        # All but so little that saving it would write as much.
        end = LSN.parse(outbox.value("select (pg_current_wal_lsn() - 4096)::text"))
        await eventually_async(
            lambda: _is(LSN.parse(outbox.slot()["confirmed_flush_lsn"]) >= end), timeout=60
        )

    assert not recorder.jobs


async def test_nothing_is_acknowledged_while_the_intake_is_full(outbox: Outbox) -> None:
    """A slow handler, a fast producer: what waits is in the log, not in our hands."""
    release = anyio.Event()
    started = anyio.Event()
    seen: list[int] = []

    async def handle(jobs: Sequence[Job]) -> None:
        started.set()
        await release.wait()
        seen.extend(job.id for job in jobs)

    watcher = Watcher()
    subject = consumer(outbox, handle, observers=[watcher], batch_size=10, prefetch=20)
    async with streaming(subject, watcher):
        before = LSN.parse(outbox.slot()["confirmed_flush_lsn"])
        # Aside: who blocks the loop for long loses the lock.
        ids = await anyio.to_thread.run_sync(
            lambda: [id_ for n in range(200) for id_ in outbox.put([n])]
        )
        await started.wait()
        first_commit = outbox.value("select pg_current_wal_lsn()::text")
        assert before <= LSN.parse(outbox.slot()["confirmed_flush_lsn"]) < LSN.parse(first_commit)
        assert not watcher.of(BatchSettled)
        release.set()
        await eventually_async(lambda: _is(len(seen) == 200), timeout=60)

    assert seen == ids


@pytest.mark.any_version
async def test_a_huge_transaction_takes_little_memory(outbox: Outbox) -> None:
    """Its first job is handled before its last one is received."""
    count = 1_000_000
    seen = 0
    peak = {"before": 0, "after": 0}

    async def handle(jobs: Sequence[Job]) -> None:
        nonlocal seen
        seen += len(jobs)

    watcher = Watcher()
    async with streaming(consumer(outbox, handle, observers=[watcher]), watcher):
        peak["before"] = _resident()
        # Aside: who blocks the loop for long loses the lock.
        await anyio.to_thread.run_sync(
            outbox.rows,
            "insert into immediate (payload) "
            "select convert_to(n::text, 'UTF8') from generate_series(1, %s) n",
            [count],
        )
        highest = 0
        with anyio.fail_after(600):
            while seen < count:
                await anyio.sleep(0.05)
                highest = max(highest, _resident())

        peak["after"] = highest

    assert peak["after"] - peak["before"] < 64 * 1024 * 1024


async def test_two_outboxes_in_one_database_do_not_meet(database: str) -> None:
    names = ["outbox", 'We"ird outbox', "x" * 63]
    boxes = []
    for name in names:
        migrate(database, schema=name)
        boxes.append(Outbox(database, name))

    recorders = [Recorder() for _ in boxes]
    watchers = [Watcher() for _ in boxes]
    async with anyio.create_task_group() as group:
        subjects = [
            consumer(box, recorder, observers=[watcher])
            for box, recorder, watcher in zip(boxes, recorders, watchers, strict=True)
        ]
        for subject in subjects:
            group.start_soon(subject.run)

        for watcher in watchers:
            await watcher.saw(Streaming)

        for box in boxes:
            box.put([box.schema])

        for recorder in recorders:
            await recorder.got(1)

        for subject in subjects:
            subject.stop()

    assert [recorder.values for recorder in recorders] == [[name] for name in names]


async def test_two_databases_of_one_cluster_do_not_meet(server, outbox: Outbox) -> None:
    other = server.create_database(f"{_database(outbox)}_twin")
    try:
        migrate(other)
        twin = Outbox(other)
        recorders = Recorder(), Recorder()
        async with (
            running(consumer(outbox, recorders[0])),
            running(consumer(twin, recorders[1])),
        ):
            outbox.put(["here"])
            twin.put(["there"])
            await recorders[0].got(1)
            await recorders[1].got(1)
    finally:
        server.drop_database(f"{_database(outbox)}_twin")

    assert recorders[0].values == ["here"]
    assert recorders[1].values == ["there"]


async def test_a_slot_of_our_name_in_another_database_is_an_error_at_once(
    server, outbox: Outbox
) -> None:
    oid = outbox.value("select oid::bigint from pg_database where datname = current_database()")
    slot = slot_name("outbox", "default", oid)
    with psycopg.connect(server.dsn(), autocommit=True) as elsewhere:
        elsewhere.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
        try:
            with pytest.raises(SlotForeign, match="in database postgres") as caught:
                with anyio.fail_after(60):
                    await consumer(outbox, Recorder()).run()
        finally:
            elsewhere.execute("select pg_drop_replication_slot(%s)", [slot])

    assert slot in str(caught.value)
    assert slot in caught.value.hint


@pytest.mark.both_modes
async def test_several_consumers_each_get_every_job(outbox: Outbox) -> None:
    recorders = Recorder(), Recorder(lambda jobs: [job.id for job in jobs if job.attempt == 1])
    async with (
        running(consumer(outbox, recorders[0], name="mail")),
        running(consumer(outbox, recorders[1], name="search")),
    ):
        (id_,) = outbox.put(["x"])
        await recorders[1].got(2)
        await recorders[0].got(1)
        (second,) = outbox.put(["y"])
        await recorders[1].until(lambda: recorders[1].ids.count(second) == 2)
        await recorders[0].until(lambda: second in recorders[0].ids)

    # The retry of one is no business of the other.
    assert recorders[0].ids == [id_, second]
    assert recorders[1].ids == [id_, id_, second, second]


@pytest.mark.both_modes
async def test_a_second_instance_stands_by_and_takes_over(outbox: Outbox) -> None:
    recorders, watchers = (Recorder(), Recorder()), (Watcher(), Watcher())
    first = consumer(outbox, recorders[0], observers=[watchers[0]])
    second = consumer(outbox, recorders[1], observers=[watchers[1]])
    async with running(second):
        await watchers[1].saw(READING)
        async with running(first):
            await watchers[0].saw(StandingBy)
            outbox.put([1])
            await recorders[1].got(1)
            second.stop()
            stopped = time.monotonic()
            await watchers[0].saw(READING)
            # Let go of, and not left to a server that waits for a silent holder.
            assert time.monotonic() - stopped < IDLE_SECONDS
            outbox.put([2])
            await recorders[0].got(1)

    assert recorders[1].values == [1]
    assert recorders[0].values == [2]


@pytest.mark.both_modes
async def test_stop_and_start_again_in_one_process(outbox: Outbox) -> None:
    recorder = Recorder()
    subject = consumer(outbox, recorder)
    for n in range(3):
        async with running(subject):
            outbox.put([n])
            await recorder.got(n + 1)

    assert recorder.values == [0, 1, 2]


@pytest.mark.both_modes
async def test_once_handles_what_is_there_and_ends(outbox: Outbox) -> None:
    outbox.put(range(250))
    outbox.put(["later"], delay=3600)
    recorder = Recorder()
    with anyio.fail_after(120):
        await consumer(outbox, recorder).run(once=True)
        outbox.put(range(250, 500))
        await consumer(outbox, recorder).run(once=True)

    assert recorder.values == list(range(500))


@pytest.mark.both_modes
async def test_a_backlog_is_drained_without_hidden_pauses(outbox: Outbox) -> None:
    """With the defaults, but ten a batch: 20,000 jobs in less than 100 seconds on any machine."""
    await Consumer(outbox.dsn, Recorder(), observers=()).run(once=True)
    outbox.rows("insert into immediate (payload) select '{}' from generate_series(1, 20000)")
    recorder = Recorder()
    started = time.monotonic()
    await Consumer(outbox.dsn, recorder, observers=(), batch_size=10).run(once=True)
    assert len(recorder.jobs) == 20000
    # A pause of a twentieth of a second in each batch alone would take as long.
    assert time.monotonic() - started < 100


def test_a_handler_that_cannot_be_called_is_refused_at_once() -> None:
    def no_arguments() -> None: ...

    def two_arguments(jobs: Sequence[Job], connection: object) -> None: ...

    for handler in (no_arguments, two_arguments, 42, "handler", Recorder):
        with pytest.raises(HandlerInvalid, match="handler"):
            Consumer("", handler)


def test_settings_that_make_no_sense_name_the_field() -> None:
    for field, value in {
        "batch_size": 0,
        "concurrency": 1.5,
        "linger": -1,
        "drain_timeout": float("nan"),
        "prefetch": True,
        "mode": "psychic",
        "name": "",
    }.items():
        with pytest.raises(SettingsError, match=field):
            Consumer("", Recorder(), **{field: value})


async def test_a_password_is_in_no_repr_and_no_error() -> None:
    subject = Consumer("host=127.0.0.1 port=1 password=geheim", Recorder(), observers=())
    watcher = Watcher()
    assert "geheim" not in repr(subject)
    subject = Consumer("host=127.0.0.1 port=1 password=geheim", Recorder(), observers=[watcher])
    async with running(subject):
        lost = await watcher.saw(Disconnected)

    assert "geheim" not in str(lost)


async def test_migrating_and_starting_beside_an_open_transaction_blocks_nobody(
    outbox: Outbox,
) -> None:
    with psycopg.connect(outbox.dsn) as busy:
        outbox.client.enqueue("open", tx=busy)
        started = time.monotonic()
        await anyio.to_thread.run_sync(migrate, outbox.dsn)
        recorder, watcher = Recorder(), Watcher()
        async with running(consumer(outbox, recorder, observers=[watcher])):
            # The slot cannot be finished before the transaction is; others go on.
            await eventually_async(lambda: _is(_waits_for_slot(outbox)))
            outbox.put(["other"])
            # Else it would have waited for the transaction: for ever.
            assert time.monotonic() - started < 60
            assert not watcher.of(Streaming)
            busy.commit()
            await recorder.got(2)

    assert sorted(recorder.values) == ["open", "other"]


@pytest.mark.both_modes
async def test_short_runs_move_the_checkpoint_too(outbox: Outbox) -> None:
    """Else what a cron job consumed would be read again after the loss of a slot."""
    for n in range(2):
        outbox.put([n])
        await consumer(outbox, Recorder(), checkpoint_interval=60).run(once=True)

    assert not outbox.rows(
        "select from immediate, checkpoint where not pg_visible_in_snapshot(xid, snapshot)"
    )


async def test_a_role_that_may_not_replicate_is_told_the_statement_that_mends_it(
    server, outbox: Outbox
) -> None:
    role = f"{_database(outbox)}_worker"[:60]
    outbox.rows(f"create role {role} login")
    try:
        outbox.rows(f"grant all on schema outbox to {role}")
        outbox.rows(f"grant all on all tables in schema outbox to {role}")
        worker = Outbox(f"{outbox.dsn} user={role}")
        with pytest.raises(PermissionMissing, match="may not replicate") as caught:
            with anyio.fail_after(60):
                await consumer(worker, Recorder()).run()

        outbox.rows(caught.value.hint)
        async with running(consumer(worker, Recorder())):
            pass
    finally:
        outbox.rows(f"drop owned by {role}")
        outbox.rows(f"drop role {role}")


async def test_a_slot_that_cannot_be_made_beside_a_long_transaction_is_tried_again(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_OPTIONS", "-c lock_timeout=200ms")
    recorder, watcher = Recorder(), Watcher()
    with psycopg.connect(outbox.dsn) as busy:
        outbox.client.enqueue("open", tx=busy)
        async with running(consumer(outbox, recorder, observers=[watcher])):
            lost = await watcher.saw(Disconnected, 2)
            assert "transaction" in lost.hint
            busy.commit()
            await recorder.got(1)


@pytest.mark.both_modes
async def test_a_checkpoint_is_saved_and_says_what_is_settled(outbox: Outbox) -> None:
    recorder, watcher = Recorder(), Watcher()
    async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
        outbox.put(range(3))
        await recorder.got(3)
        await outbox.settled()
        # The row may be there before it is told.
        await watcher.saw(CheckpointSaved)
        outbox.put([3])
        assert outbox.unsettled() == 1

    assert len(watcher.of(SlotCreated)) == (outbox.mode == "logical")


def _waits_for_slot(outbox: Outbox) -> bool:
    return bool(
        outbox.rows(
            "select 1 from pg_stat_activity where datname = current_database() "
            "and query like 'CREATE_REPLICATION_SLOT%%' and wait_event_type = 'Lock'"
        )
    )


def _database(outbox: Outbox) -> str:
    return str(outbox.value("select quote_ident(current_database())"))


async def _is(value: bool) -> bool:
    return value


def _resident() -> int:
    """Bytes of this process in memory."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024
