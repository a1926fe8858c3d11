"""A PostgreSQL server of our own.

It lives in one data folder, listens on a Unix socket that only its owner can reach, and
ends with the program that started it.
"""

import atexit
import logging
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, Self

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgcdc_outbox.testing import databases
from pgcdc_outbox.testing.account import Account
from pgcdc_outbox.testing.binaries import Binaries
from pgcdc_outbox.testing.cluster import Cluster
from pgcdc_outbox.testing.errors import ServerUnavailable
from pgcdc_outbox.testing.places import private_folder
from pgcdc_outbox.testing.postmaster import Mode, Postmaster

__all__ = ["PostgresServer", "ServerUnavailable"]

logger = logging.getLogger(__name__)

SUPERUSER: Final = "postgres"
USUAL_PORT: Final = 5432

# Recovery after a crash counts as starting, and a busy machine can be slow at it.
START_TIMEOUT: Final = 60.0

SETTINGS: Final[Mapping[str, str]] = {
    "cluster_name": "pgcdc-outbox",
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "lc_messages": "C",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}

# Safe against the death of any process, not against the death of the machine.
NOT_DURABLE: Final[Mapping[str, str]] = {"fsync": "off", "full_page_writes": "off"}

HARDER: Final[Mapping[Mode, Mode]] = {"smart": "fast", "fast": "immediate"}


