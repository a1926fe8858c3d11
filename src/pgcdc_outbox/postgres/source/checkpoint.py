"""The durable position: a snapshot whose every job is settled, and a place in the log.

The place up to which everything is settled moves faster than that, and is saved
by itself, before the server is told. So the slot is never ahead of what is saved,
and one that is was made by somebody else.

The snapshot is taken first and the place second, so whatever the snapshot sees
wrote its commit before the place. Once everything before the place is settled,
everything in the snapshot is, and the pair may be saved. From then on only rows
that the snapshot does not see can be unhandled, whatever became of the slot.
"""

import time

from msgspec import Struct

from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.postgres.source.leadership import Leadership, System

__all__ = ["NOTHING_SEEN", "Checkpoint", "Checkpointer", "Reconcile", "System", "load", "normal"]

NOTHING_SEEN = "1:1:"
"""The snapshot that sees no row at all."""


class Reconcile(Struct, frozen=True, kw_only=True):
    """Rows that only the table can give: visible in ``target``, not in ``since``."""

    since: str
    target: str
    position: LSN
    """Where the slot takes over."""
    cursor: tuple[str, int] = ("0", 0)
    """Settled up to this xid and id."""


class Checkpoint(Struct, frozen=True, kw_only=True):
    """What was saved last."""

    system: System
    snapshot: str
    lsn: LSN
    flushed: LSN
    reconcile: Reconcile | None


def normal(snapshot: str) -> str:
    """A snapshot that the server gives, as it takes it.

    That of a new slot may end before it begins. Then what is older than its
    beginning is visible, and nothing else; but the server does not read it back.
    """
    xmin, xmax, _ = snapshot.split(":")
    return f"{xmin}:{xmin}:" if int(xmin) > int(xmax) else snapshot


async def load(leadership: Leadership) -> Checkpoint | None:
    """The checkpoint of this consumer; None before its first start."""
    rows = await leadership.rows(
        "load_checkpoint", {"consumer": leadership.consumer}, doing="load the checkpoint"
    )
    if not rows:
        return None

    system_id, timeline, snapshot, lsn, flushed, target, target_lsn, xid, id_ = rows[0]
    reconcile = None
    if target is not None:
        reconcile = Reconcile(
            since=snapshot,
            target=target,
            position=LSN.parse(target_lsn),
            cursor=("0", 0) if xid is None else (xid, id_),
        )

    return Checkpoint(
        system=System(system_id, timeline),
        snapshot=snapshot,
        lsn=LSN.parse(lsn),
        flushed=LSN.parse(flushed),
        reconcile=reconcile,
    )


class Checkpointer:
    """Takes a position, waits until the log is settled up to it, and saves it."""

    # A quiet outbox writes this often all the same, so that a person sees it lives.
    IDLE_SECONDS = 60.0

    # Log of others is passed at most so often, and not for so few bytes: what is
    # written to say so is log, too.
    OTHERS_SECONDS = 1.0
    OTHERS_BYTES = 4096

    def __init__(
        self,
        leadership: Leadership,
        system: System,
        *,
        snapshot: str,
        lsn: LSN,
        flushed: LSN,
        pending: tuple[str, LSN] | None = None,
    ) -> None:
        self.flushed = flushed
        """The place that is saved: what the server may be told."""
        self.durable = flushed
        """The part of it that no crash of the server takes back."""
        # An earlier hold of this process may have settled what it could not save.
        self._jobs = True
        self._leadership = leadership
        self._system = system
        self._snapshot = snapshot
        self._lsn = lsn
        self._pending = pending
        self._saved_at = time.monotonic()
        self._news = True

    @property
    def lsn(self) -> LSN:
        """The place of the last position that was saved."""
        return self._lsn

    def settle(self) -> None:
        """Jobs were settled: there is something to save."""
        self._news = self._jobs = True

    async def keep_up(self, flushed: LSN) -> bool:
        """Save the place alone, if that is worth it. Returns whether it was saved.

        Not waited for to reach the disk: what a crash of the server takes back is
        asked of the log once more.
        """
        others = flushed - self.flushed >= self.OTHERS_BYTES
        due = time.monotonic() - self._saved_at >= self.OTHERS_SECONDS
        if flushed <= self.flushed or not (self._jobs or (others and due)):
            return False

        self._jobs = False
        await self._leadership.fenced(
            "save_flushed", {"flushed": str(flushed)}, doing="save the position"
        )
        self.flushed = flushed
        self._saved_at = time.monotonic()
        return True

    async def step(self, flushed: LSN) -> bool:
        """Take a position, or save the one that was taken. Returns whether one was saved."""
        if self._pending is None or flushed < self._pending[1]:
            overdue = time.monotonic() - self._saved_at >= self.IDLE_SECONDS
            wanted = self._pending is None and (self._news or overdue)
            if wanted:
                self._news = False

            # Asked for in any case, because it shows that the lock is still held: a server
            # that shuts down ends this connection first, and then waits for the slot's.
            ((snapshot, lsn),) = await self._leadership.rows(
                "take_position", doing="take a position"
            )
            if wanted:
                self._pending = snapshot, LSN.parse(lsn)

            return False

        await self.save(flushed)
        return True

    async def save(self, flushed: LSN) -> None:
        """Save the last position whose jobs are all settled, with a newer ``flushed``."""
        if self._pending is not None and flushed >= self._pending[1]:
            self._snapshot, self._lsn = self._pending
            self._pending = None

        await self._leadership.fenced(
            "save_checkpoint",
            {
                "system_id": self._system.system_id,
                "timeline": self._system.timeline,
                "snapshot": self._snapshot,
                "lsn": str(self._lsn),
                "flushed": str(max(flushed, self._lsn)),
            },
            doing="save the checkpoint",
        )
        self.flushed = self.durable = max(flushed, self._lsn)
        self._saved_at = time.monotonic()
