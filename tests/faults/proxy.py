"""A network that can be cut, stalled and slowed, in either direction, at any moment.

To both ends it looks like what it stands for, except that the kernel here goes on answering
for a stalled one: the keepalives of TCP notice nothing, and only what the two say does.
"""

import socket
import struct
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self

Direction = Literal["up", "down"]
"""Up leads to the server."""

_CHUNK = 16 * 1024
_RESET = struct.pack("ii", 1, 0)


class Valve:
    """One direction of every connection."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self.latency = 0.0
        """Seconds for each piece."""
        self.bandwidth = float("inf")
        """Bytes per second, on each connection."""

    def close(self) -> None:
        """Let nothing through, and say nothing about it."""
        self._open.clear()

    def open(self) -> None:
        """Let everything through again, what waited first."""
        self._open.set()

    def pass_on(self, data: bytes, target: socket.socket) -> None:
        """Send bytes when they may go."""
        time.sleep(self.latency + len(data) / self.bandwidth)
        self._open.wait()
        target.sendall(data)


class Link:
    """One connection, and the two threads that carry it."""

    def __init__(
        self, client: socket.socket, server: socket.socket, up: Valve, down: Valve
    ) -> None:
        self._ends = (client, server)
        self.valves = (up, down)
        self._threads = [
            threading.Thread(target=self._carry, args=ends, daemon=True)
            for ends in ((client, server, up), (server, client, down))
        ]
        for thread in self._threads:
            thread.start()

    def cut(self) -> None:
        """End it as a router does that has forgotten it: with a reset on both sides."""
        for end in self._ends:
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                # A close alone would not wake the thread that reads.
                end.shutdown(socket.SHUT_RD)

            with suppress(OSError):
                end.close()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _carry(self, source: socket.socket, target: socket.socket, valve: Valve) -> None:
        try:
            while data := source.recv(_CHUNK):
                valve.pass_on(data, target)

            target.shutdown(socket.SHUT_WR)
        except OSError:
            # One side was reset, and the other is to know.
            self.cut()


class Proxy:
    """Listens in place of a server."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._links: list[Link] = []
        self._lock = threading.Lock()
        self._up, self._down = Valve(), Valve()
        self._thread = threading.Thread(target=self._accept, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)

        self._listener.close()
        self._thread.join()
        self.heal()
        for link in self._links:
            for valve in link.valves:
                valve.open()

            link.cut()
            link.join()

    def valves(self, *directions: Direction) -> list[Valve]:
        """The valves of these directions; of both, if none is named."""
        both = {"up": self._up, "down": self._down}
        return [both[direction] for direction in directions or ("up", "down")]

    def cut(self) -> None:
        """End every connection. New ones are taken at once."""
        with self._lock:
            for link in self._links:
                link.cut()

    def stall(self, *directions: Direction) -> None:
        """Let nothing through any more, on old and on new connections."""
        for valve in self.valves(*directions):
            valve.close()

    def strand(self) -> None:
        """Stall every connection that there is, for ever. New ones pass."""
        with self._lock:
            for valve in (self._up, self._down):
                valve.close()

            self._up, self._down = Valve(), Valve()

    def slow(self, *, latency: float = 0.0, bandwidth: float = float("inf")) -> None:
        """Delay everything, both ways."""
        for valve in (self._up, self._down):
            valve.latency, valve.bandwidth = latency, bandwidth

    def heal(self) -> None:
        """Let everything through, at once."""
        self.slow()
        for valve in (self._up, self._down):
            valve.open()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return

            try:
                server = socket.create_connection(self._server)
            except OSError:
                client.close()
                continue

            with self._lock:
                self._links.append(Link(client, server, self._up, self._down))
