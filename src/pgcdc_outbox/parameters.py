"""The parameters of `Consumer`: checked one by one, and put where they belong.

What is wrong is raised as `SettingsError`, which names the parameter.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final, Literal, get_args

from pgcdc_outbox.consumer.consumer import Limits
from pgcdc_outbox.core.lanes import Ordering
from pgcdc_outbox.errors import SettingsError
from pgcdc_outbox.postgres.producer.schedules.schedule import Schedule
from pgcdc_outbox.postgres.source.reading import Mode, Reading
from pgcdc_outbox.postgres.source.slot_loss import OnSlotLoss, SlotPolicy

Seconds = timedelta | float

Audit = Literal["none", "failures", "all"]
"""Of which executions the database keeps a row."""

# Enough that the reader seldom stops for a worker, and little beside prefetch_bytes.
_PREFETCH: Final = 2000
# Oftener than that, a chore that has nothing to do keeps a processor and the server busy.
_LEAST_INTERVAL: Final = 0.01


def limits(
    *,
    batch_size: int,
    batch_bytes: int,
    linger: Seconds,
    concurrency: int,
    prefetch: int | None,
    prefetch_bytes: int,
    drain_timeout: Seconds,
    ordering: Ordering,
) -> Limits:
    """How much at a time, and how long; what ``prefetch`` leaves open follows from the rest."""
    if ordering not in get_args(Ordering):
        raise SettingsError(
            f"ordering: {ordering!r} is not known",
            hint=f"Use one of {', '.join(get_args(Ordering))}.",
        )

    return Limits(
        batch_size=_at_least("batch_size", batch_size, 1),
        batch_bytes=_at_least("batch_bytes", batch_bytes, 1),
        linger=_seconds("linger", linger),
        concurrency=_at_least("concurrency", concurrency, 1),
        prefetch=_at_least(
            "prefetch",
            max(_PREFETCH, 2 * batch_size * concurrency) if prefetch is None else prefetch,
            1,
        ),
        prefetch_bytes=_at_least("prefetch_bytes", prefetch_bytes, 1),
        drain_timeout=_seconds("drain_timeout", drain_timeout),
        ordering=ordering,
    )


def reading(
    *,
    mode: Mode,
    checkpoint_interval: Seconds,
    poll_interval: Seconds,
    max_retained_wal: int,
    on_slot_loss: OnSlotLoss,
    max_slot_losses: int,
    takeover_grace: Seconds,
    failover: bool,
    shutdown_grace: Seconds,
    wal_sender_timeout: Seconds | None,
) -> Reading:
    """How jobs are read."""
    if mode not in get_args(Mode):
        raise SettingsError(
            f"mode: {mode!r} is not known", hint=f"Use one of {', '.join(get_args(Mode))}."
        )

    if on_slot_loss not in get_args(OnSlotLoss):
        raise SettingsError(
            f"on_slot_loss: {on_slot_loss!r} is not known", hint="Use 'reconcile' or 'stop'."
        )

    return Reading(
        mode=mode,
        checkpoint_interval=interval("checkpoint_interval", checkpoint_interval),
        poll_interval=_seconds("poll_interval", poll_interval, least=0.001),
        max_retained_wal=_at_least("max_retained_wal", max_retained_wal, 1),
        slot_policy=SlotPolicy(
            on_loss=on_slot_loss,
            max_losses=_at_least("max_slot_losses", max_slot_losses, 1),
            takeover_grace=_seconds("takeover_grace", takeover_grace),
            failover=failover,
        ),
        shutdown_grace=_seconds("shutdown_grace", shutdown_grace),
        wal_sender_timeout=_wal_sender_timeout(wal_sender_timeout),
    )


def audit_level(audit: Audit) -> Audit:
    """What is to be kept about executions."""
    if audit not in get_args(Audit):
        raise SettingsError(
            f"audit: {audit!r} is not known", hint=f"Use one of {', '.join(get_args(Audit))}."
        )

    return audit


def named(field: str, value: str) -> str:
    """A name that is one."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise SettingsError(f"{field}: {value!r} is not a name", hint="Give a non-empty string.")

    return value


def declared(schedules: Sequence[Schedule]) -> tuple[Schedule, ...]:
    """Schedules, each of a name of its own."""
    for schedule in schedules:
        if not isinstance(schedule, Schedule):
            raise SettingsError(
                f"schedules: a {type(schedule).__name__} is given",
                hint="Give a list of Schedule(name=..., cron=..., payload=...).",
            )

    names = [schedule.name for schedule in schedules]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SettingsError(f"schedules: {', '.join(twice)} is there twice")

    return tuple(schedules)


def interval(field: str, value: Seconds) -> float:
    """Seconds between two runs of something; never so few that it would keep others busy."""
    return max(_seconds(field, value), _LEAST_INTERVAL)


def _at_least(field: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SettingsError(f"{field}: {value!r} is not a whole number from {least}")

    return value


def _seconds(field: str, value: Seconds, *, least: float = 0.0) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise SettingsError(f"{field}: {value!r} is neither a timedelta nor seconds")

    if not 0 <= seconds < float("inf"):
        raise SettingsError(f"{field}: {value!r} must be finite and not negative")

    if seconds < least:
        raise SettingsError(f"{field}: {value!r} is less than {least} s")

    return float(seconds)


def _wal_sender_timeout(value: Seconds | None) -> float | None:
    if value is None:
        return None

    seconds = _seconds("wal_sender_timeout", value)
    if not 1 <= seconds <= 86400:
        raise SettingsError(
            f"wal_sender_timeout: {value!r} is not from a second to a day",
            hint="Some seconds find a dead reader soon; None leaves it to the server.",
        )

    return seconds
