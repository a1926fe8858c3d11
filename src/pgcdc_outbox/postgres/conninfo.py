"""Connection strings: read, and found in the environment."""

import os
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pgcdc_outbox.errors import SettingsError

VARIABLE: Final = "PGCDC_OUTBOX_DSN"

_SPELLING: Final = (
    "Write postgresql://user@host/database, or host=... dbname=... user=...; "
    "percent-encode special characters in a URI, quote spaces in the other form."
)


def parse(conninfo: str, *, field: str = "the connection string") -> dict[str, Any]:
    """The parameters in it. Raises `SettingsError`, which names ``field`` and quotes nothing."""
    try:
        parameters = conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        # Not chained, not quoted: the part that makes no sense may be the password.
        raise SettingsError(f"{field}: it makes no sense", hint=_SPELLING) from None

    # A password with a bare "@" ends up in the host. (A leading one is a socket's.)
    if "@" in str(parameters.get("host") or "")[1:]:
        raise SettingsError(f"{field}: there is an @ in its host", hint=_SPELLING)

    return parameters


def of_environment() -> str:
    """What ``PGCDC_OUTBOX_DSN`` says; empty if it leaves everything to libpq's variables."""
    return os.environ.get(VARIABLE, "")
