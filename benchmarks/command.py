"""What the command lines of the harness share: options, and a run from start to end."""

import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from benchmarks import machine, show
from benchmarks.case import Case, Scale
from benchmarks.measuring import measure
from benchmarks.place import VARIABLE, opened
from benchmarks.results import Report

F = TypeVar("F", bound=Callable[..., Any])

RESULTS: Final = Path(__file__).with_name("results")

_MANY: Final = click.IntRange(min=1)
_BUSY: Final = 0.5

_OPTIONS: Final = (
    click.option("--repetitions", type=_MANY, help="How often.  [default: the case's]"),
    click.option("--jobs", type=_MANY, help="How many jobs, instead of the case's."),
    click.option("--seconds", type=click.FloatRange(0, min_open=True), help="How long, likewise."),
    click.option("--quick", is_flag=True, help="As little as shows that it works."),
    click.option("--json", "file", type=click.Path(path_type=Path), help="Where to keep figures."),
    click.option("--dsn", help=f"A server to measure on; else {VARIABLE}; else one of its own."),
)


def harness_options(command: F) -> F:
    """The options of `measure_all`."""
    for option in reversed(_OPTIONS):
        command = option(command)

    return command


def measure_all(
    cases: Sequence[type[Case]],
    *,
    repetitions: int | None,
    jobs: int | None,
    seconds: float | None,
    quick: bool,
    file: Path | None,
    dsn: str | None,
) -> None:
    """Measure cases, keep the figures after each of them, and print the tables."""
    now = datetime.now(UTC)
    scale = Scale(quick=quick, jobs=jobs, seconds=seconds)
    target = file or RESULTS / f"{now:%Y%m%dT%H%M%SZ}.json"
    with opened(dsn, durable=not quick) as place:
        report = Report(
            taken_at=now.isoformat(timespec="seconds"),
            command=_command(dsn),
            facts=machine.look(place.dsn),
            results=[],
        )
        if (load := machine.load()) > _BUSY and not quick:
            click.echo(f"warning: something else runs here, the load is {load}", err=True)

        for case in cases:
            often = repetitions or (1 if quick else case.repetitions)
            result = measure(case(), place, scale, repetitions=often, tell=_tell)
            report.results.append(result)
            report.save(target)  # now, so that an interruption costs one case at most
            click.echo(show.page(result))

    click.echo(f"kept in {', '.join(map(str, [target, *show.beside(report, target)]))}")


def _command(dsn: str | None) -> str:
    """What was typed, without what may hold a password."""
    module = sys.modules["__main__"].__spec__
    program = "benchmarks" if module is None else module.name.removesuffix(".__main__")
    words = ["..." if dsn and dsn in word else word for word in sys.argv[1:]]
    return shlex.join(["python", "-m", program, *words])


def _tell(line: str) -> None:
    """What is going on, for whoever waits."""
    click.echo(line, err=True)
