"""`jobs`: show, list or cancel single jobs."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from pgcdc_outbox.cli.options import Options, pass_options
from pgcdc_outbox.cli.output import echo_json, format_option, printable, table
from pgcdc_outbox.cli.parameters import duration, moment

if TYPE_CHECKING:
    from pgcdc_outbox import Jobs
    from pgcdc_outbox.postgres.jobs.cancelling import Cancelling
    from pgcdc_outbox.postgres.jobs.listing import Listing
    from pgcdc_outbox.postgres.jobs.showing import Shown
    from pgcdc_outbox.postgres.jobs.standing import Standing, Try

_TEXT_SHOWN = 60
_BODY_SHOWN = 300


@click.group("jobs")
def command() -> None:
    """Show, list or cancel single jobs."""


@command.command("show")
@click.argument("id", type=int)
@click.option("--consumer", help="Only what it is to this consumer.")
@click.option(
    "--timeout",
    type=duration,
    default="10s",
    show_default=True,
    help="Look through partitions no longer than that.",
)
@format_option
@pass_options
@click.pass_context
def show(
    ctx: click.Context,
    options: Options,
    id: int,
    consumer: str | None,
    timeout: timedelta,
    style: str,
) -> None:
    """Show where a job is, for each consumer, and what became of every attempt.

    Exits with 1 if nothing is known of it.
    """
    shown = _jobs(options).show(id, consumer=consumer, within=timeout)
    if style == "json":
        echo_json(shown)
    else:
        click.echo(_described(shown))

    if not shown.known:
        ctx.exit(1)


@command.command("list")
@click.option("--topic", help="Only jobs of this topic.")
@click.option("--key", help="Only jobs with this key.")
@click.option(
    "--state",
    type=click.Choice(["scheduled", "in_line", "settled", "failed", "parked", "dead"]),
    help="Only jobs in this state.",
)
@click.option("--consumer", help="Only what this consumer has to do with.")
@click.option("--since", type=moment, help="Only jobs created since then, ISO 8601.")
@click.option("--age", type=duration, help="Only jobs that are not older, such as 2h.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@click.option(
    "--look-at",
    type=click.IntRange(1),
    default=10_000,
    show_default=True,
    help="Rows of each table to look at, the newest first.",
)
@format_option
@pass_options
def list_(
    options: Options,
    topic: str | None,
    key: str | None,
    state: str | None,
    consumer: str | None,
    since: datetime | None,
    age: timedelta | None,
    limit: int,
    look_at: int,
    style: str,
) -> None:
    """List jobs, the newest first.

    However large the tables are, only their newest rows are looked at. Where
    that was not all, it is said.
    """
    if since is not None and age is not None:
        raise click.UsageError("--since and --age exclude each other.")

    listing = _jobs(options).list(
        topic=topic,
        key=key,
        state=state,
        consumer=consumer,
        since=since if age is None else datetime.now(UTC) - age,
        limit=limit,
        looks=look_at,
    )
    if style == "json":
        echo_json(listing)
    else:
        _show_listing(listing)


@command.command("cancel")
@click.argument("ids", type=int, nargs=-1, required=True)
@click.option("--consumer", help="Only for this consumer.")
@format_option
@pass_options
@click.pass_context
def cancel(
    ctx: click.Context, options: Options, ids: tuple[int, ...], consumer: str | None, style: str
) -> None:
    """Take jobs back that wait: scheduled, failed and parked ones.

    Prints true for one that is not executed any more, and false with the
    reason for one that cannot be taken back. Exits with 1 if there is one.
    """
    results = _jobs(options).cancel(ids, consumer=consumer)
    if style == "json":
        echo_json(results)
    else:
        for each in results:
            click.echo(printable(_cancelled(each)))

    ctx.exit(0 if all(each.cancelled for each in results) else 1)


def _jobs(options: Options) -> "Jobs":
    from pgcdc_outbox import Jobs

    return Jobs(options.dsn, schema=options.schema)


def _cancelled(each: "Cancelling") -> str:
    if not each.cancelled:
        return f"{each.id} false: {each.reason}. {each.remedy}"

    whom = f" for {', '.join(each.consumers)}" if each.consumers else ""
    others = f"; not for {', '.join(each.others)}" if each.others else ""
    return f"{each.id} true: it was {each.place}{whom}{others}"


def _show_listing(listing: "Listing") -> None:
    rows = [
        (
            each.id,
            each.state,
            each.consumer,
            each.topic,
            each.key,
            each.attempt,
            _second(each.created_at),
            _shortened(each.reason or each.last_error or _due(each.due_at)),
        )
        for each in listing.jobs
    ]
    header = ("ID", "STATE", "CONSUMER", "TOPIC", "KEY", "ATTEMPT", "CREATED", "ABOUT")
    click.echo(table(header, rows) if rows else "no jobs")
    if listing.more:
        click.echo("there are more: raise --limit", err=True)

    for stopped in listing.stopped:
        whose = f" of {stopped.consumer}" if stopped.consumer else ""
        click.echo(
            f"only the newest {stopped.rows} rows of {stopped.table}{whose} were looked at, "
            f"back to {_second(stopped.back_to)}: raise --look-at",
            err=True,
        )


def _described(shown: "Shown") -> str:
    if not shown.known:
        lines = [f"job {shown.id} is not known"]
        lines += [f"  {shown.about}"] if shown.about else []
    else:
        lines = [
            f"job {shown.id}",
            f"  topic    {shown.topic}",
            f"  key      {'-' if shown.key is None else shown.key}",
            f"  created  {_second(shown.created_at)}",
            f"  expires  {_second(shown.expires_at)}",
            f"  headers  {shown.headers or '-'}",
            f"  payload  {_shortened(shown.body, _BODY_SHOWN)}",
        ]
        lines += [
            f"  row      {row.partition}, attempt {row.attempt} for {row.consumer or 'everybody'}, "
            f"{_second(row.created_at)}"
            for row in shown.rows
        ]
        lines += [f"  note     {shown.about}"] if shown.about else []

    for standing in shown.consumers:
        lines += _standing(standing)

    return "\n".join(map(printable, lines))


def _standing(standing: "Standing") -> list[str]:
    lines = [
        "",
        f"consumer {standing.consumer}: {standing.state.replace('_', ' ')}",
        f"  {standing.about}",
    ]
    if standing.passed is not None:
        passed = "has passed it" if standing.passed else "has not passed it, as far as is saved"
        confirmed = f", confirmed {standing.confirmed}" if standing.confirmed else ""
        saved = _second(standing.checkpoint_at)
        lines.append(f"  its position {passed} (checkpoint {saved}{confirmed})")

    if standing.attempts:
        header = ("ATTEMPT", "OUTCOME", "STARTED", "SECONDS", "JOBS", "INSTANCE", "ERROR")
        rows = [_try(each) for each in standing.attempts]
        lines += [f"  {line}" for line in table(header, rows).splitlines()]

    return lines


def _try(each: "Try") -> tuple[object, ...]:
    return (
        each.attempt,
        each.outcome,
        each.recorded_at if each.started_at is None else _second(each.started_at),
        None if each.seconds is None else f"{each.seconds:.3f}",
        each.jobs,
        each.instance,
        _shortened(": ".join(part for part in (each.error, each.text) if part)) or None,
    )


def _due(due_at: datetime | None) -> str | None:
    return None if due_at is None else f"due {_second(due_at)}"


def _second(at: datetime | None) -> str:
    return "-" if at is None else f"{at:%Y-%m-%d %H:%M:%S%z}"


def _shortened(text: str | None, length: int = _TEXT_SHOWN) -> str:
    text = text or ""
    return text if len(text) <= length else text[: length - 3] + "..."
