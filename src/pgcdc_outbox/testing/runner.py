"""Starting and ending the process of a server, as often as one likes."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

from pgcdc_outbox.testing.account import Account
from pgcdc_outbox.testing.address import SUPERUSER, Address
from pgcdc_outbox.testing.binaries import Binaries
from pgcdc_outbox.testing.cluster import Cluster
from pgcdc_outbox.testing.errors import ServerUnavailable
from pgcdc_outbox.testing.postmaster import Mode, Postmaster

logger = logging.getLogger(__name__)

# Recovery after a crash counts as starting, and a busy machine can be slow at it.
START_TIMEOUT: Final = 180.0

HARDER: Final[Mapping[Mode, Mode]] = {"smart": "fast", "fast": "immediate"}


class Runner:
    """Runs one cluster, at one address, with the same settings each time."""

    def __init__(
        self,
        cluster: Cluster,
        address: Address,
        *,
        binaries: Binaries,
        account: Account,
        settings: Mapping[str, str],
        config: Path,
        temporary: Path | None = None,
    ) -> None:
        """``config`` is the file that the settings are written to.

        ``temporary`` is a folder to remove if this program dies without closing the server.
        """
        self._cluster = cluster
        self._address = address
        self._binaries = binaries
        self._account = account
        self._settings = settings
        self._config = config
        self._temporary = temporary
        self._postmaster: Postmaster | None = None
        self.version = 0
        """The version as the server counts it; 0 before the first start."""

    @property
    def pid(self) -> int | None:
        """The id of the server's process; None if it is not there."""
        if self._postmaster is None or not self._postmaster.running:
            return None
        return self._postmaster.pid

    def resume(self) -> None:
        """Start the process, unless it runs, and return when it takes connections."""
        if self.pid is not None:
            return

        self.kill()  # if it died by itself, there is still its guard to dismiss
        deadline = time.monotonic() + START_TIMEOUT

        while not self._launch(deadline):
            # The processes of a killed server keep its memory until they notice.
            time.sleep(0.05)

        if self._address.password is not None:
            self._set_password(self._address.password)

    def stop(self, mode: Mode, *, timeout: float) -> None:
        """Shut the server down, the harder way if it does not go in time."""
        if self._postmaster is None:
            return

        asked: Mode | None = mode

        while asked is not None and not self._postmaster.end(asked, timeout=timeout):
            logger.warning("the server did not end within %s s of %r", timeout, asked)
            asked = HARDER.get(asked)

        self._postmaster.kill()
        self._postmaster = None

    def kill(self) -> None:
        """End the server without warning, as a crash does."""
        if self._postmaster is not None:
            self._postmaster.kill()
            self._postmaster = None

    def _launch(self, deadline: float) -> bool:
        self._cluster.mark_log()
        arguments = self._cluster.configure(self._settings, self._config)
        self._postmaster = Postmaster.launch(
            [self._binaries.bin / "postgres", *arguments],
            data=self._cluster.data,
            log=self._cluster.log,
            account=self._account,
            environment=self._binaries.environment(),
            temporary=self._temporary,
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
            with psycopg.connect(self._dsn(), connect_timeout=5) as connection:
                self.version = connection.info.server_version
        except psycopg.OperationalError:
            return False
        return True

    def _failure(self, message: str) -> ServerUnavailable:
        return ServerUnavailable(
            f"{message}; its log ends with\n\n{self._cluster.log_tail(20)}",
            hint="The last lines of the log name the setting or the file at fault.",
        )

    def _set_password(self, password: str) -> None:
        statement = sql.SQL("alter role {} password {}").format(
            sql.Identifier(SUPERUSER), sql.Literal(password)
        )
        with psycopg.connect(self._dsn()) as connection:
            connection.execute(statement)

    def _dsn(self) -> str:
        return self._address.dsn("postgres")
