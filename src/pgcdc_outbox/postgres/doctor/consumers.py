"""The consumers: they live, and they remember the cluster that they are in."""

from collections.abc import Iterator

from psycopg import sql

from pgcdc_outbox.postgres.doctor.finding import Finding, ok, problem, warning
from pgcdc_outbox.postgres.doctor.look import Consumer, Look
from pgcdc_outbox.postgres.doctor.slot import Slot
from pgcdc_outbox.postgres.doctor.slots import drop, size, start


def dead_consumers(look: Look) -> Iterator[Finding]:
    """No consumer is registered that has not run for long and holds the log."""
    away = [each for each in look.consumers if each.registered and _is_away(look, each)]
    if not away:
        yield ok("no consumer is away for long")

    for consumer in away:
        slot = look.slots.get(consumer.expected_slot)
        kept = slot.retained_bytes if slot is not None else 0
        since = _hours(consumer.idle_seconds)
        yield warning(
            f"consumer {consumer.name} is away {since}, and keeps {size(kept)} of log",
            start(consumer.name),
            "-- or, if nobody wants it any more:",
            *_removal(look, consumer, slot),
            detail="Every partition that it has not settled is kept for it, too.",
        )


def checkpoints(look: Look) -> Iterator[Finding]:
    """Every checkpoint was saved in this cluster."""
    here = look.row("doctor_cluster")["system_id"]
    foreign = [each for each in look.consumers if each.checkpoint_system not in (None, here)]
    if not foreign:
        yield ok("every checkpoint was saved in this cluster")

    for consumer in foreign:
        name = _literal(consumer.name)
        table = look.spelled("checkpoint")
        yield problem(
            f"the checkpoint of consumer {consumer.name} was saved in another cluster",
            "-- after pg_upgrade, which keeps transaction ids:",
            f"update {table} set system_id = '{here}' where consumer = {name};",
            "-- after a dump and restore, which does not; every job in the table comes again:",
            f"delete from {table} where consumer = {name};",
            detail="The consumer ends with CheckpointForeign.",
        )


def _is_away(look: Look, consumer: Consumer) -> bool:
    slot = look.slots.get(consumer.expected_slot)
    if consumer.polls or (slot is not None and slot.active):
        return False

    return consumer.idle_seconds > look.limits.away.total_seconds()


def _removal(look: Look, consumer: Consumer, slot: Slot | None) -> Iterator[str]:
    if slot is not None:
        yield drop(slot.name)

    yield f"delete from {look.spelled('consumer')} where name = {_literal(consumer.name)};"


def _literal(text: str) -> str:
    return sql.Literal(text).as_string(None)


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"for {hours:.0f} hours" if hours < 72 else f"for {hours / 24:.0f} days"


CHECKS = (dead_consumers, checkpoints)
