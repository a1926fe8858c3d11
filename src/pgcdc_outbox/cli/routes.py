"""`routes`: what a router does with which topic."""

from typing import TYPE_CHECKING, Any

import click

from pgcdc_outbox.cli.output import echo_json, format_option, table

if TYPE_CHECKING:
    from pgcdc_outbox.routing.listing import Listed

_HEADER = (
    "pattern", "handler", "kind", "payload", "retry", "timeout", "concurrency", "transactional",
    "delivery",
)  # fmt: skip


@click.command("routes")
@click.argument("router", metavar="MODULE:NAME")
@click.option("--topic", help="Only what takes this topic.")
@format_option
def command(router: str, topic: str | None, style: str) -> None:
    """Show the routes of a router, the most specific pattern first.

    It imports the module, and needs no database. With --topic it exits with 1
    if nothing takes that topic.
    """
    from pgcdc_outbox.cli.handlers import load_handler
    from pgcdc_outbox.errors import SettingsError
    from pgcdc_outbox.routing.listing import listed
    from pgcdc_outbox.routing.router import Router

    found = load_handler(router)
    if not isinstance(found, Router):
        raise SettingsError(
            f"routes: {router} is a {type(found).__name__}, and no Router",
            hint="Name a Router, such as shop.jobs:router.",
        )

    rows = listed(found, topic)
    if style == "json":
        echo_json(rows)
    elif rows:
        click.echo(table(_HEADER, [_row(each) for each in rows]))
    else:
        click.echo("There are no routes." if topic is None else f"Nothing takes {topic!r}.")

    if topic is not None and not rows:
        click.get_current_context().exit(1)


def _row(each: "Listed") -> tuple[Any, ...]:
    return (
        each.pattern,
        each.handler,
        each.kind,
        each.payload,
        each.retry,
        None if each.timeout is None else f"{each.timeout:g}s",
        each.concurrency,
        "yes" if each.transactional else "no",
        each.delivery,
    )
