"""`slot`: show, make, drop or replace the slot of a consumer."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pgcdc_outbox.cli.options import Options, pass_options
from pgcdc_outbox.cli.output import echo_json, format_option, size

if TYPE_CHECKING:
    from pgcdc_outbox.postgres.report.slot import SlotState
    from pgcdc_outbox.postgres.source.keeper import Kept, SlotKeeper

F = TypeVar("F", bound=Callable[..., Any])


@click.group("slot")
def command() -> None:
    """Show, make, drop or replace the slot of a consumer.

    What changes a slot needs the consumer to be stopped. Exits with 3 if it
    could not be done.
    """


def _named(command: F) -> F:
    return click.option("--name", help="Name of the consumer.  [default: default]")(command)


@command.command("status")
@_named
@format_option
@pass_options
@click.pass_context
def status(ctx: click.Context, options: Options, name: str | None, style: str) -> None:
    """Show what the server says of the slot.

    Exits with 0 if it serves, 1 if its log may soon be removed, 2 if it is
    missing, invalid or another's, and 3 if that cannot be told.
    """
    from pgcdc_outbox.postgres.report.slot import slot_state

    state = slot_state(options.dsn, consumer=_name(options, name), schema=options.schema)
    if style == "json":
        echo_json(state)
    else:
        _show(state)

    ctx.exit(int(state.judge()[0]))


@command.command("create")
@_named
@click.option("--failover", is_flag=True, help="Have standbys copy it (PostgreSQL 17).")
@format_option
@pass_options
def create(options: Options, name: str | None, failover: bool, style: str) -> None:
    """Make the slot before the first start, or after it was dropped.

    The next start reads from the table what was committed before, then goes on
    with the slot. From now on the slot keeps WAL.
    """
    _report("created", _keep(options, name, lambda keeper: keeper.create(failover=failover)), style)


@command.command("drop")
@_named
@format_option
@pass_options
def drop(options: Options, name: str | None, style: str) -> None:
    """Drop the slot, so that it keeps no WAL while the consumer is away.

    The checkpoint stays: the next start makes a slot, and reads from the table
    what was missed.
    """
    _report("dropped", _keep(options, name, lambda keeper: keeper.drop()), style)


@command.command("reconcile")
@_named
@click.option("--failover/--no-failover", default=None, help="Else as the old slot was.")
@click.option(
    "--accept-new-system",
    "new_system",
    type=click.Choice(["upgraded", "restored"]),
    help="The cluster is another one: pg_upgrade, or dump and restore.",
)
@format_option
@pass_options
def reconcile(
    options: Options, name: str | None, failover: bool | None, new_system: Any, style: str
) -> None:
    """Put a new slot in the place of a lost or doubtful one.

    The next start reads from the table what no checkpoint knows to be settled.
    After `restored` that is every job in the table, because transaction ids of
    the old cluster say nothing.
    """
    kept = _keep(
        options,
        name,
        lambda keeper: keeper.reconcile(failover=failover, new_system=new_system),
    )
    _report("replaced", kept, style)


def _keep(
    options: Options, name: str | None, step: "Callable[[SlotKeeper], Awaitable[Kept]]"
) -> "Kept":
    import anyio

    from pgcdc_outbox.postgres.source.keeper import SlotKeeper

    keeper = SlotKeeper(options.dsn, consumer=_name(options, name), schema=options.schema)
    return anyio.run(step, keeper)


def _name(options: Options, name: str | None) -> str:
    return options.settings.consume.name if name is None else name


def _report(done: str, kept: "Kept", style: str) -> None:
    if style == "json":
        echo_json(kept)
        return

    click.echo(f"{done} slot {kept.slot} of consumer {kept.consumer}")
    if kept.position is not None:
        click.echo(f"it begins at {kept.position}; the next start reads the table first")

    if kept.adopted:
        click.echo(f"{kept.adopted} jobs of another cluster will come again")


def _show(state: "SlotState") -> None:
    level, why = state.judge()
    click.echo(f"{level.name}: slot {state.slot} of consumer {state.consumer}: {why}")
    lines = {
        "read by": state.reader,
        "inactive since": state.inactive_since,
        "wal status": state.wal_status,
        "lag": size(state.lag_bytes),
        "retained": size(state.retained_bytes),
        "safe": size(state.safe_wal_bytes),
        "confirmed": state.confirmed,
        "failover": f"{'yes' if state.failover else 'no'}{', synced' if state.synced else ''}",
        "lost": f"{state.lost_within_an_hour} times within an hour",
        "re-reading": "yes" if state.rereading else "no",
    }
    for name, value in lines.items():
        if value is not None and (state.exists or name in ("lost", "re-reading")):
            click.echo(f"  {name:<15} {value}")
