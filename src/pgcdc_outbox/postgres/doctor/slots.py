"""The slots: each consumer has its own, it is good, and nobody else holds the log."""

import shlex
from collections.abc import Iterator
from typing import Final

from pgcdc_outbox.postgres.connection import run
from pgcdc_outbox.postgres.doctor.finding import Finding, note, ok, problem, warning
from pgcdc_outbox.postgres.doctor.look import Consumer, Look
from pgcdc_outbox.postgres.doctor.slot import Slot
from pgcdc_outbox.postgres.names import slot_name

_KB: Final = 1024
_WARNED: Final = 0.5
_ALARMED: Final = 0.8


def slots(look: Look) -> Iterator[Finding]:
    """Every consumer has a slot that goes on where it stopped."""
    if not look.consumers:
        yield note("no consumer is registered", detail="The first start registers it.")

    for consumer in look.consumers:
        slot = look.slots.get(consumer.expected_slot)
        found = [*_of_consumer(look, consumer, slot)]
        yield from found or [ok(f"consumer {consumer.name}: {_described(slot)}")]


def orphans(look: Look) -> Iterator[Finding]:
    """No slot of ours is left that no consumer reads."""
    known, hidden = _known_slots(look)
    left = [
        slot
        for slot in look.slots.values()
        if slot.name.startswith("pgcdc_")
        and (slot.database, slot.plugin) == (look.server.database, "pgoutput")
        and slot.name not in known
    ]
    if not left:
        yield ok("no slot is left that no consumer reads")

    for slot in left:
        title = f"slot {slot.name} belongs to no consumer, and keeps {size(slot.retained_bytes)}"
        if slot.active:
            yield note(title, detail=f"It is read by pid {slot.active_pid} {slot.reader}.")
        elif hidden:
            yield note(
                title,
                detail=f"It may be of the outbox in schema {hidden[0]}, which we may not read.",
            )
        else:
            yield warning(title, drop(slot.name), detail="The log that it keeps fills the disk.")


def drop(slot: str) -> str:
    """The statement that drops a slot; names of slots need no quoting."""
    return f"select pg_drop_replication_slot('{slot}');"


def start(consumer: str) -> str:
    """The command that runs a consumer, but for its handler."""
    return f"pgcdc-outbox consume --name {shlex.quote(consumer)} --handler MODULE:NAME"


def size(count: int) -> str:
    """``12 MB`` of log."""
    number, unit = float(count), "bytes"
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < _KB or unit == "GB":
            break

        number /= _KB

    return f"{number:.0f} {unit}"


def _of_consumer(look: Look, consumer: Consumer, slot: Slot | None) -> Iterator[Finding]:
    who = f"consumer {consumer.name}"
    if consumer.polls:
        if slot is not None:
            yield warning(
                f"{who} polls the table, and its slot keeps {size(slot.retained_bytes)}",
                drop(slot.name),
            )
        else:
            yield ok(f"{who} polls the table, and needs no slot")
    elif slot is None:
        yield _missing(consumer)
    elif (slot.kind, slot.plugin, slot.database) != ("logical", "pgoutput", look.server.database):
        yield problem(
            f"{who}: slot {slot.name} is a {slot.kind} slot of {slot.plugin or 'no plugin'} "
            f"in database {slot.database or '-'}",
            drop(slot.name),
            detail="It has the name that the consumer needs. Ask who made it before you drop it.",
        )
    elif slot.invalid:
        yield problem(
            f"{who}: slot {slot.name} is invalid: {slot.invalid}",
            start(consumer.name),
            detail="No job is lost: the next start makes a new one and re-reads the table.",
        )
    else:
        yield from _good(look, consumer, slot)


def _missing(consumer: Consumer) -> Finding:
    who = f"consumer {consumer.name}"
    if not consumer.registered:
        return note(f"{who} has not run yet", detail="Its first start makes its slot.")

    return problem(
        f"{who} has no slot",
        start(consumer.name),
        detail="No job is lost: the next start makes one and re-reads the table.",
    )


def _good(look: Look, consumer: Consumer, slot: Slot) -> Iterator[Finding]:
    who = f"consumer {consumer.name}"
    if consumer.slot != slot.name and not slot.active:
        yield note(
            f"{who}: slot {slot.name} does not continue its checkpoint",
            detail="The next start makes it anew and re-reads the table.",
        )

    if slot.two_phase:
        yield warning(
            f"{who}: slot {slot.name} was made for two-phase commit",
            drop(slot.name),
            detail="Stop the consumer first; its next start makes another and re-reads the table.",
        )

    if slot.wal_status == "unreserved":
        yield problem(
            f"{who}: slot {slot.name} is about to be lost",
            detail=f"It keeps {size(slot.retained_bytes)}, more than max_slot_wal_keep_size. "
            "The next checkpoint of the server gives it up, unless the consumer catches up.",
        )
        return

    yield from _filled(look, who, slot)


def _filled(look: Look, who: str, slot: Slot) -> Iterator[Finding]:
    limit = look.settings["max_slot_wal_keep_size"].bytes
    part = slot.retained_bytes / limit if limit > 0 else 0
    if part < _WARNED:
        return

    finding = problem if part >= _ALARMED else warning
    yield finding(
        f"{who}: slot {slot.name} keeps {size(slot.retained_bytes)}, "
        f"{part:.0%} of max_slot_wal_keep_size",
        detail="At the limit the slot is lost, and the consumer re-reads the table. "
        + ("It does not run." if not slot.active else f"It is {size(slot.lag_bytes)} behind."),
    )


def _described(slot: Slot | None) -> str:
    assert slot is not None
    state = f"read by pid {slot.active_pid}" if slot.active else "not read by anybody"
    return (
        f"slot {slot.name} is good and {state}; "
        f"{size(slot.lag_bytes)} behind, keeps {size(slot.retained_bytes)}"
    )


def _known_slots(look: Look) -> tuple[set[str], list[str]]:
    """The slots of every outbox of the database, and the outboxes that we may not read."""
    known = {consumer.expected_slot for consumer in look.consumers}
    hidden = []
    for row in look.rows("doctor_outboxes"):
        if not row["readable"]:
            hidden.append(row["schema"])
            continue

        for each in run(look.connection, "doctor_names", row["schema"]).fetchall():
            known.add(slot_name(row["schema"], each["name"], look.server.database_oid))
            known.add(each["slot"] or "")

    return known, hidden


CHECKS = (slots, orphans)
