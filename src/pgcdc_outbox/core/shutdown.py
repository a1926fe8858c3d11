"""Telling a server that shuts down by its keepalives."""

from collections import deque


class Burst:
    """Recognises the keepalives of a server that waits for us to confirm everything.

    Such a server asks again as soon as it was answered, about the same position, and
    sends no more data: it would go on for as long as a job runs. A server that lives
    asks about twice in each of its timeouts. All times are seconds of one monotonic
    clock, given as arguments.
    """

    def __init__(self, *, count: int = 20, within: float = 1.0) -> None:
        self._count = count
        self._within = within
        self._times: deque[float] = deque(maxlen=count)
        self._position = 0

    def asked(self, position: int, now: float) -> bool:
        """Note a keepalive that wants an answer; whether the server shuts down."""
        if position != self._position:
            self._position = position
            self._times.clear()

        self._times.append(now)
        return len(self._times) == self._count and now - self._times[0] <= self._within

    def data(self) -> None:
        """Note anything else that came: the server is not only waiting."""
        self._times.clear()
