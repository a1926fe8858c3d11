"""How a consumer is to be read: settings of the source."""

from typing import Literal

from msgspec import Struct

from pgcdc_outbox.postgres.source.slot_loss import SlotPolicy

Mode = Literal["logical", "polling", "auto"]


class Reading(Struct, frozen=True, kw_only=True):
    """How a consumer is read. Seconds and bytes; what they mean is said at `Consumer`."""

    mode: Mode
    checkpoint_interval: float
    poll_interval: float
    max_retained_wal: int
    slot_policy: SlotPolicy
    shutdown_grace: float
    wal_sender_timeout: float | None
