"""Slots that survive a failover (17 and later): what each side needs for it."""

from collections.abc import Iterator
from typing import Final

from psycopg.conninfo import conninfo_to_dict

from pgcdc_outbox.postgres.doctor.finding import Finding, note, ok, problem, warning
from pgcdc_outbox.postgres.doctor.look import Look
from pgcdc_outbox.postgres.doctor.slot import Slot
from pgcdc_outbox.postgres.doctor.slots import size

_WAITING: Final = "WaitForStandbyConfirmation"
"""What a walsender says of itself in pg_stat_activity meanwhile."""


def on_the_primary(look: Look) -> Iterator[Finding]:
    """Standbys have what a consumer has read, before it reads it."""
    if look.server.standby or look.server.major < 17:
        return

    ours = [slot for slot in _ours(look) if slot.failover]
    standbys = look.rows("doctor_standbys")
    if standbys and not ours:
        yield note(
            f"no slot follows a failover to {_names(standbys)}",
            detail="After one the consumer makes a new slot there, and re-reads the table.",
        )

    if not ours:
        return

    listed = _listed(look)
    if not listed:
        physical = [slot.name for slot in look.slots.values() if slot.kind == "physical"]
        yield warning(
            "synchronized_standby_slots is empty",
            *_change(look, ", ".join(physical) or "THE_SLOT_OF_THE_STANDBY"),
            detail="A consumer may get jobs that no standby has, and that a failover undoes.",
        )

    for slot in ours:
        if slot.waits_for == _WAITING:
            yield problem(
                f"slot {slot.name} waits for a standby",
                detail=f"Its consumer gets nothing since, and is {size(slot.lag_bytes)} behind, "
                "until every standby in synchronized_standby_slots has caught up.",
            )

    wrong = [*_standing(look, listed)]
    yield from wrong
    if listed and not wrong:
        yield ok("every standby slot in synchronized_standby_slots is read")

    read = [look.slots[name] for name in listed if name in look.slots and look.slots[name].active]
    if not all(slot.holds_xmin for slot in read):
        yield note(
            "hot_standby_feedback seems to be off on a standby",
            "# on the standby: alter system set hot_standby_feedback = on;",
            detail="It cannot be seen from here for certain. Without it the copies of slots on "
            "the standby become invalid.",
        )


def on_the_standby(look: Look) -> Iterator[Finding]:
    """A standby has usable copies of the slots of its primary."""
    if not look.server.standby or look.server.major < 17:
        return

    if look.settings["sync_replication_slots"].setting != "on":
        yield warning("sync_replication_slots is off", *_turn_on("sync_replication_slots"))

    if look.settings["hot_standby_feedback"].setting != "on":
        yield warning("hot_standby_feedback is off", *_turn_on("hot_standby_feedback"))

    yield from _way_to_primary(look)
    ours = _ours(look)
    if not ours:
        yield warning("no slot of a consumer has a copy on this standby")

    for slot in ours:
        if slot.synced and not slot.temporary and not slot.invalid:
            yield ok(f"slot {slot.name} has a usable copy on this standby")
        else:
            why = slot.invalid or ("not complete yet" if slot.temporary else "not a copy")
            yield problem(f"slot {slot.name} would not survive a failover: {why}")


def _standing(look: Look, listed: list[str]) -> Iterator[Finding]:
    for name in listed:
        slot = look.slots.get(name)
        waiting = "Consumers get nothing until a standby reads it: the server waits."
        if slot is None:
            yield problem(
                f"synchronized_standby_slots names {name}, which does not exist",
                f"select pg_create_physical_replication_slot('{name}');",
                "-- or without it:",
                *_change(look, ", ".join(each for each in listed if each != name)),
                detail=waiting,
            )
        elif not slot.active:
            yield problem(
                f"no standby reads slot {name}, which synchronized_standby_slots names",
                "-- start the standby, or go on without it:",
                *_change(look, ", ".join(each for each in listed if each != name)),
                detail=waiting,
            )


def _way_to_primary(look: Look) -> Iterator[Finding]:
    setting = look.settings.get("primary_conninfo")
    if setting is None:
        yield note(
            "primary_conninfo cannot be seen",
            detail="It has to name a database, or no slot is copied. "
            "Superusers and members of pg_read_all_settings see it.",
        )
    elif not conninfo_to_dict(setting.setting).get("dbname"):
        # Not shown: it may hold a password.
        yield warning(
            "primary_conninfo names no database, so no slot is copied",
            f"# in primary_conninfo on the standby, add: dbname={look.server.database}",
        )


def _ours(look: Look) -> list[Slot]:
    names = {each.expected_slot for each in look.consumers}
    return [slot for name, slot in look.slots.items() if name in names]


def _listed(look: Look) -> list[str]:
    text = look.settings["synchronized_standby_slots"].setting
    return [each.strip().strip('"') for each in text.split(",") if each.strip()]


def _change(look: Look, value: str) -> tuple[str, ...]:
    return look.settings["synchronized_standby_slots"].change(
        value, database=look.server.database, role=look.server.role
    )


def _turn_on(name: str) -> tuple[str, ...]:
    return (f"alter system set {name} = on;", "select pg_reload_conf();")


def _names(standbys: list[dict[str, object]]) -> str:
    return ", ".join(str(row["name"]) for row in standbys)


CHECKS = (on_the_primary, on_the_standby)
