"""Settings of the server that decide whether, and how long, a consumer can read the log."""

from collections.abc import Iterator
from typing import Final

from pgcdc_outbox.postgres.doctor.finding import Finding, note, ok, problem, warning
from pgcdc_outbox.postgres.doctor.look import Look

_GB: Final = 1024**3
_ROOMY: Final = 20 * _GB


def wal_level(look: Look) -> Iterator[Finding]:
    """The log holds what logical decoding needs."""
    setting = look.settings["wal_level"]
    if setting.setting == "logical":
        yield ok("wal_level is logical")
    elif setting.pending_restart:
        yield problem(
            f"wal_level is {setting.setting}",
            "# restart the server",
            detail="It was changed since the server was started.",
        )
    else:
        yield problem(
            f"wal_level is {setting.setting}",
            *_change(look, "wal_level", "logical"),
            detail="No slot can be made. (On RDS set rds.logical_replication to 1 instead.)",
        )


def replication_slots(look: Look) -> Iterator[Finding]:
    """There is a slot for every consumer."""
    most = int(look.settings["max_replication_slots"].setting)
    used = look.row("doctor_capacity")["slots"]
    yield from _room(look, "max_replication_slots", used, most, wanted=_without_slot(look))


def wal_senders(look: Look) -> Iterator[Finding]:
    """There is a walsender for every consumer."""
    most = int(look.settings["max_wal_senders"].setting)
    used = look.row("doctor_capacity")["senders"]
    yield from _room(look, "max_wal_senders", used, most, wanted=_without_reader(look))


def wal_sender_timeout(look: Look) -> Iterator[Finding]:
    """A reader that is gone is noticed, and one that is slow is left alone."""
    setting = look.settings["wal_sender_timeout"]
    if setting.seconds == 0:
        yield warning(
            "wal_sender_timeout is 0",
            *_change(look, setting.name, "60s"),
            detail="A consumer whose machine vanished keeps its slot, and no other takes over.",
        )
    elif setting.seconds < 5:
        yield warning(
            f"wal_sender_timeout is {setting.seconds:g} s",
            *_change(look, setting.name, "60s"),
            detail="A short pause of the consumer or the network ends the connection.",
        )
    else:
        yield ok(f"wal_sender_timeout is {setting.seconds:g} s")


def max_slot_wal_keep_size(look: Look) -> Iterator[Finding]:
    """A consumer that is away cannot fill the disk."""
    setting = look.settings["max_slot_wal_keep_size"]
    most_wal = look.settings["max_wal_size"].bytes
    better = f"{max(_ROOMY, 4 * most_wal) // _GB}GB"
    if setting.bytes < 0:
        yield warning(
            "max_slot_wal_keep_size is not set",
            *_change(look, setting.name, better),
            detail="A consumer that is away for long fills the disk, and that stops the database. "
            "Choose more than is written during your longest pause, and less than the disk has.",
        )
    elif setting.bytes < most_wal:
        yield note(
            f"max_slot_wal_keep_size is {setting.bytes // 1024**2} MB",
            *_change(look, setting.name, better),
            detail="That is less than max_wal_size: a busy hour can cost a consumer its slot. "
            "No job is lost, but jobs are re-read.",
        )
    else:
        yield ok(f"max_slot_wal_keep_size is {setting.bytes // 1024**2} MB")


def idle_replication_slot_timeout(look: Look) -> Iterator[Finding]:
    """A pause does not cost a slot (18 and later)."""
    setting = look.settings.get("idle_replication_slot_timeout")
    if setting is None or setting.seconds == 0:
        return

    yield note(
        f"idle_replication_slot_timeout is {setting.seconds:g} s",
        detail="A consumer that is away for longer loses its slot, and re-reads the table.",
    )


def output_plugin_libraries(look: Look) -> Iterator[Finding]:
    """The server may load pgoutput (minor releases since August 2026)."""
    setting = look.settings.get("output_plugin_libraries")
    if setting is None:
        return

    allowed = [each.strip().strip('"') for each in setting.setting.split(",")]
    if "pgoutput" not in allowed:
        yield problem(
            "output_plugin_libraries does not allow pgoutput",
            *_change(look, setting.name, "pgoutput"),
            detail="No slot of a consumer can be made or read.",
        )
    elif "test_decoding" in allowed:
        yield note(
            "output_plugin_libraries allows test_decoding",
            *_change(look, setting.name, "pgoutput"),
            detail="Through it, whoever may replicate reads every table of the database.",
        )
    else:
        yield ok("output_plugin_libraries allows pgoutput")


def logical_decoding_work_mem(look: Look) -> Iterator[Finding]:
    """Large transactions are decoded in memory."""
    setting = look.settings["logical_decoding_work_mem"]
    size = setting.bytes // 1024**2
    if size >= 64:
        yield ok(f"logical_decoding_work_mem is {size} MB")
        return

    yield note(
        f"logical_decoding_work_mem is {size} MB",
        *_change(look, setting.name, "64MB"),
        detail="Transactions that are larger are decoded by way of the disk.",
    )


def idle_session_timeout(look: Look) -> Iterator[Finding]:
    """The connections of a consumer may rest between two checkpoints."""
    setting = look.settings["idle_session_timeout"]
    if setting.seconds == 0 or setting.seconds >= 60:
        yield ok("idle connections are left alone")
        return

    yield warning(
        f"idle_session_timeout is {setting.seconds:g} s",
        *_change(look, setting.name, "0"),
        detail="It may end a connection of a consumer, which then takes hold of its slot again.",
    )


def synchronous_commit(look: Look) -> Iterator[Finding]:
    """A job that was reported as committed is on disk."""
    setting = look.settings["synchronous_commit"]
    if setting.setting != "off":
        yield ok(f"synchronous_commit is {setting.setting}")
        return

    yield note(
        "synchronous_commit is off",
        *_change(look, setting.name, "on"),
        detail="A crash of the server can lose jobs whose commit was reported.",
    )


def _room(look: Look, name: str, used: int, most: int, *, wanted: int) -> Iterator[Finding]:
    free = most - used
    enough = str(used + max(wanted, 1) + 5)
    if free < wanted:
        yield problem(
            f"{name}: {used} of {most} are in use, and {wanted} more are needed",
            *_change(look, name, enough),
        )
    elif free == 0:
        yield warning(f"{name}: all {most} are in use", *_change(look, name, enough))
    else:
        yield ok(f"{name}: {used} of {most} are in use")


def _without_slot(look: Look) -> int:
    if not look.has_outbox:
        return 0

    return sum(each.expected_slot not in look.slots for each in look.consumers if not each.polls)


def _without_reader(look: Look) -> int:
    if not look.has_outbox:
        return 0

    read = {name for name, slot in look.slots.items() if slot.active}
    return sum(each.expected_slot not in read for each in look.consumers if not each.polls)


def _change(look: Look, name: str, value: str) -> tuple[str, ...]:
    return look.settings[name].change(value, database=look.server.database, role=look.server.role)


CHECKS = (
    wal_level,
    replication_slots,
    wal_senders,
    wal_sender_timeout,
    max_slot_wal_keep_size,
    idle_replication_slot_timeout,
    output_plugin_libraries,
    logical_decoding_work_mem,
    idle_session_timeout,
    synchronous_commit,
)
