"""What can go wrong before there is a server to talk to."""


class ServerUnavailable(Exception):
    """A PostgreSQL server could not be found, started or kept running."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\nHint: {self.hint}" if self.hint else message
