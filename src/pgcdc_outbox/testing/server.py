"""A PostgreSQL server of our own.

It lives in one data folder, listens on a Unix socket that only its owner can reach, and
ends with the program that started it.
"""

import atexit
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, Self

from pgcdc_outbox.testing import databases
from pgcdc_outbox.testing.account import Account
from pgcdc_outbox.testing.address import Address
from pgcdc_outbox.testing.binaries import Binaries
from pgcdc_outbox.testing.cluster import Cluster
from pgcdc_outbox.testing.errors import ServerUnavailable
from pgcdc_outbox.testing.places import MEMORY, private_folder
from pgcdc_outbox.testing.postmaster import Mode
from pgcdc_outbox.testing.runner import Runner

__all__ = ["PostgresServer", "ServerUnavailable"]

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

# Shared memory in the data folder, so that a server that is killed leaves none behind.
IN_MEMORY: Final[Mapping[str, str]] = {"dynamic_shared_memory_type": "mmap"}


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
        in_memory: bool,
    ) -> None:
        self._keeps_data = data is not None
        self._account = Account.for_data(data)
        self._binaries = binaries.within_reach(self._account)
        self._folder = private_folder(
            self._account, prefix="pgcdc-", in_memory=in_memory and data is None
        )
        self._cluster = Cluster.locate(data or self._folder / "data", self._account)
        self._address = Address(self._folder, tcp=tcp)
        self._runner = Runner(
            self._cluster,
            self._address,
            binaries=self._binaries,
            account=self._account,
            settings={
                **SETTINGS,
                **({} if durable else NOT_DURABLE),
                **(IN_MEMORY if self._folder.parent == MEMORY else {}),
                **self._address.settings(),
                **settings,
            },
            config=self._folder / "server.conf",
            temporary=None if self._keeps_data else self._folder,
        )

    @classmethod
    def start(
        cls,
        data: Path | None = None,
        *,
        binaries: Binaries | None = None,
        settings: Mapping[str, str] | None = None,
        tcp: bool = False,
        durable: bool = False,
        in_memory: bool = False,
        copy_of: "PostgresServer | None" = None,
        standby: bool = False,
    ) -> Self:
        """Start a server, and return when it takes connections.

        With ``data`` the folder is kept, and a cluster that is already in it is used as it
        is. Without, there is a new one, removed by `close`. It begins empty, or as a copy of
        another server's, slots and all, which must not run while it is made. As a standby
        it leaves out the slots, and follows the other server when that runs again.

        ``in_memory`` keeps a new cluster in memory, where a system offers several GB for
        files there. A database is then made several times as fast.
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
            in_memory=in_memory,
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
        pid = self._runner.pid
        state = "stopped" if pid is None else f"pid={pid}"
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
        return self._runner.pid is not None

    @property
    def pid(self) -> int:
        """The id of the server's process."""
        if (pid := self._runner.pid) is None:
            raise ServerUnavailable("the server is not running")
        return pid

    @property
    def version(self) -> int:
        """The version as the server counts it, such as ``180006``."""
        return self._runner.version

    def dsn(self, database: str = "postgres", **params: str | int) -> str:
        """Return the DSN of a database, through the socket."""
        return self._address.dsn(database, **params)

    def tcp_dsn(self, database: str = "postgres", **params: str | int) -> str:
        """Return the DSN of a database, through TCP, where a password is asked for."""
        return self._address.tcp_dsn(database, **params)

    def log_tail(self, lines: int = 20) -> str:
        """Return the end of the log."""
        return self._cluster.log_tail(lines)

    # Its life.

    def resume(self) -> None:
        """Start the process of a server that was stopped or killed."""
        self._runner.resume()

    def stop(self, mode: Mode = "fast", *, timeout: float = 30.0) -> None:
        """Shut the server down, the harder way if it does not go in time."""
        self._runner.stop(mode, timeout=timeout)

    def restart(self, mode: Mode = "fast", *, timeout: float = 30.0) -> None:
        """Stop the server if it runs, and start it with the same data and settings."""
        self.stop(mode, timeout=timeout)
        self.resume()

    def kill(self) -> None:
        """End the server without warning, as a crash does."""
        self._runner.kill()

    def close(self) -> None:
        """Stop the server for good, and remove what was only temporary."""
        self.stop("fast" if self._keeps_data else "immediate")
        shutil.rmtree(self._folder, ignore_errors=True)
        self._open.discard(self)

    # Its contents.

    def create_database(self, name: str, *, template: str | None = None) -> str:
        """Create a database, empty or the copy of another, and return its DSN."""
        return databases.create_database(self.dsn(), name, template)

    def drop_database(self, name: str) -> None:
        """Drop a database with its replication slots, whoever is using them."""
        databases.drop_database(self.dsn(), name)

    # Its programs.

    def program(self, name: str) -> Path | None:
        """Find a program of the server's own version, such as ``pg_recvlogical``."""
        return self._binaries.program(name)

    def environment(self) -> dict[str, str]:
        """Return an environment in which PostgreSQL's programs find this server."""
        return self._binaries.environment() | self._address.environment()

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


@atexit.register
def _close_forgotten() -> None:
    for server in PostgresServer.still_open():
        server.close()
