"""Connections that die, hang, or were never made."""

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest
from anyio import to_thread

from pgcdc_outbox import Consumer, Job
from pgcdc_outbox.errors import (
    AccessRefused,
    OutboxError,
    PermissionMissing,
    SourceUnavailable,
)
from pgcdc_outbox.events import (
    Connecting,
    Disconnected,
    Reconciled,
    SlotCreated,
    StandingBy,
    Streaming,
)
from pgcdc_outbox.postgres import refusal
from pgcdc_outbox.postgres.connection import connect as connect_plainly
from pgcdc_outbox.postgres.migrate import migrate
from pgcdc_outbox.postgres.session import Session
from pgcdc_outbox.postgres.source.lock import IDLE_SECONDS
from tests.faults.proxy import Direction, Proxy
from tests.harness import Outbox, Recorder, Watcher, consumer, running, streaming
from tests.wait import eventually, eventually_async

# What it is about does not depend on the version of the server.
pytestmark = [pytest.mark.anyio, pytest.mark.any_version]


@pytest.fixture(scope="module")
def remote() -> Iterator[Any]:
    """A server that is reached through TCP, with a password."""
    from pgcdc_outbox.testing import PostgresServer

    with PostgresServer.start(tcp=True, settings={"wal_sender_timeout": "60s"}) as server:
        migrate(server.dsn())
        yield server


@pytest.fixture
def outbox(remote: Any) -> Outbox:
    """An outbox of the test's own, looked at from outside the network that fails."""
    name = f"t{time.monotonic_ns()}"
    remote.create_database(name)
    migrate(remote.dsn(name))
    return Outbox(remote.dsn(name))


@pytest.fixture
def network(remote: Any) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", _port(remote)) as proxy:
        yield proxy


def through(remote: Any, network: Proxy, outbox: Outbox) -> Outbox:
    """The same outbox, by way of the network."""
    name = outbox.value("select current_database()")
    return Outbox(remote.tcp_dsn(name, port=network.port))


class TestSilence:
    """A network that forwards nothing any more, and says nothing about it."""

    @pytest.mark.parametrize("directions", [(), ("up",), ("down",)], ids=["both", "up", "down"])
    async def test_the_hold_ends_and_the_next_one_takes_over(
        self, remote: Any, network: Proxy, outbox: Outbox, directions: tuple[Direction, ...]
    ) -> None:
        recorder, watcher = Recorder(), Watcher()
        subject = consumer(
            through(remote, network, outbox),
            recorder,
            observers=[watcher],
            wal_sender_timeout=2,
            checkpoint_interval=60,
            drain_timeout=1,
        )
        async with streaming(subject, watcher):
            before = outbox.put([1])
            await recorder.got(1)
            network.stall(*directions)
            lost = await watcher.saw(Disconnected, timeout=60)
            # Three seconds of silence; as much again, and the server's two, if it goes on
            # sending for a while to a reader whom it does not hear. Else the lock would be
            # missed, after fifteen.
            assert "check the lock" not in lost.error, lost
            network.heal()
            await watcher.saw(Streaming, 2, timeout=120)
            after = outbox.put([2])
            await recorder.until(lambda: after[0] in recorder.ids)

        assert recorder.ids == before + after

    async def test_it_is_noticed_while_the_handler_runs(
        self, remote: Any, network: Proxy, outbox: Outbox
    ) -> None:
        release = anyio.Event()

        async def handle(jobs: Sequence[Job]) -> None:
            await recorder(jobs)
            await release.wait()

        recorder, watcher = Recorder(), Watcher()
        subject = consumer(
            through(remote, network, outbox),
            handle,
            observers=[watcher],
            wal_sender_timeout=6,
            checkpoint_interval=60,
            drain_timeout=1,
        )
        async with streaming(subject, watcher):
            ids = outbox.put([1])
            await recorder.got(1)
            network.strand()
            lost = await watcher.saw(Disconnected, timeout=60)
            assert "silent for 9 s" in lost.error
            release.set()
            await recorder.got(2, timeout=120)

        assert recorder.ids == ids * 2

    async def test_a_server_with_nothing_to_say_is_not_taken_for_dead(
        self, remote: Any, network: Proxy, outbox: Outbox
    ) -> None:
        watcher = Watcher()
        subject = consumer(
            through(remote, network, outbox),
            Recorder(),
            observers=[watcher],
            wal_sender_timeout=6,
            checkpoint_interval=60,
        )
        async with streaming(subject, watcher):
            begun = time.monotonic()
            # More than the nine seconds that it would bear.
            await eventually_async(lambda: _truth(time.monotonic() - begun > 12), timeout=60)

        assert not watcher.of(Disconnected)

    async def test_a_full_intake_is_not_taken_for_a_dead_server(
        self, remote: Any, network: Proxy, outbox: Outbox
    ) -> None:
        release = anyio.Event()

        async def handle(jobs: Sequence[Job]) -> None:
            await recorder(jobs)
            await release.wait()

        recorder, watcher = Recorder(), Watcher()
        subject = consumer(
            through(remote, network, outbox),
            handle,
            observers=[watcher],
            wal_sender_timeout=6,
            batch_size=1,
            prefetch=1,
        )
        async with streaming(subject, watcher):
            ids = outbox.put(range(20))
            await recorder.got(1)
            begun = time.monotonic()
            await eventually_async(lambda: _truth(time.monotonic() - begun > 12), timeout=60)
            release.set()
            await recorder.got(20)

        assert recorder.ids == ids
        assert not watcher.of(Disconnected)

    async def test_a_statement_that_gets_no_answer_is_given_up(
        self, remote: Any, network: Proxy, outbox: Outbox
    ) -> None:
        session = Session(through(remote, network, outbox).dsn, name="t")
        assert await session.row("select 1", doing="ask") == (1,)
        network.strand()
        begun = time.monotonic()
        with pytest.raises(SourceUnavailable, match="ask: the server gave no answer within 1 s"):
            await session.rows("select 1", doing="ask", within=1)

        # The answer never comes.
        assert time.monotonic() - begun < 45
        assert await session.row("select 1", doing="ask") == (1,)
        session.close()

    async def test_what_is_given_up_does_not_go_on_at_the_server(self, outbox: Outbox) -> None:
        session = Session(outbox.dsn, name="gives up")
        with pytest.raises(SourceUnavailable, match="no answer"):
            await session.rows("select pg_sleep(600)", doing="ask", within=3)

        await eventually_async(
            lambda: _truth(
                not outbox.rows(
                    "select from pg_stat_activity where application_name = 'gives up' "
                    "and state = 'active'"
                )
            )
        )
        session.close()


