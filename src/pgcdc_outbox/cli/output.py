"""How commands print: tables for people, JSON for programs."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def format_option(command: F) -> F:
    """``--format text|json``."""
    return click.option(
        "--format",
        "style",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="For people, or for programs.",
    )(command)


def echo_json(value: object) -> None:
    """Print a value as indented JSON."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value)).decode())


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns, as wide as they need to be; numbers to the right."""
    cells = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    right = [
        bool(rows) and all(isinstance(row[column], int) for row in rows)
        for column in range(len(header))
    ]
    lines = (
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        )
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def size(count: int | None) -> str:
    """``1.5 MB``; powers of 1024, as PostgreSQL counts."""
    if count is None:
        return "-"

    number, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(number) < 1024 or unit == "TB":
            break

        number /= 1024

    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"


def age(seconds: float | None) -> str:
    """``3d 4h``, ``5min 2s``, ``0.4s``."""
    if seconds is None:
        return "-"

    if seconds < 10:
        return f"{seconds:.1f}s"

    rest, parts = int(seconds), []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        if count:
            parts.append(f"{count}{unit}")

    return " ".join(parts[:2])


def printable(text: str) -> str:
    """The text without control characters: it is anybody's, and goes to a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def _cell(value: object) -> str:
    return printable("-" if value is None else str(value))
