"""When to tell the server how far we are."""


class Feedback:
    """The clock of status updates, kept whatever the handler is doing.

    A report is due on time (a third of the server's patience), soon after
    something was settled, and at once when the server asks; but a server that
    asks at every answer is answered after a ``gap``. All times are seconds of
    one monotonic clock, given as arguments.
    """

    def __init__(self, *, interval: float, throttle: float = 0.1, gap: float = 0.01) -> None:
        self.interval = interval
        self._throttle = min(throttle, interval)
        self._gap = min(gap, interval)
        self._last = float("-inf")
        self._asked = False
        self._settled = False

    def ask(self) -> None:
        """The server wants an answer now."""
        self._asked = True

    def settle(self) -> None:
        """There is news worth a report, though not worth a report for each job."""
        self._settled = True

    def wait(self, now: float) -> float:
        """Seconds until the next report is due; 0 if it is due now."""
        pause = self._throttle if self._settled else self.interval
        if self._asked:
            pause = self._gap

        return max(0.0, self._last + pause - now)

    def reported(self, now: float) -> None:
        """A report was sent."""
        self._last = now
        self._asked = False
        self._settled = False


def report_interval(timeout: float) -> float:
    """Seconds between reports for a ``wal_sender_timeout`` of so many seconds (0: none).

    A third leaves room for one lost packet and one stall.
    """
    if not timeout:
        return 10.0

    return min(max(timeout / 3, 0.1), 10.0)