class TestTakingOver:
    """How soon the server notices that a consumer is gone."""

    async def test_the_server_watches_the_connection_of_the_lock(
        self, remote: Any, outbox: Outbox
    ) -> None:
        session = Session(remote.tcp_dsn(), name="t")
        settings = await session.row(
            "select current_setting('tcp_keepalives_idle'), "
            "current_setting('tcp_keepalives_interval'), current_setting('tcp_keepalives_count'), "
            "current_setting('tcp_user_timeout')",
            doing="ask",
        )
        session.close()
        assert settings in [("4", "2", "3", "10s"), ("4", "2", "3", "10000")]

    async def test_who_stands_by_takes_over_from_one_that_is_cut_off(
        self, remote: Any, network: Proxy, outbox: Outbox
    ) -> None:
        first, second = Watcher(), Watcher()
        options: dict[str, Any] = {"wal_sender_timeout": 10, "checkpoint_interval": 60}
        cut_off = consumer(
            through(remote, network, outbox), Recorder(), observers=[first], **options
        )
        waiting = consumer(outbox, Recorder(), observers=[second], **options)
        async with streaming(cut_off, first), running(waiting):
            await second.saw(StandingBy)
            network.stall()
            begun = time.monotonic()
            await second.saw(Streaming, timeout=120)
            # What the server bears from the holder of the lock, and one second to ask again;
            # and what a loaded machine needs.
            assert time.monotonic() - begun < IDLE_SECONDS + 1 + 45
            network.heal()


