"""The commands of a replication connection, as text.

Such a connection takes them through the simple protocol only, which has no
parameters, so whatever a caller supplies is quoted here or refused.

Source: "Streaming Replication Protocol" and "Logical Streaming Replication
Parameters" in the PostgreSQL manual. A `server_version` is a number as libpq
gives it, such as 140023.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

from .units import Lsn, format_lsn

Snapshot: TypeAlias = Literal["export", "use", "nothing"]
Streaming: TypeAlias = Literal["off", "on", "parallel"]
OriginFilter: TypeAlias = Literal["any", "none"]

_SLOT_NAME: Final = re.compile(r"[a-z0-9_]{1,63}", re.ASCII)
_LONGEST_NAME: Final = 63
_UNPARENTHESISED: Final = {
    "export": "EXPORT_SNAPSHOT",
    "use": "USE_SNAPSHOT",
    "nothing": "NOEXPORT_SNAPSHOT",
}
_STREAMING_SINCE: Final = {"off": 1, "on": 2, "parallel": 4}


def identify_system() -> str:
    return "IDENTIFY_SYSTEM"


def show(parameter: str) -> str:
    """Ask for a setting, whose name may have two parts: ``extension.setting``."""
    return "SHOW " + ".".join(map(quote_identifier, parameter.split(".")))


def create_replication_slot(
    slot: str,
    *,
    server_version: int,
    plugin: str = "pgoutput",
    temporary: bool = False,
    snapshot: Snapshot = "nothing",
    two_phase: bool = False,
    failover: bool = False,
) -> str:
    """Create a logical slot. PostgreSQL 14 knows only the older form of it.

    ``snapshot='use'`` stands first in a transaction that is repeatable read and,
    since PostgreSQL 16, read only.
    """
    if two_phase and server_version < 150000:
        raise ValueError("two-phase commit needs PostgreSQL 15")

    if failover and server_version < 170000:
        raise ValueError("slots that follow a failover need PostgreSQL 17")

    if snapshot not in _UNPARENTHESISED:
        raise ValueError(f"a snapshot is for export, use or nothing, not {snapshot!r}")

    words = ["CREATE_REPLICATION_SLOT", _slot(slot)]
    if temporary:
        words.append("TEMPORARY")

    words += ["LOGICAL", quote_identifier(plugin)]
    if server_version < 150000:
        return " ".join((*words, _UNPARENTHESISED[snapshot]))

    options = [f"SNAPSHOT {quote_literal(snapshot)}"]
    if two_phase:
        options.append("TWO_PHASE true")

    if failover:
        options.append("FAILOVER true")

    return f"{' '.join(words)} ({', '.join(options)})"


def alter_replication_slot(
    slot: str, *, failover: bool | None = None, two_phase: bool | None = None
) -> str:
    """Change a slot: `failover` since PostgreSQL 17, `two_phase` since 18."""
    wanted = {"FAILOVER": failover, "TWO_PHASE": two_phase}
    options = [f"{name} {_word(value)}" for name, value in wanted.items() if value is not None]
    if not options:
        raise ValueError("nothing to change")

    return f"ALTER_REPLICATION_SLOT {_slot(slot)} ({', '.join(options)})"


def drop_replication_slot(slot: str, *, wait: bool = False) -> str:
    """Drop a slot; `wait` for the one who uses it, rather than fail."""
    return f"DROP_REPLICATION_SLOT {_slot(slot)}{' WAIT' if wait else ''}"


def read_replication_slot(slot: str) -> str:
    """Ask about a slot: a physical one only, since PostgreSQL 15."""
    return f"READ_REPLICATION_SLOT {_slot(slot)}"


def start_replication(
    slot: str,
    *,
    publications: Iterable[str],
    start_lsn: Lsn = 0,
    proto_version: int = 1,
    binary: bool | None = None,
    messages: bool | None = None,
    streaming: Streaming | None = None,
    two_phase: bool | None = None,
    origin: OriginFilter | None = None,
) -> str:
    """Start to stream. An option left out is left to the server's default.

    `two_phase` needs PostgreSQL 15, ``streaming='parallel'`` and `origin` 16.
    """
    options = {
        "proto_version": str(_version(proto_version, streaming=streaming, two_phase=two_phase)),
        "publication_names": _publications(publications),
        "binary": _word(binary),
        "messages": _word(messages),
        "streaming": streaming,
        "two_phase": _word(two_phase),
        "origin": _origin(origin),
    }
    given = [f"{name} {quote_literal(value)}" for name, value in options.items() if value]
    return (
        f"START_REPLICATION SLOT {_slot(slot)} LOGICAL {format_lsn(start_lsn)} ({', '.join(given)})"
    )


def quote_identifier(name: str) -> str:
    """Quote a name. The server would cut one that is too long, so that is refused."""
    if not name:
        raise ValueError("a name cannot be empty")

    if len(_printable(name).encode()) > _LONGEST_NAME:
        raise ValueError(f"a name has at most {_LONGEST_NAME} bytes: {name!r}")

    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """Quote a string. A backslash means itself in a replication command."""
    return "'" + _printable(text).replace("'", "''") + "'"


def _slot(name: str) -> str:
    if not _SLOT_NAME.fullmatch(name):
        raise ValueError(f"a slot's name has 1 to 63 of a-z, 0-9 and _: {name!r}")

    return quote_identifier(name)


def _publications(names: Iterable[str]) -> str:
    if isinstance(names, str):
        raise ValueError(f"publications are a list of names, not one string: {names!r}")

    # Identifiers again, inside what will be one literal.
    if not (quoted := ",".join(map(quote_identifier, names))):
        raise ValueError("at least one publication is needed")

    return quoted


def _version(version: int, *, streaming: Streaming | None, two_phase: bool | None) -> int:
    if not 1 <= version <= 4:
        raise ValueError(f"the protocol has versions 1 to 4, not {version!r}")

    if streaming is not None:
        if streaming not in _STREAMING_SINCE:
            raise ValueError(f"streaming is off, on or parallel, not {streaming!r}")

        if version < (needed := _STREAMING_SINCE[streaming]):
            raise ValueError(f"streaming {streaming!r} needs protocol version {needed}")

    if two_phase and version < 3:
        raise ValueError("two_phase needs protocol version 3")

    return version


def _origin(origin: OriginFilter | None) -> str | None:
    if origin not in (None, "any", "none"):
        raise ValueError(f"origin is any or none, not {origin!r}")

    return origin


def _word(value: bool | None) -> str | None:
    return None if value is None else str(value).lower()


def _printable(text: str) -> str:
    if "\0" in text:
        raise ValueError(f"a NUL byte would end the command early: {text!r}")

    return text
