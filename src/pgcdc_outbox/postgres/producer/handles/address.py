"""Where a client connects when no transaction is given to it."""

from typing import Any, Final

from pgcdc_outbox.postgres.conninfo import VARIABLE, of_environment, parse

_DEFAULTS: Final[dict[str, Any]] = {
    "connect_timeout": 10,
    "fallback_application_name": "pgcdc-outbox",
}
# The others may be secret.
_SHOWN: Final = ("host", "hostaddr", "port", "dbname", "user", "service")


class Address:
    """A conninfo, or the promise to look into the environment when it is needed."""

    def __init__(self, conninfo: str | None) -> None:
        self._parameters = None if conninfo is None else parse(conninfo, field="conninfo")

    @property
    def parameters(self) -> dict[str, Any]:
        """What to connect with; libpq's PG* variables fill in the rest.

        Raises `SettingsError` if the environment holds something else than a conninfo.
        """
        given = self._parameters
        if given is None:
            given = parse(of_environment(), field=VARIABLE)

        return _DEFAULTS | given | {"client_encoding": "utf8", "autocommit": True}

    def strike_out(self, text: str) -> str:
        """The text without the password, should it hold it."""
        password = self.parameters.get("password")
        return text.replace(str(password), "***") if password else text

    def __repr__(self) -> str:
        if self._parameters is None:
            return "<environment>"

        shown = (
            f"{name}={self._parameters.get(name)}" for name in _SHOWN if name in self._parameters
        )
        return repr(" ".join(shown))
