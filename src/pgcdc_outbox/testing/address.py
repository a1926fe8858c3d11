"""Where a server is reached: through its socket, and through TCP if that was asked for."""

import secrets
import socket
from pathlib import Path
from typing import Final

from psycopg.conninfo import make_conninfo

from pgcdc_outbox.testing.errors import ServerUnavailable

SUPERUSER: Final = "postgres"
USUAL_PORT: Final = 5432


class Address:
    """The folder of the socket; with TCP a free port, and a password that nobody can guess."""

    def __init__(self, folder: Path, *, tcp: bool) -> None:
        self._folder = folder
        self._port = _free_port() if tcp else USUAL_PORT
        self.password = secrets.token_urlsafe() if tcp else None
        """What is asked for through TCP; None without it."""

    def dsn(self, database: str, **params: str | int) -> str:
        """Return the DSN of a database, through the socket."""
        place: dict[str, str | int] = {"host": str(self._folder), "port": self._port}
        return make_conninfo("", **(place | {"user": SUPERUSER, "dbname": database} | params))

    def tcp_dsn(self, database: str, **params: str | int) -> str:
        """Return the DSN of a database, through TCP."""
        if self.password is None:
            raise ServerUnavailable("the server was started without tcp=True")
        place: dict[str, str | int] = {"host": "127.0.0.1", "password": self.password}
        return self.dsn(database, **(place | params))

    def settings(self) -> dict[str, str]:
        """Return settings with which a server listens here."""
        return {
            "listen_addresses": "" if self.password is None else "127.0.0.1",
            "port": str(self._port),
            "unix_socket_directories": f'"{self._folder}"',
        }

    def environment(self) -> dict[str, str]:
        """Return variables with which PostgreSQL's programs find the server."""
        return {
            "PGHOST": str(self._folder),
            "PGPORT": str(self._port),
            "PGUSER": SUPERUSER,
            "PGDATABASE": "postgres",
        }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
