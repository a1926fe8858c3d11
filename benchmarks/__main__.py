"""`python -m benchmarks`: measure, keep the figures, and show them."""

import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from benchmarks import machine, show
from benchmarks.case import Scale
from benchmarks.cases import CASES, MAIN
from benchmarks.measuring import measure
from benchmarks.place import VARIABLE, opened
from benchmarks.results import Report

RESULTS: Final = Path(__file__).with_name("results")
ALL: Final = "all"

_LISTED = "\n".join(f"  {case.name:<18} {case.title}" for case in CASES.values())


@click.command(
    epilog=f"\b\nThe cases:\n{_LISTED}\n\nWithout a name: "
    f"{', '.join(case.name for case in MAIN)}. All of them: {ALL}."
)
@click.argument("cases", nargs=-1, metavar="[CASE]...", type=click.Choice([*CASES, ALL]))
@click.option("--repetitions", type=click.IntRange(min=1), help="How often.  [default: the case's]")
@click.option("--jobs", type=click.IntRange(min=1), help="How many jobs, instead of the case's.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="How long, likewise.")
@click.option("--quick", is_flag=True, help="As little as shows that it works. No figure counts.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Where to keep the figures.")
@click.option("--dsn", help=f"A server to measure on; else {VARIABLE}; else one of its own.")
def main(
    cases: tuple[str, ...],
    repetitions: int | None,
    jobs: int | None,
    seconds: float | None,
    quick: bool,
    file: Path | None,
    dsn: str | None,
) -> None:
    """Measure on a real server.

    Figures are kept as JSON in benchmarks/results, with a page and plots beside them.
    """
    now = datetime.now(UTC)
    scale = Scale(quick=quick, jobs=jobs, seconds=seconds)
    target = file or RESULTS / f"{now:%Y%m%dT%H%M%SZ}.json"
    chosen = [CASES[name] for name in (CASES if ALL in cases else cases)] or list(MAIN)
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    if dsn:
        command = command.replace(shlex.quote(dsn), "...")  # it may hold a password

    with opened(dsn, durable=not quick) as place:
        report = Report(
            taken_at=now.isoformat(timespec="seconds"),
            command=command,
            facts=machine.look(place.dsn),
            results=[],
        )
        if (load := machine.load()) > 0.5 and not quick:
            click.echo(f"warning: something else runs here, the load is {load}", err=True)

        for case in chosen:
            often = repetitions or (1 if quick else case.repetitions)
            result = measure(
                case(),
                place,
                scale,
                repetitions=often,
                tell=_tell,
            )
            report.results.append(result)
            report.save(target)  # after each, so that an interruption costs one
            click.echo(show.page(result))

    click.echo(f"kept in {', '.join(map(str, [target, *show.beside(report, target)]))}")


def _tell(line: str) -> None:
    """What is going on, for whoever waits."""
    click.echo(line, err=True)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
