"""What can go wrong around a test."""


class ServerUnavailable(Exception):
    """A PostgreSQL server could not be found, started or kept running."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\nHint: {self.hint}" if self.hint else message


class NotClean(Exception):
    """An earlier test left something running that keeps the outbox from being emptied."""


class DrainTimeout(AssertionError):
    """There was still something to do when the time for draining was over."""
