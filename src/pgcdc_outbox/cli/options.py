"""The global options, resolved when a command asks for them."""

from functools import cached_property
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pgcdc_outbox.settings import Settings


class Options:
    """What was given before the name of the command."""

    def __init__(
        self, *, dsn: str | None, schema: str | None, config: str | None, debug: bool
    ) -> None:
        self._dsn = dsn
        self._schema = schema
        self._config = config
        self.debug = debug

    @property
    def dsn(self) -> str:
        """Where the database is; empty if libpq's PG* variables tell."""
        if self._dsn is not None:
            return self._dsn

        return self.settings.dsn or ""

    @property
    def schema(self) -> str:
        """The schema of the outbox."""
        return self._schema if self._schema is not None else self.settings.schema

    @cached_property
    def settings(self) -> "Settings":
        """What the file says; the defaults without one."""
        # Imported here: not every command needs it, and msgspec takes its time.
        from pgcdc_outbox.settings import Settings, load

        return load(self._config) if self._config else Settings()

    def without_password(self, text: str) -> str:
        """The text, with the password of the connection string struck out."""
        from pgcdc_outbox.postgres.connection import redact

        return redact(text, self._dsn or "")


pass_options = click.make_pass_decorator(Options)
