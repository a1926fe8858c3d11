"""Asking a server whether it lets anybody in, without going in.

libpq can ask, too, but the driver lets it block the whole process meanwhile, and does
not pass on the SQLSTATE of the answer.
"""

import socket
import ssl
import struct
from contextlib import closing, suppress
from typing import Final

from msgspec import Struct

_SECONDS: Final = 2.0
_VERSION: Final = 3 << 16
_TLS_REQUEST: Final = struct.pack("!II", 8, 80877103)
_TERMINATE: Final = b"X\0\0\0\4"
_LONGEST: Final = 10_000


class Door(Struct, frozen=True, kw_only=True):
    """One server, and as whom to ask there."""

    host: str
    """A name, an address, or the folder of a Unix socket."""
    port: int
    user: str
    database: str
    tls: bool

    def hail(self) -> str | None:
        """The SQLSTATE with which the server refuses everybody; empty if it does not.

        Blocks for some seconds at most. None if there is no answer, or none that can
        be understood.
        """
        try:
            with closing(self._socket()) as plain, closing(self._encrypted(plain)) as connection:
                connection.sendall(_startup(self.user, self.database))
                return _read_answer(connection)
        except (OSError, struct.error):
            return None

    def _socket(self) -> socket.socket:
        if not self.host.startswith(("/", "@")):
            return socket.create_connection((self.host, self.port), timeout=_SECONDS)

        path = f"{self.host}/.s.PGSQL.{self.port}"
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(_SECONDS)
            connection.connect("\0" + path[1:] if path.startswith("@") else path)
        except OSError:
            connection.close()
            raise

        return connection

    def _encrypted(self, connection: socket.socket) -> socket.socket:
        if not self.tls or connection.family == socket.AF_UNIX:
            return connection

        connection.sendall(_TLS_REQUEST)
        if connection.recv(1) != b"S":
            return connection

        # Nothing secret is said, so it does not matter to whom.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context.wrap_socket(connection, server_hostname=self.host)


def _startup(user: str, database: str) -> bytes:
    words = "".join(f"{word}\0" for word in ("user", user, "database", database))
    body = struct.pack("!I", _VERSION) + words.encode() + b"\0"
    return struct.pack("!I", len(body) + 4) + body


def _read_answer(connection: socket.socket) -> str | None:
    kind, length = struct.unpack("!cI", _read(connection, 5))
    body = _read(connection, min(length - 4, _LONGEST))
    if kind == b"R":
        if body == bytes(4):
            # We are in: say goodbye. To a server that asks for a password it would be
            # worth a line in its log, an end without a word is not.
            with suppress(OSError):  # it may be gone already
                connection.sendall(_TERMINATE)

        return ""

    if kind != b"E":
        return None

    fields = {field[:1]: field[1:] for field in body.split(b"\0") if field}
    return fields.get(b"C", b"").decode("ascii", "replace") or None


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        if not (piece := connection.recv(size - len(data))):
            raise ConnectionError("the server said nothing more")

        data += piece

    return data
