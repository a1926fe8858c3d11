"""`bench`: measure on your own database."""

from typing import TYPE_CHECKING

import click

from pgcdc_outbox.cli.options import Options, pass_options
from pgcdc_outbox.cli.output import echo_json, format_option, printable, table

if TYPE_CHECKING:
    from pgcdc_outbox.bench.figures import Measured


@click.command("bench")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=50_000,
    show_default=True,
    help="Jobs that are enqueued many at once, and drained.",
)
@click.option(
    "--commits",
    type=click.IntRange(min=1),
    default=1_000,
    show_default=True,
    help="Jobs that are enqueued with a commit for each.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=10),
    default=200,
    show_default=True,
    help="Jobs whose way from commit to handler is measured, one each 20 ms.",
)
@format_option
@pass_options
def command(options: Options, jobs: int, commits: int, samples: int, style: str) -> None:
    """Measure on your own database.

    In a schema of its own, with a slot of its own, both of which are removed at
    the end, also after an error or Ctrl-C. The outbox of --schema is not
    touched. It needs the right to create a schema and, to read the log, to
    replicate; the log of the server grows by some hundred bytes for each job.
    """
    from pgcdc_outbox.bench.bench import bench

    def tell(line: str) -> None:
        click.echo(line, err=True)

    measured = bench(options.dsn, jobs=jobs, commits=commits, samples=samples, tell=tell)
    if style == "json":
        echo_json(measured)
    else:
        _show(measured)


def _show(measured: "Measured") -> None:
    server = measured.server
    click.echo(
        f"PostgreSQL {printable(server.version)}, fsync {server.fsync}, "
        f"synchronous_commit {server.synchronous_commit}, wal_level {server.wal_level}"
    )
    rows = [
        (
            each.name,
            f"{each.value:,.0f}" if each.unit == "jobs/s" else f"{each.value:.2f}",
            each.unit,
            each.durable,
        )
        for each in measured.figures
    ]
    width = max(len(value) for _, value, _, _ in rows)
    click.echo(
        table(
            ("WHAT", "VALUE", "UNIT", "ON DISK WHEN COUNTED"),
            [(name, value.rjust(width), unit, durable) for name, value, unit, durable in rows],
        )
    )
    for skipped in measured.skipped:
        click.echo(f"not measured: {skipped.name}: {printable(skipped.reason)}")
        if skipped.hint:
            click.echo(f"  {printable(skipped.hint)}")
