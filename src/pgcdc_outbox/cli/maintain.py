"""`maintain`: make partitions ahead of time and drop settled ones."""

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import click

from pgcdc_outbox.cli.options import Options, pass_options
from pgcdc_outbox.cli.output import echo_json, format_option, size
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
    "--audit-retention",
    type=duration,
    default="30d",
    show_default=True,
    help="Keep what was written about attempts this long.",
)
@click.option(
    "--lock-timeout",
    type=duration,
    default="1s",
    show_default=True,
    help="Leave a thing for the next run rather than keep producers waiting longer.",
)
@click.option("--quiet", is_flag=True, help="Say only what was delayed or kept.")
@format_option
@pass_options
@click.pass_context
def command(
    ctx: click.Context,
    options: Options,
    once: bool,
    every: timedelta | None,
    interval: timedelta,
    ahead: int,
    retention: timedelta,
    audit_retention: timedelta,
    lock_timeout: timedelta,
    quiet: bool,
    style: str,
) -> None:
    """Make partitions ahead of time and drop settled ones.

    Old partitions are dropped only when every consumer has settled every row
    in them. Needs the owner of the outbox.

    Exits with 0 if all is done, with 1 if something was delayed or kept, which
    is named, and with 3 if it failed.
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
        audit_retention=audit_retention,
        lock_timeout=lock_timeout,
        observe=echo_json if style == "json" else partial(_show, quiet=quiet),
    )
    if every is None:
        ctx.exit(0 if maintenance.once().is_complete else 1)

    maintenance.run(every=every)


def _show(report: "Report", *, quiet: bool) -> None:
    if not quiet:
        _show_done(report)

    every_kept = (*report.kept, *report.audit.kept)
    for why in (*report.delayed, *report.audit.delayed):
        click.echo(f"delayed {why}", err=True)

    for kept in every_kept:
        click.echo(str(kept), err=True)

    if every_kept:
        tables = "1 table" if len(every_kept) == 1 else f"{len(every_kept)} tables"
        click.echo(f"kept beyond the retention: {tables}, {size(report.kept_bytes)}", err=True)


def _show_done(report: "Report") -> None:
    if report.busy:
        click.echo("somebody else is at it; nothing was done")
        return

    created = (*report.created, *report.audit.created)
    dropped = (*report.dropped, *report.audit.dropped)
    for name in created:
        click.echo(f"created {name}")

    if moved := report.moved + report.audit.moved:
        click.echo(f"moved {moved} rows out of DEFAULT")

    for name in dropped:
        click.echo(f"dropped {name}")

    if report.is_complete and not (created or dropped):
        click.echo("nothing to do")
