"""A pooler in transaction mode, as far as libpq's simple and extended queries need one.

It lends a connection to the server for the length of a transaction, and never the same one
twice in a row: whatever a client expects of its session is not there in its next transaction.
"""

import os
import queue
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

_SSL, _GSS, _CANCEL = 80877103, 80877104, 80877102
_REPORTED = ("server_version", "server_encoding", "client_encoding", "DateStyle", "TimeZone")


class Pooler:
    """Listens while it is used as a context manager."""

    def __init__(self, dsn: str, *, size: int) -> None:
        self._dsn = dsn
        self._connections = [psycopg.connect(dsn, autocommit=True) for _ in range(size)]
        self._servers: list[socket.socket] = []
        self._free: queue.Queue[socket.socket] = queue.Queue()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []

    @property
    def dsn(self) -> str:
        host, port = self._listener.getsockname()
        return make_conninfo(self._dsn, host=host, port=port, sslmode="disable")

    def __enter__(self) -> "Pooler":
        for connection in self._connections:
            server = socket.socket(fileno=os.dup(connection.fileno()))
            server.setblocking(True)
            self._servers.append(server)
            self._free.put(server)

        self._start(self._accept)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        # Clients are gone by now; what they borrowed has to be back before it is closed.
        for thread in self._threads:
            thread.join(30)

        # Also one that was not given back, because the server ended it: else a later test
        # of this process would be blamed for it.
        for server in self._servers:
            server.close()

        for connection in self._connections:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return

            self._start(self._serve, client)

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _serve(self, client: socket.socket) -> None:
        with client:
            self._greet(client)
            while message := _message(client):
                if message[:1] == b"X":
                    return

                server = self._free.get(timeout=30)
                last = self._lend(client, server, message)
                # It stands at the end of the line before the client hears of it: else the
                # next transaction, of whomever, could come first.
                self._free.put(server)
                with suppress(OSError):
                    client.sendall(last)

    def _greet(self, client: socket.socket) -> None:
        while _startup(client) in (_SSL, _GSS):
            client.sendall(b"N")

        told = b"".join(
            _packed(b"S", f"{name}\0{value}\0".encode())
            for name in _REPORTED
            if (value := self._connections[0].info.parameter_status(name)) is not None
        )
        ok = _packed(b"R", struct.pack("!i", 0)) + told
        client.sendall(ok + _packed(b"K", struct.pack("!ii", 0, 0)) + _packed(b"Z", b"I"))

    def _lend(self, client: socket.socket, server: socket.socket, message: bytes) -> bytes:
        """Pass messages on until the transaction is over, also if the client is gone.

        Returns the message which says so; the client does not have it yet.
        """
        while True:
            server.sendall(message)
            if message[:1] in b"QS":
                last = _answer(server, client)
                if last[5:] == b"I":
                    return last

                with suppress(OSError):
                    client.sendall(last)

            message = _message(client)
            if not message or message[:1] == b"X":
                message = _packed(b"Q", b"rollback\0")


def _answer(server: socket.socket, client: socket.socket) -> bytes:
    """Pass on what the server answers, but for the last message, which is returned."""
    while answer := _message(server):
        if answer[:1] == b"Z":
            return answer

        with suppress(OSError):
            client.sendall(answer)

    raise ConnectionError("the server ended a connection of the pool")


def _message(sender: socket.socket) -> bytes:
    head = _exactly(sender, 5)
    return head and head + _exactly(sender, struct.unpack("!i", head[1:])[0] - 4)


def _startup(client: socket.socket) -> int:
    (length,) = struct.unpack("!i", _exactly(client, 4))
    (code,) = struct.unpack("!i", _exactly(client, length - 4)[:4])
    return int(code)


def _exactly(sender: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        try:
            piece = sender.recv(count - len(data))
        except OSError:
            piece = b""

        if not piece:
            return b""

        data += piece

    return data


def _packed(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body
