"""What a check found: how bad it is, and what mends it."""

from enum import StrEnum
from typing import Final

from msgspec import Struct


class Result(StrEnum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"

    @property
    def exit_code(self) -> int:
        """0, 1 or 2, as monitoring plugins have it."""
        return _EXIT_CODES[self]


_EXIT_CODES: Final = {Result.OK: 0, Result.NOTE: 0, Result.WARNING: 1, Result.PROBLEM: 2}


class Finding(Struct, frozen=True, kw_only=True):
    """The answer to one question."""

    group: str = ""
    check: str = ""
    result: Result
    title: str
    detail: str = ""
    remedy: tuple[str, ...] = ()
    """Statements, commands or lines of a file, in the order in which they are to be
    applied. What begins with ``--`` or ``#`` explains the lines around it."""


def ok(title: str, *, detail: str = "") -> Finding:
    """As it should be."""
    return Finding(result=Result.OK, title=title, detail=detail)


def note(title: str, *remedy: str, detail: str = "") -> Finding:
    """Worth knowing; nothing has to be done."""
    return Finding(result=Result.NOTE, title=title, detail=detail, remedy=remedy)


def warning(title: str, *remedy: str, detail: str = "") -> Finding:
    """It works, and will hurt one day."""
    return Finding(result=Result.WARNING, title=title, detail=detail, remedy=remedy)


def problem(title: str, *remedy: str, detail: str = "") -> Finding:
    """A consumer or a producer does not work, or soon will not."""
    return Finding(result=Result.PROBLEM, title=title, detail=detail, remedy=remedy)
