"""Statements that begin or end a transaction, found in their text.

A first look, that names the statement to whoever wrote it. What it does not see is
found before the commit: the transaction is no longer the one that was begun.
"""

import re
from functools import lru_cache
from typing import Final

_WORDS: Final = frozenset(
    {"abort", "begin", "commit", "end", "release", "rollback", "savepoint", "start"}
)
_WORD: Final = re.compile(r"\s*\(*\s*([a-z]+)(?:\s+([a-z]+))?", re.IGNORECASE)
# Whatever may hold a semicolon that separates nothing.
_PASSED_OVER: Final = re.compile(
    r"""
    --[^\n]*
    | /\*.*?\*/
    | \be'(?:[^'\\]|\\.|'')*'
    | '(?:[^']|'')*'
    | "(?:[^"]|"")*"
    | (\$\w*\$).*?\1
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
_SHORT: Final = 10_000


def transaction_command(text: str) -> str | None:
    """The first words of the first statement that begins or ends a transaction, if there is one."""
    return _remembered(text) if len(text) <= _SHORT else _find(text)


def _find(text: str) -> str | None:
    for statement in _PASSED_OVER.sub(" ", text).split(";"):
        if (match := _WORD.match(statement)) is None:
            continue

        first, second = match[1].lower(), (match[2] or "").lower()
        if first in _WORDS or (first, second) == ("prepare", "transaction"):
            return " ".join(filter(None, (first, second))).upper()

    return None


_remembered = lru_cache(maxsize=512)(_find)
