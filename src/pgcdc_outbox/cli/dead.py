"""`dead`: list, show, retry, resolve, discard or purge dead letters."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pgcdc_outbox.cli.options import Options, pass_options
from pgcdc_outbox.cli.output import echo_json, format_option, table
from pgcdc_outbox.cli.parameters import duration
from pgcdc_outbox.cli.resolve import resolve

if TYPE_CHECKING:
    from pgcdc_outbox.postgres.ledger.dead import (
        Autopsy,
        DeadLetter,
        DeadLetters,
        Letter,
        Selection,
    )

F = TypeVar("F", bound=Callable[..., Any])

_TEXT_SHOWN = 60


@click.group("dead")
def command() -> None:
    """List, show, retry, resolve, discard or purge dead letters."""


def _filters(command: F) -> F:
    for name, about in (
        ("--reason", "Only those that died for this reason."),
        ("--topic", "Only jobs of this topic."),
        ("--consumer", "Only those of this consumer."),
    ):
        command = click.option(name, help=about)(command)

    return command


def _selection(command: F) -> F:
    command = _filters(command)
    command = click.option(
        "--all", "everything", is_flag=True, help="All that the filters leave, but those in doubt."
    )(command)
    return click.argument("ids", type=int, nargs=-1)(command)


@command.command("list")
@_filters
@click.option("--in-doubt", is_flag=True, help="Only those that may have happened, or not.")
@click.option("--before", type=int, metavar="ID", help="Go on before this id.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@format_option
@pass_options
def list_(
    options: Options,
    consumer: str | None,
    topic: str | None,
    reason: str | None,
    in_doubt: bool,
    before: int | None,
    limit: int,
    style: str,
) -> None:
    """List dead letters, the newest first; those in doubt apart from the others.

    A job is in doubt if it was to run at most once, and nobody knows how that ended.
    `dead resolve` is for a person who has found out.
    """
    from pgcdc_outbox.postgres.ledger.dead import IN_DOUBT

    letters = _letters(options)
    only = IN_DOUBT if in_doubt else reason
    page: dict[str, Any] = {"consumer": consumer, "topic": topic, "before": before, "limit": limit}
    if style == "json":
        echo_json(letters.list(reason=only, **page))
        return

    parts = [letters.list(reason=only, **page)]
    if only is None:
        parts = [letters.list(but=IN_DOUBT, **page), letters.list(reason=IN_DOUBT, **page)]

    if not any(parts):
        click.echo("no dead letters")

    for number, part in enumerate(parts):
        if part and number:
            click.echo(f"{chr(10) if parts[0] else ''}In doubt: each may have happened, or not.")

        _echo_page(part, limit)


def _echo_page(letters: "Sequence[DeadLetter]", limit: int) -> None:
    if not letters:
        return

    rows = [
        (
            letter.id,
            letter.consumer,
            letter.topic,
            letter.reason,
            letter.attempt,
            f"{letter.died_at:%Y-%m-%d %H:%M:%S%z}",
            _shortened(letter.last_error, letter.last_text),
        )
        for letter in letters
    ]
    click.echo(table(("ID", "CONSUMER", "TOPIC", "REASON", "ATTEMPT", "DIED", "ERROR"), rows))
    if len(letters) == limit:
        click.echo(f"there may be more: --before {letters[-1].id}", err=True)


@command.command("show")
@click.argument("id", type=int)
@click.option("--consumer", help="Only the one of this consumer.")
@format_option
@pass_options
@click.pass_context
def show(ctx: click.Context, options: Options, id: int, consumer: str | None, style: str) -> None:
    """Show everything about one job: payload, headers, times and errors."""
    found = _letters(options).show(id, consumer=consumer)
    if style == "json":
        echo_json(found)
    elif found:
        click.echo("\n\n".join(_described(letter) for letter in found))

    if not found:
        click.echo(f"error: job {id} is not among the dead letters", err=True)
        ctx.exit(1)


@command.command("retry")
@_selection
@format_option
@pass_options
def retry(
    options: Options,
    ids: tuple[int, ...],
    everything: bool,
    consumer: str | None,
    topic: str | None,
    reason: str | None,
    style: str,
) -> None:
    """Put dead letters back in line, by id or all that the filters leave.

    A job keeps its id and its history, and gets a full number of attempts. It
    goes to the consumer it died for, and to no other.
    """
    selected = _selected(ids, everything, consumer, topic, reason)
    letters = _letters(options)
    _report("retried", letters.retry(selected), ids, style)
    _tell_in_doubt(letters, selected)


@command.command("discard")
@_selection
@click.option("--yes", is_flag=True, help="Do not ask.")
@format_option
@pass_options
@click.pass_context
def discard(
    ctx: click.Context,
    options: Options,
    ids: tuple[int, ...],
    everything: bool,
    consumer: str | None,
    topic: str | None,
    reason: str | None,
    yes: bool,
    style: str,
) -> None:
    """Delete dead letters for good, by id or all that the filters leave."""
    letters = _letters(options)
    selected = _selected(ids, everything, consumer, topic, reason)
    question = f"Delete {letters.count(selected)} dead letters for good?" if not yes else ""
    if question and not click.confirm(question, err=True):
        ctx.exit(1)

    _report("discarded", letters.discard(selected), ids, style)
    _tell_in_doubt(letters, selected)


@command.command("purge")
@click.option(
    "--older-than",
    type=duration,
    required=True,
    help="Only those that died longer ago than that, such as 90d.",
)
@_filters
@click.option("--dry-run", is_flag=True, help="Only say how many there are.")
@format_option
@pass_options
def purge(
    options: Options,
    older_than: timedelta,
    consumer: str | None,
    topic: str | None,
    reason: str | None,
    dry_run: bool,
    style: str,
) -> None:
    """Delete old dead letters for good, a batch at a time, without asking.

    Nothing else ever does. Run it by cron if dead letters are to have an end. Those in
    doubt stay, unless --reason names them.
    """
    letters = _letters(options)
    work = letters.count_older if dry_run else letters.purge
    count = work(older_than, consumer=consumer, topic=topic, reason=reason)
    if style == "json":
        echo_json({"purged": 0 if dry_run else count, "would_purge": count if dry_run else 0})
    else:
        click.echo(f"{'would purge' if dry_run else 'purged'} {count}")


command.add_command(resolve)


def _letters(options: Options) -> "DeadLetters":
    from pgcdc_outbox.postgres.ledger.dead import DeadLetters

    return DeadLetters(options.dsn, schema=options.schema)


def _selected(
    ids: tuple[int, ...],
    everything: bool,
    consumer: str | None,
    topic: str | None,
    reason: str | None,
) -> "Selection":
    from pgcdc_outbox.postgres.ledger.dead import Selection

    if bool(ids) == everything:
        raise click.UsageError("Give the ids, or --all (with filters, if you like).")

    return Selection(ids=ids or None, consumer=consumer, topic=topic, reason=reason)


def _report(done: str, letters: "Sequence[Letter]", ids: tuple[int, ...], style: str) -> None:
    if style == "json":
        echo_json(letters)
    else:
        click.echo(f"{done} {len(letters)}")

    if missing := sorted(set(ids) - {letter.id for letter in letters}):
        click.echo(f"not among the dead letters: {', '.join(map(str, missing))}", err=True)


def _tell_in_doubt(letters: "DeadLetters", selected: "Selection") -> None:
    from pgcdc_outbox.postgres.ledger.dead import IN_DOUBT, Selection

    if selected.ids is not None or selected.reason is not None:
        return

    named = Selection(consumer=selected.consumer, topic=selected.topic, reason=IN_DOUBT)
    if left := letters.count(named):
        click.echo(
            f"{left} in doubt left alone: see `dead list --in-doubt` and `dead resolve`, or name "
            f"--reason {IN_DOUBT}",
            err=True,
        )


def _described(letter: "Autopsy") -> str:
    lines = [
        f"job {letter.id} of consumer {letter.consumer}",
        f"  reason        {letter.reason}",
        f"  topic         {letter.topic}",
        f"  key           {'-' if letter.key is None else letter.key}",
        f"  headers       {letter.headers or '-'}",
        f"  content type  {letter.content_type}",
        f"  attempt       {letter.attempt} ({letter.prior_attempts} before it was last retried)",
        f"  created       {letter.created_at.isoformat()}",
        f"  died          {letter.died_at.isoformat()}",
        f"  payload       {len(letter.payload)} bytes",
        f"    {letter.body}",
        "  errors",
    ]
    lines += [
        f"    attempt {failing.attempt}  {failing.at}  {failing.error}: {failing.text}"
        for failing in letter.errors
    ]
    return "\n".join("".join(c if c.isprintable() else " " for c in line) for line in lines)


def _shortened(error: str | None, text: str | None) -> str:
    whole = ": ".join(part for part in (error, text) if part)
    return whole if len(whole) <= _TEXT_SHOWN else whole[: _TEXT_SHOWN - 3] + "..."
