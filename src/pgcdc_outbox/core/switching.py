"""When to try the log again, for who polls because it could not be read."""

FIRST_WAIT_SECONDS = 60.0
LONGEST_WAIT_SECONDS = 3600.0


class Switching:
    """Waits before the log is tried again: twice as long each time that it did not last.

    Times are seconds of a monotonic clock.
    """

    def __init__(self) -> None:
        self._wait = 0.0
        self._left_at = float("-inf")

    def polls_until(self) -> float:
        """When the log may be tried (again)."""
        return self._left_at + self._wait

    def left(self, now: float) -> None:
        """Note that the log could not be read, or not any longer."""
        lasted = now - self.polls_until()
        if self._wait and lasted < LONGEST_WAIT_SECONDS:
            self._wait = min(2 * self._wait, LONGEST_WAIT_SECONDS)
        else:
            self._wait = FIRST_WAIT_SECONDS

        self._left_at = now
