"""The one error this package raises for bytes that make no sense."""

from __future__ import annotations


class ProtocolError(ValueError):
    """The bytes are not what the protocol says they are.

    It is never worth trying again: the same bytes fail the same way. A reader
    should stop without acknowledging anything, because a message it cannot
    read may hold a row it must not lose.
    """

    def __init__(self, problem: str, *, what: str, offset: int) -> None:
        super().__init__(problem, what, offset)
        self.problem = problem
        self.what = what
        """What was being decoded, such as ``Begin``."""
        self.offset = offset
        """Where in those bytes it stopped making sense."""

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions are rebuilt from positional arguments, and ours are named.
        return _rebuild, (self.problem, self.what, self.offset)

    def __str__(self) -> str:
        return f"{self.what}: {self.problem} (at byte {self.offset})"


def _rebuild(problem: str, what: str, offset: int) -> ProtocolError:
    return ProtocolError(problem, what=what, offset=offset)
