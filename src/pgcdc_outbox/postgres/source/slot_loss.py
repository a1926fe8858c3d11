"""What becomes of a consumer whose slot was lost: a new slot, or an end."""

from typing import Literal

from msgspec import Struct

from pgcdc_outbox.errors import SlotLost
from pgcdc_outbox.postgres.source.leadership import Leadership

OnSlotLoss = Literal["reconcile", "stop"]


class SlotPolicy(Struct, frozen=True, kw_only=True):
    """How a consumer treats its slot."""

    on_loss: OnSlotLoss = "reconcile"
    """Make a new one and re-read the table, or end."""
    max_losses: int = 3
    """New slots within an hour because one was lost; then the consumer ends."""
    takeover_grace: float = 5.0
    """Seconds that a reader of ours gets before it is ended."""
    failover: bool = False
    """Whether standbys keep a copy of the slot (17 and later)."""


async def judge_loss(leadership: Leadership, policy: SlotPolicy, reason: str) -> None:
    """Return if a new slot may be made for a lost one. Raises `SlotLost` if not."""
    consumer = leadership.consumer
    if policy.on_loss == "stop":
        raise SlotLost(
            f"consumer {consumer} lost its place in the log: {reason}",
            hint=f"Run `pgcdc-outbox slot reconcile --name {consumer}`; the next start then "
            "reads from the table what was missed.",
        )

    ((losses,),) = await leadership.rows(
        "slots_lost", {"consumer": consumer}, doing="count the lost slots"
    )
    if losses >= policy.max_losses:
        raise SlotLost(
            f"consumer {consumer} lost its place in the log {losses + 1} times within an hour, "
            f"now because {reason}",
            hint="If its log was removed, raise max_slot_wal_keep_size, or read without a slot: "
            "--mode polling. Else find out who drops the slot or alters the publication. Then run "
            f"`pgcdc-outbox slot reconcile --name {consumer}`.",
        )
