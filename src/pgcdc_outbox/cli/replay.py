"""`replay`: put copies of jobs in line again, from the partitions."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from pgcdc_outbox.cli.options import Options, pass_options
from pgcdc_outbox.cli.output import echo_json, format_option, table
from pgcdc_outbox.cli.parameters import moment

if TYPE_CHECKING:
    from pgcdc_outbox.postgres.jobs.replaying import Replay, Replayed, TopicSpan


@click.command("replay")
@click.option("--since", type=moment, required=True, help="Jobs in line since then, ISO 8601.")
@click.option("--until", type=moment, help="Not those from then on.  [default: now]")
@click.option("--topic", help="Only jobs of this topic.")
@click.option("--key", help="Only jobs with this key.")
@click.option("--consumer", help="Copies for this consumer alone.  [default: for every one]")
@click.option("--dry-run", is_flag=True, help="Only say what would be replayed.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--batch-size",
    type=int,
    default=1000,
    show_default=True,
    help="Jobs in one transaction.",
)
@click.option("--after", metavar="PLACE", help="Go on where an interrupted replay ended.")
@click.option("--partial", is_flag=True, help="Accept that some jobs of that time are gone.")
@format_option
@pass_options
@click.pass_context
def command(
    ctx: click.Context,
    options: Options,
    since: datetime,
    until: datetime | None,
    topic: str | None,
    key: str | None,
    consumer: str | None,
    dry_run: bool,
    yes: bool,
    batch_size: int,
    after: str | None,
    partial: bool,
    style: str,
) -> None:
    """Put copies of jobs in line again, in their old order.

    A copy has an id of its own, and headers that say what it is:
    pgcdc-replay-of and pgcdc-replayed-at. Retries and copies are not copied.
    """
    from pgcdc_outbox import Jobs, Replay
    from pgcdc_outbox.postgres.jobs.replaying import Cursor

    jobs = Jobs(options.dsn, schema=options.schema)
    wanted = Replay(
        since=since,
        until=until,
        topic=topic,
        key=key,
        consumer=consumer,
        batch_size=batch_size,
        after=Cursor(0, 0) if after is None else Cursor.parse(after),
        partial=partial,
    )
    if dry_run or not yes:
        spans = jobs.preview(wanted)
        _show_spans(spans, style, dry_run=dry_run)
        if dry_run:
            return

        if not click.confirm(f"Replay {sum(each.jobs for each in spans)} jobs?", err=True):
            ctx.exit(1)

    progress = _Progress(wanted)
    try:
        done = jobs.replay(wanted, observe=progress)
    except BaseException:
        progress.tell()
        raise

    if style == "json":
        echo_json({"replayed": done.jobs, "after": None if done.after is None else str(done.after)})
    else:
        click.echo(f"replayed {done.jobs}")


class _Progress:
    """Remembers how far it came, for whoever has to go on."""

    def __init__(self, replay: "Replay") -> None:
        self._replay = replay
        self._last: Replayed | None = None

    def __call__(self, replayed: "Replayed") -> None:
        self._last = replayed

    def tell(self) -> None:
        """Say where it stopped, and how to go on."""
        if self._last is None:
            click.echo("nothing is known to be replayed", err=True)
            return

        click.echo(
            f"stopped after {self._last.jobs} jobs; the same command goes on "
            f"with --after {self._last.after}",
            err=True,
        )


def _show_spans(spans: "Sequence[TopicSpan]", style: str, *, dry_run: bool) -> None:
    if style == "json":
        if dry_run:
            echo_json(spans)

        return

    rows = [(each.topic, each.jobs, _second(each.first), _second(each.last)) for each in spans]
    total = sum(each.jobs for each in spans)
    text = table(("TOPIC", "JOBS", "FIRST", "LAST"), rows) if rows else "no jobs"
    click.echo(f"{text}\n{total} in all" if rows else text, err=not dry_run)


def _second(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S%z}"
