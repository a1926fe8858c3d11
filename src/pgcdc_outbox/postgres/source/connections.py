"""What a hold needs beside the log: connections, and a watch on their server."""

from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.postgres.session import Session
from pgcdc_outbox.postgres.source.lock import Lock
from pgcdc_outbox.postgres.source.shutdown import Shutdown


class Connections:
    """One for statements, and one that has the lock, which may be the same."""

    def __init__(
        self,
        conninfo: str,
        *,
        consumer: str,
        instance: str,
        pooled: bool,
        grace: float,
        beside: Session,
        notice: Notice,
    ) -> None:
        """``beside`` rests with them when a server that shuts down is let go of."""
        self.control = Session(conninfo, name=instance, reconnects=False, prepares=not pooled)
        self._holding = self.control
        if pooled:
            self._holding = Session(conninfo, name=instance, reconnects=False, prepares=False)

        self.lock = Lock(self._holding, in_transaction=pooled)
        self._beside = beside
        self.shutdown = Shutdown(
            self.control, consumer=consumer, grace=grace, let_go=self._rest, notice=notice
        )

    def close(self) -> None:
        """Close both."""
        self.control.close()
        self._holding.close()

    async def _rest(self) -> None:
        """Close all, as soon as no statement runs on them."""
        await self.control.rest()
        await self._holding.rest()
        await self._beside.rest()
