"""Settings from a TOML file: frozen values, unknown keys refused by name."""

import tomllib
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from pgcdc_outbox.errors import SettingsError


class Consume(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table ``[consume]``."""

    handler: str | None = None
    """Where the handler is: ``package.module:name``."""
    name: str = "default"
    """Name of the consumer."""
    mode: Literal["logical", "polling", "auto"] = "logical"
    """How jobs are read: from the log, by polling the table, or whichever is possible."""
    poll_interval: float | None = None
    """Seconds between two polls that find nothing; None leaves it to the consumer."""
    max_retained_wal: int | None = None
    """Bytes of log that a slot may keep in mode auto; None leaves it to the consumer."""
    batch_size: int | None = None
    """Most jobs that one call of the handler gets; None leaves it to the consumer."""
    linger: float | None = None
    """Seconds that a batch waits to be filled; None leaves it to the consumer."""
    concurrency: int | None = None
    """Most batches at a time; None leaves it to the consumer."""
    ordering: Literal["none", "key", "strict_key"] | None = None
    """What of one key is in order; None leaves it to the consumer."""
    prefetch: int | None = None
    """Jobs held in memory ahead of the handler; None leaves it to the consumer."""
    max_attempts: int | None = None
    """Executions after which a job is dead; None leaves it to the retry policy."""
    on_slot_loss: Literal["reconcile", "stop"] | None = None
    """What to do when the slot is lost; None leaves it to the consumer."""
    failover: bool | None = None
    """Whether standbys keep a copy of the slot; None means they do not."""
    retry_delay: float | None = None
    """Seconds before the first retry; None leaves it to the retry policy."""
    retry_max_delay: float | None = None
    """Most seconds between two attempts; None leaves it to the retry policy."""
    maintain: bool | None = None
    """Whether the consumer keeps the partitions, too; None means it does."""
    audit: Literal["none", "failures", "all"] | None = None
    """Of which executions a row is kept; None leaves it to the consumer."""
    drain_timeout: float | None = None
    """Seconds that running calls may take after a stop; None leaves it to the consumer."""
    shutdown_grace: float | None = None
    """Seconds that running calls may take when the server stops; None leaves it to the consumer."""
    wal_sender_timeout: float | None = None
    """Seconds after which the server gives up a silent reader; None leaves it to the server."""


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    dsn: str | None = None
    schema: str = "outbox"
    consume: Consume = Consume()


def load(path: str | Path) -> Settings:
    """Read a file. Raises `SettingsError`, which names the file and the key."""
    try:
        values = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        # Not chained, not quoted: the line that makes no sense may hold a password.
        raise SettingsError(f"{path} is not TOML{_position(error)}") from None

    return decode(values, source=str(path))


def decode(values: dict[str, Any], *, source: str) -> Settings:
    """Settings from plain values. Raises `SettingsError`."""
    _refuse_unknown(values, Settings, "", source)
    if isinstance(table := values.get("consume"), dict):
        _refuse_unknown(table, Consume, "consume.", source)

    try:
        return msgspec.convert(values, Settings)
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at `$.")
        raise SettingsError(f"{source}: {where.rstrip('`') or 'the file'}: {problem}") from error


def _refuse_unknown(values: dict[str, Any], kind: type[Struct], prefix: str, source: str) -> None:
    fields = kind.__struct_fields__
    for key in values:
        if key not in fields:
            raise SettingsError(
                f"{source}: unknown key {prefix}{key}",
                hint=f"Known keys: {', '.join(prefix + field for field in fields)}.",
            )


def _position(error: Exception) -> str:
    """`` (at line 3, column 7)``, if the parser told."""
    _, found, position = str(error).rpartition(" (at ")
    return f" (at {position}" if found else ""
