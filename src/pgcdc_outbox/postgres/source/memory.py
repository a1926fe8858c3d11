"""What a process knows of a consumer beyond what is saved: from one of its holds to the next."""

from collections.abc import Mapping

from msgspec import Struct

from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.postgres.source.checkpoint import System


class Memory(Struct, frozen=True, kw_only=True):
    """Left by the last hold of this process, for the next."""

    system: System | None = None
    """The history it belongs to."""
    flushed: LSN = LSN(0)
    """Everything before it is settled; what the server was told at most."""
    settled: Mapping[int, int] = {}
    """Attempts by job that are settled although they may come again."""

    def of(self, system: System) -> "Memory":
        """What is still true in this history.

        In another one, what is remembered may be of transactions that never
        were, and ids are given out again.
        """
        return self if self.system == system else Memory(system=system)
