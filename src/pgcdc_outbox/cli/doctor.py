"""`doctor`: check the setup, and say what mends it."""

import textwrap
from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING

import click

from pgcdc_outbox.cli.options import Options, pass_options
from pgcdc_outbox.cli.output import echo_json, format_option, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgcdc_outbox.postgres.doctor.doctor import Examination
    from pgcdc_outbox.postgres.doctor.finding import Finding

_WIDTH = len("PROBLEM")
_PAGE = 100


@click.command("doctor")
@click.option("--name", help="Ask about this consumer only, whether it has run or not.")
@click.option("--verbose", is_flag=True, help="Show also what is as it should be.")
@format_option
@pass_options
@click.pass_context
def command(
    ctx: click.Context, options: Options, name: str | None, verbose: bool, style: str
) -> None:
    """Check the setup, and say what mends it.

    Changes nothing. Connect as the consumer does, for the rights that are
    checked are those of the role. Exits with 0 if nothing has to be done, 1 if
    something will hurt one day, 2 if something does not work, and 3 if it
    cannot tell.
    """
    from pgcdc_outbox.postgres.doctor.doctor import examine

    examination = examine(options.dsn, schema=options.schema, name=name)
    if style == "json":
        echo_json(
            {
                "schema": examination.schema,
                "result": examination.result,
                "findings": examination.findings,
            }
        )
    else:
        _show(examination, verbose=verbose)

    ctx.exit(examination.result.exit_code)


def _show(examination: "Examination", *, verbose: bool) -> None:
    shown = [each for each in examination.findings if verbose or each.result != "ok"]
    for group, findings in groupby(shown, key=lambda finding: finding.group):
        click.echo(group)
        for finding in findings:
            for line in _lines(finding):
                click.echo(line.rstrip())

        click.echo()

    counts = Counter(str(each.result) for each in examination.findings)
    words = [_counted(counts[kind], kind) for kind in ("problem", "warning", "note")]
    fine = f"{counts['ok']} fine"
    click.echo(", ".join([*filter(None, words), fine]))


def _lines(finding: "Finding") -> "Iterator[str]":
    kind = str(finding.result)
    label = kind if kind in ("ok", "note") else kind.upper()
    indent = " " * (_WIDTH + 4)
    yield f"  {label:<{_WIDTH}}  {printable(finding.title)}"
    yield from textwrap.wrap(
        printable(finding.detail), width=_PAGE, initial_indent=indent, subsequent_indent=indent
    )

    for remedy in finding.remedy:
        for line in remedy.splitlines():
            yield f"{indent}  {printable(line)}"


def _counted(count: int, kind: str) -> str:
    if not count:
        return ""

    return f"{count} {kind}" if count == 1 else f"{count} {kind}s"
