"""`lag`: show how far each consumer is behind."""

from typing import TYPE_CHECKING

import click

from pgcdc_outbox.cli.options import Options, pass_options
from pgcdc_outbox.cli.output import age, echo_json, format_option, table
from pgcdc_outbox.cli.output import size as shown_size
from pgcdc_outbox.cli.parameters import size

if TYPE_CHECKING:
    from pgcdc_outbox.postgres.report.lag import Lag, Thresholds

_HEADER = (
    *("CONSUMER", "STATE", "ACTIVE", "LAG", "RETAINED", "SAFE"),
    *("BEHIND", "OLDEST", "FAILED", "DEAD"),
)


@click.command("lag")
@click.option("--consumer", help="Only this consumer.")
@click.option(
    "--warn", type=size, default="256MB", show_default=True, help="Exit with 1 from this lag on."
)
@click.option(
    "--critical", type=size, default="1GB", show_default=True, help="Exit with 2 from this lag on."
)
@format_option
@pass_options
@click.pass_context
def command(
    ctx: click.Context,
    options: Options,
    consumer: str | None,
    warn: int,
    critical: int,
    style: str,
) -> None:
    """Show how far each consumer is behind.

    Exits with 0, 1 or 2 as the thresholds tell, also with 2 if a consumer has
    no slot or an invalid one, and with 3 if it cannot tell.
    """
    from pgcdc_outbox.postgres.report.lag import Thresholds, measure

    thresholds = Thresholds(warn=warn, critical=critical)
    lag = measure(options.dsn, schema=options.schema, consumer=consumer)
    if style == "json":
        echo_json(lag)
    else:
        _show(lag, thresholds)

    if consumer is not None and not lag.consumers:
        click.echo(f"error: there is no consumer {consumer}", err=True)
        ctx.exit(3)

    ctx.exit(int(lag.judge(thresholds)))


def _show(lag: "Lag", thresholds: "Thresholds") -> None:
    if not lag.consumers:
        click.echo("no consumer is registered")
    else:
        rows = []
        for each in lag.consumers:
            level, why = each.judge(thresholds)
            rows.append(
                (
                    each.consumer,
                    f"{level.name}: {why}" if why else level.name,
                    "yes" if each.active else "no",
                    shown_size(each.lag_bytes),
                    shown_size(each.retained_bytes),
                    shown_size(each.safe_wal_bytes),
                    age(each.behind_seconds),
                    each.oldest_id,
                    each.failed,
                    each.parked,
                    each.dead,
                )
            )

        header = [
            "CONSUMER",
            "STATE",
            "ACTIVE",
            "LAG",
            "RETAINED",
            "SAFE",
            "BEHIND",
            "OLDEST",
            "FAILED",
            "PARKED",
            "DEAD",
        ]
        click.echo(table(header, rows))

    if (writer := lag.oldest_writer) is not None:
        who = "a prepared transaction" if writer.pid is None else f"pid {writer.pid}"
        click.echo(f"oldest writing transaction: {who}, {age(writer.age_seconds)}, {writer.what}")
