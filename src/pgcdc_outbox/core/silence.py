"""How long the other side may say nothing."""


class Silence:
    """Tells a peer that is dead from one that has nothing to say.

    After a third of the patience it has to be asked, and it is dead if nothing at all
    came for the whole. All times are seconds of one monotonic clock, given as arguments.
    """

    def __init__(self, *, patience: float, now: float) -> None:
        self.patience = patience
        self._last = now

    def heard(self, now: float) -> None:
        """Something came."""
        self._last = now

    def is_long(self, now: float) -> bool:
        """Whether it is time to ask."""
        return now - self._last >= self.patience / 3

    def is_over(self, now: float) -> bool:
        """Whether nothing will come any more."""
        return now - self._last >= self.patience

    def wait(self, now: float) -> float:
        """Seconds until one of the two answers changes; 0 if it is over."""
        last = self._last
        due = last + self.patience / 3 if not self.is_long(now) else last + self.patience
        return max(0.0, due - now)


def patience(timeout: float) -> float:
    """Seconds of silence to bear from a server of such a ``wal_sender_timeout`` (0: none).

    Half as long again as the server bears it from us: it gives up first, and a server
    that is busy decoding has time to say something.
    """
    return (timeout or 60.0) * 1.5
