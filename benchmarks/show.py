"""Results for people: a page of tables, and plots, made from the JSON that was kept.

`python -m benchmarks.show FILE...` makes them again.
"""

import sys
from pathlib import Path

from benchmarks import plot
from benchmarks.machine import Facts
from benchmarks.results import Measured, Report, Result, Spread, Standing


def page(result: Result) -> str:
    """One case in Markdown: what was counted, and a table, ratios first."""
    also = list(
        dict.fromkeys(
            name for point in result.points for each in point.standings for name in each.also()
        )
    )
    header = ["", "", "ratio", result.unit, "from, to", *also]
    if not any(point.yardstick for point in result.points):
        header.remove("ratio")

    rows = [
        _row(point, standing, also, ratios="ratio" in header)
        for point in result.points
        for standing in point.standings
    ]
    return "\n".join(
        (
            f"## {result.title} (`{result.case}`)",
            "",
            f"Counted: {result.counted}",
            "",
            f"Durable when it is counted: {result.durable}",
            "",
            _line(header),
            _line(["---", "---"] + ["---:"] * (len(header) - 2)),
            *map(_line, rows),
            "",
            f"Load of the machine before {result.load_before}, after {result.load_after}.",
            "",
        )
    )


def whole(report: Report, plots: dict[str, str]) -> str:
    """A page with all cases; ``plots`` are names of files by case."""
    parts = [f"# Measured at {report.taken_at}\n", f"`{report.command}`\n", _facts(report.facts)]
    for result in report.results:
        parts.append(page(result))
        if result.case in plots:
            parts.append(f"![{result.title}]({plots[result.case]})\n")

    return "\n".join(parts)


def beside(report: Report, file: Path) -> list[Path]:
    """Write the page and the plots beside the JSON; the files written."""
    written = []
    plots = {}
    for result in report.results:
        target = file.with_name(f"{file.stem}.{result.case}.svg")
        target.write_text(plot.draw(result), "utf-8")
        plots[result.case] = target.name
        written.append(target)

    target = file.with_suffix(".md")
    target.write_text(whole(report, plots), "utf-8")
    return [target, *written]


def _row(point: Measured, standing: Standing, also: list[str], *, ratios: bool) -> list[str]:
    values, others = standing.values, standing.also()
    cells = [point.name, standing.label]
    if ratios:
        cells.append(_ratio(point.ratio(standing)))

    cells += [figure(values.median), f"{figure(values.least)}, {figure(values.most)}"]
    return cells + [figure(others[name]) if name in others else "" for name in also]


def _ratio(ratio: Spread | None) -> str:
    if ratio is None:
        return ""

    return f"**{ratio.median:.2f}** ({ratio.least:.2f}, {ratio.most:.2f})"


def figure(value: float) -> str:
    """Three digits that count, and all digits before the point."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"

    return f"{value:.3g}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _facts(facts: Facts) -> str:
    server = ", ".join(f"{name} {value}" for name, value in facts.server.items())
    return (
        f"{facts.processor}, {facts.processors} processors, {facts.memory_gib} GiB, "
        f"{facts.system}; {facts.python}, psycopg {facts.psycopg}; commit {facts.commit}.\n\n"
        f"Server: {server}.\n"
    )


if __name__ == "__main__":
    for name in sys.argv[1:]:
        for made in beside(Report.load(Path(name)), Path(name)):
            print(made)
