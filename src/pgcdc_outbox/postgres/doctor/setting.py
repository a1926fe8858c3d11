"""A setting of the server, and the statement that changes it where it was made."""

from typing import Final

from msgspec import Struct

from pgcdc_outbox.postgres.connection import quoted

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "min": 60.0}
_BYTES: Final = {"B": 1, "kB": 1024, "8kB": 8192, "MB": 1024**2}


class Setting(Struct, frozen=True, kw_only=True):
    """As ``pg_settings`` has it."""

    name: str
    setting: str
    unit: str | None
    source: str
    context: str
    pending_restart: bool

    @property
    def seconds(self) -> float:
        """The value of a setting that is a length of time."""
        return int(self.setting) * _SECONDS[self.unit or "s"]

    @property
    def bytes(self) -> int:
        """The value of a setting that is a size; negative ones mean something else."""
        return int(self.setting) * _BYTES[self.unit or "B"]

    def change(self, value: str, *, database: str, role: str) -> tuple[str, ...]:
        """The statements that give it another value, for those who connect as we do."""
        to = f"{self.name} = '{value}'"
        if self.context == "postmaster":
            return (f"alter system set {to};", "-- then restart the server")

        match self.source:
            case "database":
                return (f"alter database {quoted(database)} set {to};",)
            case "user":
                return (f"alter role {quoted(role)} set {to};",)
            case "database user":
                return (f"alter role {quoted(role)} in database {quoted(database)} set {to};",)
            case "client" | "session" | "environment variable":
                return (f"-- in `options` of the DSN, or in PGOPTIONS: -c {self.name}={value}",)
            case "command line":
                return (f"# on the command line of the server: -c {self.name}={value}",)
            case _:
                return (f"alter system set {to};", "select pg_reload_conf();")
