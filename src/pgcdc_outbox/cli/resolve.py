"""`dead resolve`: what a person has found out about a job in doubt."""

import getpass
import socket

import click

from pgcdc_outbox.cli.options import Options, pass_options
from pgcdc_outbox.cli.output import echo_json, format_option


@click.command("resolve")
@click.argument("id", type=int)
@click.option("--done", "verdict", flag_value="done", help="It happened: it is done.")
@click.option("--retry", "verdict", flag_value="retry", help="It did not: try it again.")
@click.option("--consumer", help="Only the one of this consumer.")
@format_option
@pass_options
@click.pass_context
def resolve(
    ctx: click.Context,
    options: Options,
    id: int,
    verdict: str | None,
    consumer: str | None,
    style: str,
) -> None:
    """Say what became of a job in doubt, when you have found out.

    Nothing else ever takes such a job for done. Who said so is kept in the table attempt.
    """
    from pgcdc_outbox.postgres.ledger.dead import IN_DOUBT, DeadLetters, Selection

    if verdict is None:
        raise click.UsageError("Say what you found out: --done or --retry.")

    letters = DeadLetters(options.dsn, schema=options.schema)
    if verdict == "done":
        resolved = letters.resolve_done(id, who=_operator(), consumer=consumer)
    else:
        resolved = letters.retry(Selection(ids=(id,), consumer=consumer, reason=IN_DOUBT))

    if style == "json":
        echo_json(resolved)
    elif resolved:
        click.echo(f"job {id} is {'done' if verdict == 'done' else 'back in line'}")

    if not resolved:
        click.echo(f"error: job {id} is not in doubt", err=True)
        ctx.exit(1)


def _operator() -> str:
    """Who runs this command, as far as the system knows."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "somebody"

    return f"operator {user}@{socket.gethostname()}"
