"""`status`: show the outbox on one screen."""

from typing import TYPE_CHECKING

import click

from pgcdc_outbox.cli.options import Options, pass_options
from pgcdc_outbox.cli.output import age, echo_json, format_option, size, table

if TYPE_CHECKING:
    from datetime import datetime

    from pgcdc_outbox.postgres.report.status import Counts, Overview


@click.command("status")
@format_option
@pass_options
def command(options: Options, style: str) -> None:
    """Show the outbox on one screen."""
    from pgcdc_outbox.postgres.report.status import overview

    found = overview(options.dsn, schema=options.schema)
    if style == "json":
        echo_json(found)
    else:
        click.echo("\n\n".join(_sections(found)))


def _sections(found: "Overview") -> list[str]:
    state = f"{found.pending} migrations pending" if found.pending else "up to date"
    return [
        f"schema {found.schema}: migration {found.migration}, {state}",
        _jobs(found.counts),
        _consumers(found),
        _partitions(found),
    ]


def _jobs(counts: "Counts") -> str:
    about = "" if counts.immediate_is_exact else "about "
    dead = ", ".join(f"{reason} {jobs}" for reason, jobs in counts.dead.items())
    rows = [
        ("immediate", f"{about}{counts.immediate} rows kept, settled or not"),
        ("scheduled", f"{counts.scheduled_due} due, {counts.scheduled} later"),
        ("failed", f"{counts.failed_due} due, {counts.failed} later"),
        ("parked", f"{counts.parked} behind {counts.held_keys} keys"),
        ("dead", dead or "0"),
    ]
    return table(("JOBS", ""), rows)


def _consumers(found: "Overview") -> str:
    if not found.consumers:
        return "no consumer is registered"

    rows = [
        (
            each.name,
            each.mode,
            each.epoch,
            each.instance,
            _moment(each.taken_at),
            each.crashes,
            age(each.checkpoint_age_seconds) + (" (re-reading)" if each.rereading else ""),
        )
        for each in found.consumers
    ]
    return table(
        ("CONSUMER", "MODE", "EPOCH", "INSTANCE", "TAKEN", "CRASHES", "CHECKPOINT AGE"), rows
    )


def _partitions(found: "Overview") -> str:
    rows = [
        (
            each.name,
            "default" if each.is_default else _moment(each.lower),
            f"{found.default_rows} rows" if each.is_default else _moment(each.upper),
            each.estimate,
            size(each.bytes),
        )
        for each in found.partitions
    ]
    return table(("PARTITION", "FROM", "TO", "ABOUT ROWS", "SIZE"), rows)


def _moment(moment: "datetime | None") -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S%z}"
