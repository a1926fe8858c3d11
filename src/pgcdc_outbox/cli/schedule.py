"""`schedule`: add, list, pause, resume or remove schedules."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from pgcdc_outbox.cli.enqueue import read_json
from pgcdc_outbox.cli.options import Options, pass_options
from pgcdc_outbox.cli.output import echo_json, format_option, table
from pgcdc_outbox.cli.parameters import duration, header

if TYPE_CHECKING:
    from pgcdc_outbox import Schedules


@click.group("schedule")
def command() -> None:
    """Add, list, pause, resume or remove schedules."""


@command.command("add")
@click.argument("name")
@click.argument("cron")
@click.argument("payload", default="null")
@click.option("--time-zone", default="UTC", show_default=True, help="Such as Europe/Athens.")
@click.option("--topic", default="default", show_default=True, help="What kind of job it is.")
@click.option("--key", help="What the job is about; kept for the handler.")
@click.option("--header", "headers", type=header, multiple=True, metavar="NAME=VALUE")
@click.option(
    "--missed",
    type=click.Choice(["skip", "once", "all"]),
    default="once",
    show_default=True,
    help="Which of the times that passed while no consumer ran are made up for.",
)
@click.option("--time-to-live", type=duration, help="Not started later than this after its time.")
@pass_options
def add(
    options: Options,
    /,
    payload: str,
    headers: tuple[tuple[str, str], ...],
    **fields: Any,
) -> None:
    """Enqueue PAYLOAD, which is JSON, at each time that CRON names.

    A schedule of that NAME is brought up to date. CRON is one argument with
    five fields: '30 7 * * MON-FRI'.
    """
    from pgcdc_outbox import Schedule

    schedule = Schedule(
        payload=read_json(payload.encode()), headers=dict(headers) or None, **fields
    )
    _schedules(options).put(schedule)
    click.echo(f"schedule {schedule.name} is kept")


@command.command("list")
@format_option
@pass_options
def list_(options: Options, style: str) -> None:
    """List the schedules, by name."""
    found = _schedules(options).list()
    if style == "json":
        echo_json(found)
        return

    if not found:
        click.echo("no schedules")
        return

    rows = [
        (
            each.name,
            each.cron,
            each.time_zone,
            each.missed,
            each.topic,
            "paused" if each.paused else _time(each.next_at),
            _time(each.last_at),
            _length(each.time_to_live),
        )
        for each in found
    ]
    heading = ("NAME", "CRON", "ZONE", "MISSED", "TOPIC", "NEXT", "LAST", "TIME TO LIVE")
    click.echo(table(heading, rows))


@command.command("remove")
@click.argument("name")
@pass_options
@click.pass_context
def remove(ctx: click.Context, options: Options, name: str) -> None:
    """Remove a schedule. Jobs that it enqueued stay."""
    _tell(ctx, _schedules(options).remove(name), name, "removed")


@command.command("pause")
@click.argument("name")
@pass_options
@click.pass_context
def pause(ctx: click.Context, options: Options, name: str) -> None:
    """Let a schedule rest until it is resumed."""
    _tell(ctx, _schedules(options).pause(name), name, "paused")


@command.command("resume")
@click.argument("name")
@pass_options
@click.pass_context
def resume(ctx: click.Context, options: Options, name: str) -> None:
    """Let a schedule go on with its next time."""
    _tell(ctx, _schedules(options).resume(name), name, "resumed")


def _schedules(options: Options) -> "Schedules":
    from pgcdc_outbox import Schedules

    return Schedules(options.dsn, schema=options.schema)


def _tell(ctx: click.Context, done: bool, name: str, what: str) -> None:
    if done:
        click.echo(f"schedule {name} is {what}")
    else:
        click.echo(f"error: there is no schedule {name}", err=True)
        ctx.exit(1)


def _time(at: datetime | None) -> str | None:
    return None if at is None else f"{at:%Y-%m-%d %H:%M:%S%z}"


def _length(time_to_live: timedelta | None) -> str | None:
    return None if time_to_live is None else str(time_to_live)
