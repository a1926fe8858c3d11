"""`demo`: see it work, on a server of its own."""

import sys
from pathlib import Path

import click


@click.command("demo")
@click.option("--fresh", is_flag=True, help="Remove the data of earlier runs first.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=".demo",
    show_default=True,
    help="Data folder of the server.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    help="How long orders are placed.  [default: 6]",
)
@click.option("--orders", type=click.IntRange(min=1), help="How many orders are placed instead.")
@click.option("--plain", is_flag=True, help="Print lines also on a terminal.")
@click.option("--keep-running", is_flag=True, help="Leave the server up until Ctrl-C.")
@click.pass_context
def command(
    ctx: click.Context,
    fresh: bool,
    data: Path,
    seconds: float | None,
    orders: int | None,
    plain: bool,
    keep_running: bool,
) -> None:
    """See it work, on a server of its own.

    Orders are placed, rolled back, and their jobs handled, retried and given
    up; then everything is counted. Exits with 0 only if nothing was lost and
    nothing that was rolled back was handled. Ctrl-C ends the orders early.
    """
    from pgcdc_outbox.demo.demo import show
    from pgcdc_outbox.demo.screen import Screen
    from pgcdc_outbox.errors import SourceUnavailable
    from pgcdc_outbox.testing import ServerUnavailable

    if seconds is not None and orders is not None:
        raise click.UsageError("--seconds and --orders exclude each other.")

    try:
        good = show(
            data,
            Screen(sys.stdout, live=sys.stdout.isatty() and not plain),
            fresh=fresh,
            seconds=6.0 if seconds is None and orders is None else seconds,
            orders=orders,
            keep_running=keep_running,
        )
    except ServerUnavailable as error:
        raise SourceUnavailable(error.args[0], hint=error.hint) from error

    ctx.exit(0 if good else 1)
