"""`migrate`: create the outbox, or bring it up to date."""

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from pgcdc_outbox.cli.options import Options, pass_options
from pgcdc_outbox.cli.parameters import duration

if TYPE_CHECKING:
    from pgcdc_outbox.postgres.migrate import Status


@click.command("migrate")
@click.option("--print", "printing", is_flag=True, help="Print the SQL instead; needs no server.")
@click.option("--status", "showing", is_flag=True, help="Show what was applied and what was not.")
@click.option(
    "--lock-timeout",
    type=duration,
    default="2s",
    show_default=True,
    help="Give up rather than keep producers waiting longer than this.",
)
@pass_options
def command(options: Options, printing: bool, showing: bool, lock_timeout: timedelta) -> None:
    """Create the outbox, or bring it up to date.

    Applies what is missing, each migration in its own transaction. Running it
    again changes nothing, and it may run on every deployment.
    """
    from pgcdc_outbox.postgres import migrate

    if printing and showing:
        raise click.UsageError("--print and --status exclude each other.")

    if printing:
        click.echo(migrate.plan_text(options.schema), nl=False)
        return

    if showing:
        _show(migrate.status(options.dsn, options.schema))
        return

    steps = migrate.migrate(options.dsn, schema=options.schema, lock_timeout=lock_timeout)
    for step in steps:
        click.echo(f"applied {step.number:04} {step.name}")

    if not steps:
        click.echo(f"schema {options.schema} is up to date")


def _show(status: "Status") -> None:
    for done in status.applied:
        click.echo(f"{done.number:04} {done.name}  applied {done.applied_at:%Y-%m-%d %H:%M:%S%z}")

    for pending in status.pending:
        click.echo(f"{pending.number:04} {pending.name}  pending")
