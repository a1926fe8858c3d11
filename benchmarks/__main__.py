"""`python -m benchmarks`: measure, keep the figures, and show them."""

from typing import Any, Final

import click

from benchmarks.cases import CASES, MAIN
from benchmarks.command import harness_options, measure_all

ALL: Final = "all"

_LISTED = "\n".join(f"  {case.name:<20} {case.title}" for case in CASES.values())


@click.command(
    epilog=f"\b\nThe cases:\n{_LISTED}\n\nWithout a name: "
    f"{', '.join(case.name for case in MAIN)}. All of them: {ALL}."
)
@click.argument("cases", nargs=-1, metavar="[CASE]...", type=click.Choice([*CASES, ALL]))
@harness_options
def main(cases: tuple[str, ...], **options: Any) -> None:
    """Measure on a real server.

    Figures are kept as JSON in benchmarks/results, with a page and plots beside them.
    """
    chosen = CASES if ALL in cases else cases
    measure_all([CASES[name] for name in chosen] or MAIN, **options)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
