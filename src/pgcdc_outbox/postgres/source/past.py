"""What a process knows of the holds before: of its own, of one consumer."""

import time

from pgcdc_outbox.core.switching import Switching
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.postgres.source.checkpoint import Checkpoint
from pgcdc_outbox.postgres.source.leadership import Leadership
from pgcdc_outbox.postgres.source.memory import Memory


class Past:
    """Handed from one hold to the next."""

    def __init__(self) -> None:
        self.memory = Memory()
        """What the last hold left."""
        self.lost = ""
        """Why the slot was given up; empty if it was not."""
        self._switching = Switching()

    @property
    def polls_until(self) -> float:
        """When the log may be tried again, by the monotonic clock."""
        return self._switching.polls_until()

    def left_log(self) -> None:
        """The log could not be read, or was left."""
        self._switching.left(time.monotonic())

    def believe(self, leadership: Leadership, checkpoint: Checkpoint | None) -> None:
        """Forget what is remembered of another history: it is worth nothing in this one."""
        self.memory = self.memory.of(
            leadership.system,
            epoch=leadership.epoch,
            saved=LSN(0) if checkpoint is None else checkpoint.flushed,
        )
