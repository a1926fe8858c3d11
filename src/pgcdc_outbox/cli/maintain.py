"""`maintain`: make partitions ahead of time and drop settled ones."""

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from pgcdc_outbox.cli.options import Options, pass_options
from pgcdc_outbox.cli.output import echo_json, format_option
from pgcdc_outbox.cli.parameters import duration

if TYPE_CHECKING:
    from pgcdc_outbox.postgres.partition.maintenance import Report


@click.command("maintain")
@click.option("--once", is_flag=True, help="Run once and end (the default).")
@click.option("--every", type=duration, help="Go on, and run this often.")
@click.option(
    "--interval", type=duration, default="1d", show_default=True, help="Length of a partition."
)
@click.option(
    "--ahead", type=int, default=3, show_default=True, help="Partitions to have beyond this one."
)
@click.option(
    "--retention",
    type=duration,
    default="7d",
    show_default=True,
    help="Keep partitions this long, and longer while a consumer needs them.",
)
@click.option(
    "--lock-timeout",
    type=duration,
    default="1s",
    show_default=True,
    help="Leave a thing for the next run rather than keep producers waiting longer.",
)
@format_option
@pass_options
def command(
    options: Options,
    once: bool,
    every: timedelta | None,
    interval: timedelta,
    ahead: int,
    retention: timedelta,
    lock_timeout: timedelta,
    style: str,
) -> None:
    """Make partitions ahead of time and drop settled ones.

    Old partitions are dropped only when every consumer has settled every row
    in them. Needs the owner of the outbox, and a direct connection.
    """
    from pgcdc_outbox.postgres.partition.maintenance import Maintenance

    if once and every is not None:
        raise click.UsageError("--once and --every exclude each other.")

    maintenance = Maintenance(
        options.dsn,
        schema=options.schema,
        interval=interval,
        ahead=ahead,
        retention=retention,
        lock_timeout=lock_timeout,
        observe=echo_json if style == "json" else _show,
    )
    if every is None:
        maintenance.once()
    else:
        maintenance.run(every=every)


def _show(report: "Report") -> None:
    if report.busy:
        click.echo("somebody else is at it; nothing was done")
        return

    for name in report.created:
        click.echo(f"created {name}")

    if report.moved:
        click.echo(f"moved {report.moved} rows out of DEFAULT")

    for name in report.dropped:
        click.echo(f"dropped {name}")

    for why in report.delayed:
        click.echo(f"delayed {why}", err=True)

    for kept in report.kept:
        click.echo(str(kept), err=True)

    if not (report.created or report.dropped or report.delayed or report.kept):
        click.echo("nothing to do")
