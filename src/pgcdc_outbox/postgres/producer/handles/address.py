"""Where a client connects when no transaction is given to it."""

import os
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pgcdc_outbox.errors import SettingsError

VARIABLE: Final = "PGCDC_OUTBOX_DSN"

_DEFAULTS: Final[dict[str, Any]] = {
    "connect_timeout": 10,
    "fallback_application_name": "pgcdc-outbox",
}
# The others may be secret.
_SHOWN: Final = ("host", "hostaddr", "port", "dbname", "user", "service")


class Address:
    """A conninfo, or the promise to look into the environment when it is needed."""

    def __init__(self, conninfo: str | None) -> None:
        self._parameters = None if conninfo is None else _parse("conninfo", conninfo)

    @property
    def parameters(self) -> dict[str, Any]:
        """What to connect with; libpq's PG* variables fill in the rest.

        Raises `SettingsError` if the environment holds something else than a conninfo.
        """
        given = self._parameters
        if given is None:
            given = _parse(VARIABLE, os.environ.get(VARIABLE, ""))

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


def _parse(field: str, conninfo: str) -> dict[str, Any]:
    hint = "Write postgresql://user@host/database, or host=... dbname=... user=..."
    try:
        parameters = conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        # Not chained, not quoted: the part that makes no sense may be the password.
        raise SettingsError(f"{field}: it makes no sense", hint=hint) from None

    # A password with a bare "@" ends up in the host. (A leading one is a socket's.)
    if "@" in str(parameters.get("host") or "")[1:]:
        raise SettingsError(f"{field}: there is an @ in the host; percent-encode it", hint=hint)

    return parameters
