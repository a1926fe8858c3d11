"""Whether a hold has settled something that cannot come again, even after a crash."""

from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.postgres.source.leadership import Leadership


class Advance:
    """Remembers the first position that passed a settled job, and asks the server for it.

    What was reported is not enough: a report may be lost with its process, and
    then a job that kills the process would look like progress at every start.
    """

    def __init__(self, leadership: Leadership, slot: str) -> None:
        self._leadership = leadership
        self._slot = slot
        self._settled = False
        self._passed = LSN(0)

    def settle(self) -> None:
        """Jobs were settled; the position may not have passed them yet."""
        self._settled = True

    def move(self, flushed: LSN) -> None:
        """The position moved. It never passes a job that is not settled."""
        if self._settled and not self._passed:
            self._passed = flushed

    async def confirmed(self) -> bool:
        """Whether the server knows of it."""
        if not self._passed:
            return False

        rows = await self._leadership.rows(
            "confirmed", {"slot": self._slot}, doing="ask how far the slot is"
        )
        return any(LSN.parse(position) >= self._passed for (position,) in rows)