class PostgresServer:
    """A server, from `start` to `close`.

    In between it can be stopped and resumed, restarted, and killed.
    """

    _open: ClassVar[set["PostgresServer"]] = set()

    def __init__(
        self,
        data: Path | None,
        *,
        binaries: Binaries,
        settings: Mapping[str, str],
        tcp: bool,
        durable: bool,
    ) -> None:
        self._keeps_data = data is not None
        self._account = Account.for_data(data)
        self._binaries = binaries.within_reach(self._account)
        self._folder = private_folder(self._account, prefix="pgcdc-")
        self._cluster = Cluster.locate(data or self._folder / "data", self._account)
        self._port = _free_port() if tcp else USUAL_PORT
        self._password = secrets.token_urlsafe() if tcp else None
        self._settings = {
            **SETTINGS,
            **({} if durable else NOT_DURABLE),
            "listen_addresses": "127.0.0.1" if tcp else "",
            "port": str(self._port),
            "unix_socket_directories": f'"{self._folder}"',
            **settings,
        }
        self._postmaster: Postmaster | None = None
        self._version = 0

    @classmethod
    def start(
        cls,
        data: Path | None = None,
        *,
        binaries: Binaries | None = None,
        settings: Mapping[str, str] | None = None,
        tcp: bool = False,
        durable: bool = False,
        copy_of: "PostgresServer | None" = None,
        standby: bool = False,
    ) -> Self:
        """Start a server, and return when it takes connections.

        With ``data`` the folder is kept, and a cluster that is already in it is used as it
        is. Without, there is a new one, removed by `close`. It begins empty, or as a copy of
        another server's, slots and all, which must not run while it is made. As a standby
        it leaves out the slots, and follows the other server when that runs again.
        """
        if copy_of is not None and copy_of.running:
            raise ServerUnavailable(
                f"{copy_of!r} is running, so that its data cannot be copied",
                hint="Stop it, start the copy, and resume it.",
            )

        follows = {"primary_conninfo": copy_of.dsn()} if standby and copy_of else {}
        server = cls(
            data,
            binaries=binaries or Binaries.find(),
            settings={**follows, **(settings or {})},
            tcp=tcp,
            durable=durable,
        )
        cls._open.add(server)
        try:
            original = None if copy_of is None else copy_of._cluster
            server._cluster.create(server._binaries, original)
            if follows:
                server._cluster.make_standby()

            server.resume()
        except BaseException:
            server.close()
            raise
        return server

    @classmethod
    def still_open(cls) -> frozenset["PostgresServer"]:
        """Return the servers that this process started and has not closed."""
        return frozenset(cls._open)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = f"pid={self._postmaster.pid}" if self.running and self._postmaster else "stopped"
        return f"<{type(self).__name__} {self.data} {state}>"

    # What it is.

    @property
    def data(self) -> Path:
        """The data folder."""
        return self._cluster.data

    @property
    def log(self) -> Path:
        """The file that the server logs to."""
        return self._cluster.log

    @property
    def running(self) -> bool:
        """Whether the server's process is there."""
        return self._postmaster is not None and self._postmaster.running

    @property
    def pid(self) -> int:
        """The id of the server's process."""
        if self._postmaster is None or not self._postmaster.running:
            raise ServerUnavailable("the server is not running")
        return self._postmaster.pid

    @property
    def version(self) -> int:
        """The version as the server counts it, such as ``180006``."""
        return self._version

    def dsn(self, database: str = "postgres", **params: str | int) -> str:
        """Return the DSN of a database, through the socket."""
        place: dict[str, str | int] = {"host": str(self._folder), "port": self._port}
        return make_conninfo("", **(place | {"user": SUPERUSER, "dbname": database} | params))

    def tcp_dsn(self, database: str = "postgres", **params: str | int) -> str:
        """Return the DSN of a database, through TCP, where a password is asked for."""
        if self._password is None:
            raise ServerUnavailable("the server was started without tcp=True")
        place: dict[str, str | int] = {"host": "127.0.0.1", "password": self._password}
        return self.dsn(database, **(place | params))

    def log_tail(self, lines: int = 20) -> str:
        """Return the end of the log."""
        return self._cluster.log_tail(lines)

    # Its life.

    def resume(self) -> None:
        """Start the process of a server that was stopped or killed."""
        if self.running:
            return

        self.kill()  # if it died by itself, there is still its guard to dismiss
        deadline = time.monotonic() + START_TIMEOUT

        while not self._launch(deadline):
            # The processes of a killed server keep its memory until they notice.
            time.sleep(0.05)

        if self._password is not None:
            self._set_password(self._password)

    def stop(self, mode: Mode = "fast", *, timeout: float = 30.0) -> None:
        """Shut the server down, the harder way if it does not go in time."""
        if self._postmaster is None:
            return

        asked: Mode | None = mode

        while asked is not None and not self._postmaster.end(asked, timeout=timeout):
            logger.warning("the server did not end within %s s of %r", timeout, asked)
            asked = HARDER.get(asked)

        self._postmaster.kill()
        self._postmaster = None

    def restart(self, mode: Mode = "fast", *, timeout: float = 30.0) -> None:
        """Stop the server if it runs, and start it with the same data and settings."""
        self.stop(mode, timeout=timeout)
        self.resume()

    def kill(self) -> None:
        """End the server without warning, as a crash does."""
        if self._postmaster is not None:
            self._postmaster.kill()
            self._postmaster = None

    def close(self) -> None:
        """Stop the server for good, and remove what was only temporary."""
        self.stop("fast" if self._keeps_data else "immediate")
        shutil.rmtree(self._folder, ignore_errors=True)
        self._open.discard(self)

    # Its contents.

    def create_database(self, name: str) -> str:
        """Create an empty database and return its DSN."""
        return databases.create_database(self.dsn(), name)

    def drop_database(self, name: str) -> None:
        """Drop a database with its replication slots, whoever is using them."""
        databases.drop_database(self.dsn(), name)

    # Its programs.

    def program(self, name: str) -> Path | None:
        """Find a program of the server's own version, such as ``pg_recvlogical``."""
        return self._binaries.program(name)

    def environment(self) -> dict[str, str]:
        """Return an environment in which PostgreSQL's programs find this server."""
        place = {"PGHOST": str(self._folder), "PGPORT": str(self._port), "PGUSER": SUPERUSER}
        return self._binaries.environment() | place | {"PGDATABASE": "postgres"}

    def run_program(
        self, name: str, *arguments: str | Path, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the server's own version to its end, as the server's account."""
        if (program := self.program(name)) is None:
            raise ServerUnavailable(
                f"there is no {name} beside the server, in {self._binaries.bin}"
            )
        return subprocess.run(  # noqa: S603
            [program, *arguments],
            cwd="/",
            env=self.environment(),
            user=self._account.user,
            group=self._account.group,
            extra_groups=self._account.extra_groups,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=timeout,
        )

    def _launch(self, deadline: float) -> bool:
        self._cluster.mark_log()
        arguments = self._cluster.configure(self._settings, self._folder / "server.conf")
        self._postmaster = Postmaster.launch(
            [self._binaries.bin / "postgres", *arguments],
            data=self.data,
            log=self.log,
            account=self._account,
            environment=self._binaries.environment(),
        )

        while self._postmaster.running:
            if self._answers():
                return True
            if time.monotonic() > deadline:
                raise self._failure(f"the server was not ready within {START_TIMEOUT:.0f} s")
            time.sleep(0.02)

        self.kill()
        if self._cluster.is_still_in_use() and time.monotonic() < deadline:
            return False
        raise self._failure("the server did not start")

    def _answers(self) -> bool:
        try:
            with psycopg.connect(self.dsn(), connect_timeout=5) as connection:
                self._version = connection.info.server_version
        except psycopg.OperationalError:
            return False
        return True

    def _failure(self, message: str) -> ServerUnavailable:
        return ServerUnavailable(
            f"{message}; its log ends with\n\n{self.log_tail()}",
            hint="The last lines of the log name the setting or the file at fault.",
        )

    def _set_password(self, password: str) -> None:
        statement = sql.SQL("alter role {} password {}").format(
            sql.Identifier(SUPERUSER), sql.Literal(password)
        )
        with psycopg.connect(self.dsn()) as connection:
            connection.execute(statement)


@atexit.register
def _close_forgotten() -> None:
    for server in PostgresServer.still_open():
        server.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
