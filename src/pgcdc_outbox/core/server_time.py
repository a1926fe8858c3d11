"""What the clock of the server says, reckoned from what it said last."""

from msgspec import Struct

# Two good clocks part by less than a millisecond meanwhile.
_GOOD_SECONDS = 10.0
_SLACK_SECONDS = 0.001


class Reading(Struct, frozen=True, gc=False):
    """What the server's clock said between two moments of a local one that only moves on."""

    before: float
    """Seconds of the local clock when the server was asked."""
    after: float
    """Seconds of the local clock when the answer was there."""
    server_us: int
    """Microseconds since 1970, UTC."""

    @property
    def latest(self) -> float:
        """Most seconds by which the server may be ahead of the local clock."""
        return self.server_us / 1e6 - self.before

    @property
    def earliest(self) -> float:
        """Least seconds by which the server may be ahead of the local clock."""
        return self.server_us / 1e6 - self.after

    @property
    def width(self) -> float:
        """By how many seconds what is reckoned from it may be wrong."""
        return self.after - self.before


class ServerTime:
    """The last reading that is worth something.

    What it reckons is not behind the clock of the server, but for the millisecond by
    which clocks drift, and ahead of it by no more than the reading took. It follows a
    clock that is set with the next reading.
    """

    def __init__(self) -> None:
        self._reading: Reading | None = None

    def learn(self, reading: Reading) -> None:
        """Take a reading, unless the last one is young, tells more, and does not disagree."""
        last = self._reading
        if (
            last is None
            or reading.width <= last.width
            or reading.after - last.after > _GOOD_SECONDS
            or reading.latest < last.earliest - _SLACK_SECONDS
            or reading.earliest > last.latest + _SLACK_SECONDS
        ):
            self._reading = reading

    def is_known(self, now: float) -> bool:
        """Whether there is a reading that is young enough, ``now`` being the local clock."""
        return self._reading is not None and now - self._reading.after <= _GOOD_SECONDS

    def at(self, now: float) -> int:
        """Microseconds since 1970 by the server, once known; ``now`` is the local clock."""
        assert self._reading is not None, "the server was asked before"
        return self._reading.server_us + round((now - self._reading.before) * 1e6)
