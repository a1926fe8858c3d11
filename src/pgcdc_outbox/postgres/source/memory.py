"""What a process knows of a consumer beyond what is saved: from one of its holds to the next."""

from collections.abc import Mapping

from msgspec import Struct

from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.postgres.source.checkpoint import System


class Memory(Struct, frozen=True, kw_only=True):
    """Left by the last hold of this process, for the next."""

    system: System | None = None
    """The history it belongs to."""
    epoch: int = 0
    """Of that hold."""
    saved: LSN = LSN(0)
    """The last place that it saved for good: a server that crashed still has it."""
    flushed: LSN = LSN(0)
    """Everything before it is settled; what the server was told at most."""
    settled: Mapping[int, int] = {}
    """The last delivery of a job that is settled although it may come again; see `deliveries`."""

    def of(self, system: System, *, epoch: int, saved: LSN) -> "Memory":
        """What is still true for a hold of this epoch, which found this place saved.

        In another history, or when the server was set back to an earlier state, what
        is remembered may be of transactions that never were, and ids are given out
        again.
        """
        goes_on = self.system == system and epoch > self.epoch and saved >= self.saved
        return self if goes_on else Memory(system=system)
