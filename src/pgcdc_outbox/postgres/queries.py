"""The SQL of this package: named blocks in files that psql can run too."""

import re
from functools import lru_cache
from importlib.resources import files

from psycopg import sql

from pgcdc_outbox.postgres.names import publication_name

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@lru_cache(maxsize=512)
def query(name: str, schema: str) -> str:
    """The statement called ``name``, written for ``schema``, to be run with parameters.

    (Without any, give an empty mapping: a per cent sign in the schema's name is
    doubled here, as in all text that psycopg looks for placeholders in.) Raises
    `KeyError` for a name that no file holds.
    """
    return _fill(_blocks()[name], schema, per_cent="%%")


def for_schema(text: str, schema: str) -> str:
    """Replace psql's markers ``:"schema"`` and ``:'publication'`` as psql would."""
    return _fill(text, schema, per_cent="%")


def _fill(text: str, schema: str, *, per_cent: str) -> str:
    quoted = sql.Identifier(schema).as_string(None).replace("%", per_cent)
    publication = sql.Literal(publication_name(schema)).as_string(None).replace("%", per_cent)
    return text.replace(':"schema"', quoted).replace(":'publication'", publication)


@lru_cache(maxsize=1)
def _blocks() -> dict[str, str]:
    blocks: dict[str, str] = {}
    folder = files("pgcdc_outbox").joinpath("sql", "queries")
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        _, *parts = _NAME.split(entry.read_text("utf-8"))
        for name, text in zip(parts[::2], parts[1::2], strict=True):
            if name in blocks:
                raise ValueError(f"two queries are called {name!r}")

            blocks[name] = text.strip()

    return blocks