class TestBeingRefused:
    """A server that runs, and does not let us in."""

    @pytest.fixture
    def ways(self, remote: Any) -> dict[str, Callable[[], str]]:
        return {
            "password": lambda: remote.tcp_dsn(password="wrong"),
            "role": lambda: remote.tcp_dsn(user="nobody_of_that_name"),
            "socket role": lambda: remote.dsn(user="nobody_of_that_name"),
            "database": lambda: remote.tcp_dsn("no_such_database"),
            "setting": lambda: remote.tcp_dsn(options="-c no_such_setting=1"),
        }

    @pytest.mark.parametrize("traced", [True, False], ids=["traced", "untraced"])
    @pytest.mark.parametrize("way", ["password", "role", "socket role", "database", "setting"])
    async def test_it_ends_at_the_start(
        self, ways: Any, way: str, traced: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not traced:
            monkeypatch.setattr(refusal, "_can_trace", lambda: False)

        with anyio.fail_after(60), pytest.raises(AccessRefused) as caught:
            await Consumer(ways[way](), Recorder(), observers=[]).run()

        assert caught.value.hint
        with pytest.raises(AccessRefused):
            connect_plainly(ways[way]())

    async def test_no_line_in_pg_hba_is_final(self, remote: Any, outbox: Outbox) -> None:
        hba = Path(outbox.value("show hba_file"))
        before = hba.read_text()
        try:
            outbox.rows("create role unlisted login password 'x'")
            hba.write_text(f"host all unlisted all reject\n{before}")
            outbox.rows("select pg_reload_conf()")
            dsn = remote.tcp_dsn(user="unlisted", password="x")
            eventually(lambda: "pg_hba" in _failure(dsn))
            with anyio.fail_after(60), pytest.raises(AccessRefused, match="pg_hba") as caught:
                await Consumer(dsn, Recorder(), observers=[]).run()
        finally:
            hba.write_text(before)
            outbox.rows("select pg_reload_conf()")

        assert "pg_hba" in caught.value.hint

    async def test_too_many_connections_pass(self, remote: Any, outbox: Outbox) -> None:
        if not refusal._can_trace():
            pytest.skip("this libpq does not tell why")

        outbox.rows("create role limited login password 'x' connection limit 0")
        watcher = Watcher()
        dsn = remote.tcp_dsn(user="limited", password="x")
        async with running(Consumer(dsn, Recorder(), observers=[watcher])):
            told = await watcher.saw(Disconnected, 2)

        assert "max_connections" in told.hint

    async def test_a_server_that_is_down_is_waited_for(self) -> None:
        watcher = Watcher()
        # Taken, so that nobody else gets it; and nobody listens.
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            dsn = f"host=127.0.0.1 port={taken.getsockname()[1]}"
            async with running(Consumer(dsn, Recorder(), observers=[watcher])):
                await watcher.saw(Disconnected, 2)

    async def test_who_was_let_in_before_tries_again(self, remote: Any, outbox: Outbox) -> None:
        outbox.rows("create role changing superuser login password 'first'")
        name = outbox.value("select current_database()")
        recorder, watcher = Recorder(), Watcher()
        subject = Outbox(remote.tcp_dsn(name, user="changing", password="first"))
        async with streaming(consumer(subject, recorder, observers=[watcher]), watcher):
            outbox.rows("alter role changing password 'second'")
            outbox.end_slot_reader()
            await watcher.saw(Disconnected, 3)
            assert "changing" in watcher.of(Disconnected)[-1].error
            outbox.rows("alter role changing password 'first'")
            await watcher.saw(Streaming, 2)
            await recorder.until(lambda: True)
            ids = outbox.put([1])
            await recorder.got(1)

        assert recorder.ids == ids

    def test_the_password_is_told_to_nobody(self, remote: Any) -> None:
        with pytest.raises(OutboxError) as caught:
            connect_plainly(remote.tcp_dsn(password="hush-hush"))

        assert "hush" not in f"{caught.value} {caught.value.hint} {caught.value!r}"


async def test_every_attempt_is_told_once_and_they_grow_rarer(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that ends each connection as soon as there is one."""
    # However long the machine makes a hold last, none of these was a good one.
    monkeypatch.setattr("pgcdc_outbox.consumer.consumer._GOOD_HOLD_SECONDS", 600.0)
    watcher = Watcher()

    def cut(event: Any) -> None:
        if isinstance(event, Streaming):
            outbox.end_slot_reader()

    subject = consumer(outbox, Recorder(), observers=[cut, watcher])
    begun = time.monotonic()
    async with running(subject):
        await watcher.saw(Disconnected, 6, timeout=120)
        took = time.monotonic() - begun

    delays = [event.delay_seconds for event in watcher.of(Disconnected)]
    assert took >= sum(delays[:5])
    assert delays[5] >= 1.6
    assert all(event.error for event in watcher.of(Disconnected))
    assert len(watcher.of(Connecting)) - len(delays) in (0, 1)


async def test_a_segment_of_the_log_that_was_removed_by_hand_is_a_lost_slot(
    fresh_server: Any,
) -> None:
    server = fresh_server()
    migrate(server.dsn())
    outbox = Outbox(server.dsn())
    recorder, watcher = Recorder(), Watcher()
    ids = outbox.put([1])
    await consumer(outbox, recorder).run(once=True)
    needed = outbox.value("select pg_walfile_name(restart_lsn) from pg_replication_slots")
    ids += outbox.put([2])
    for _ in range(2):
        outbox.rows("select pg_switch_wal()")
        outbox.put(["filler"])

    ids = [row[0] for row in outbox.rows("select id from immediate order by id")]
    (server.data / "pg_wal" / needed).unlink()
    async with running(consumer(outbox, recorder, observers=[watcher])):
        made = await watcher.saw(SlotCreated)
        await watcher.saw(Reconciled)

    assert needed in made.reason
    assert recorder.ids == ids
    assert needed in watcher.of(Disconnected)[0].error


async def test_a_server_that_does_not_allow_the_plugin_says_how_to_mend_it(
    fresh_server: Any,
) -> None:
    server = fresh_server()
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        found = connection.execute(
            "select from pg_settings where name = 'output_plugin_libraries'"
        ).fetchall()
        if not found:
            pytest.skip("this server allows every plugin")

        connection.execute("alter system set output_plugin_libraries = 'test_decoding'")

    await to_thread.run_sync(server.restart)
    migrate(server.dsn())
    with pytest.raises(PermissionMissing) as caught:
        await consumer(Outbox(server.dsn()), Recorder()).run(once=True)

    assert "output_plugin_libraries" in caught.value.hint


async def test_all_slots_taken_is_told_with_what_to_raise(fresh_server: Any) -> None:
    server = fresh_server(settings={"max_replication_slots": "1"})
    migrate(server.dsn())
    outbox = Outbox(server.dsn())
    outbox.rows("select pg_create_physical_replication_slot('other')")
    watcher = Watcher()
    async with running(consumer(outbox, Recorder(), observers=[watcher])):
        told = await watcher.saw(Disconnected, 2)

    assert "max_replication_slots" in told.hint


async def test_the_environment_says_where_the_outbox_is(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = outbox.put([1])
    recorder = Recorder()
    monkeypatch.setenv("PGCDC_OUTBOX_DSN", outbox.dsn)
    await Consumer(None, recorder, observers=[]).run(once=True)

    assert recorder.ids == ids


async def test_libpqs_variables_say_it_too(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = outbox.put([1])
    recorder = Recorder()
    monkeypatch.delenv("PGCDC_OUTBOX_DSN", raising=False)
    for field, value in psycopg.conninfo.conninfo_to_dict(outbox.dsn).items():
        name = {"dbname": "DATABASE"}.get(field, field.upper())
        monkeypatch.setenv(f"PG{name}", str(value))

    await Consumer(None, recorder, observers=[]).run(once=True)

    assert recorder.ids == ids


async def test_no_interval_is_so_short_that_it_makes_a_hot_loop(outbox: Outbox) -> None:
    """Hundred rounds in a second, of each; without the floor it is thousands."""
    watcher = Watcher()
    subject = consumer(
        outbox, Recorder(), observers=[watcher], promote_interval=0, checkpoint_interval=0
    )
    async with streaming(subject, watcher):
        before, begun = _transactions(outbox), time.monotonic()
        await eventually_async(lambda: _truth(time.monotonic() - begun > 3))
        await eventually_async(lambda: _truth(_transactions(outbox) > before))
        took = time.monotonic() - begun
        done = _transactions(outbox) - before

    assert done < 260 * took


def _transactions(outbox: Outbox) -> int:
    return int(
        outbox.value("select xact_commit from pg_stat_database where datname = current_database()")
    )


async def _truth(value: bool) -> bool:
    return value


def _failure(dsn: str) -> str:
    try:
        psycopg.connect(dsn).close()
    except psycopg.OperationalError as error:
        return str(error)

    return ""


def _port(server: Any) -> int:
    return int(psycopg.conninfo.conninfo_to_dict(server.tcp_dsn())["port"])
