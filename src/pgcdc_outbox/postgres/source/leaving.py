"""Leaving a slot: because its part is done, or because it endangers the server."""

import anyio

from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.events import SlotReleased
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.postgres.source.leadership import Leadership


class Leaving:
    """Knows when a slot is to be left, so that another feed goes on."""

    def __init__(
        self,
        leadership: Leadership,
        slot: str,
        *,
        at: LSN | None,
        max_retained: int | None,
        notice: Notice,
    ) -> None:
        """``at`` is the place where its part is done, ``max_retained`` the bytes it may keep."""
        self._leadership = leadership
        self._slot = slot
        self._at = at
        self._max_retained = max_retained
        self._notice = notice
        self._over = anyio.Event()
        self.released = False
        """Whether the slot was left because it endangers the server."""

    async def over(self) -> None:
        """Return when the slot is to be left."""
        await self._over.wait()

    def move(self, flushed: LSN) -> None:
        """The position moved."""
        if self._at is not None and flushed >= self._at:
            self._over.set()

    def again_from(self, flushed: LSN, saved: LSN) -> LSN:
        """What was settled before it does not come again, whoever reads next.

        Who leaves the slot goes on from a snapshot, and that is older than ``flushed``:
        ``saved`` is the place of the last one.
        """
        horizon = flushed if self._at is None else min(flushed, self._at)
        return horizon if self._max_retained is None else min(horizon, saved)

    async def look_at_retained(self) -> None:
        """Leave the slot rather than let the server's disk fill up."""
        if self._max_retained is None:
            return

        retained = await self._retained()
        if retained > self._max_retained and not self._over.is_set():
            self._notice(
                SlotReleased(
                    consumer=self._leadership.consumer, slot=self._slot, retained_bytes=retained
                )
            )
            self.released = True
            self._over.set()

    async def forget(self) -> None:
        """If the slot is to be left, note that no slot continues the checkpoint."""
        if self._over.is_set():
            await self._leadership.fenced("forget_slot", {}, doing="leave the slot")

    async def _retained(self) -> int:
        """Bytes of log that the slot keeps; 0 if that cannot be told."""
        rows = await self._leadership.rows(
            "retained", {"slot": self._slot}, doing="look how much log the slot keeps"
        )
        return rows[0][0] or 0 if rows else 0
