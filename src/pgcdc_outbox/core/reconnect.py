"""How long to wait before trying again to reach the server."""

from collections.abc import Callable


class Backoff:
    """Exponential backoff with full jitter above a floor, capped; reset by success."""

    def __init__(self, *, first: float = 0.1, cap: float = 30.0) -> None:
        self._first = first
        self._cap = cap
        self._failures = 0

    def next(self, jitter: Callable[[float, float], float]) -> float:
        """Seconds to wait; each call in a row doubles the ceiling."""
        # Bounded before the power, not after: 2.0 ** 1024 overflows.
        ceiling = min(self._first * 2.0 ** min(self._failures, 32), self._cap)
        self._failures += 1
        return jitter(ceiling / 2, ceiling)

    def reset(self) -> None:
        """The connection worked: start from the beginning next time."""
        self._failures = 0
