"""Where the slot stands, asked again and again while a scenario runs."""

import threading
import time
from types import TracebackType
from typing import Self

import psycopg
from msgspec import Struct

from tests.faults.truth import position

_PAUSE = 0.03

# Only of a slot that a consumer goes by: one that was made just before its maker was killed
# continues nothing, and is made again.
_STATEMENT = """
select s.confirmed_flush_lsn::text, k.target_lsn::text
from pg_replication_slots as s
join outbox.consumer as c on c.slot = s.slot_name
left join outbox.checkpoint as k on k.consumer = c.name
where s.database = current_database() and s.confirmed_flush_lsn is not null
"""


class Sample(Struct, frozen=True, kw_only=True):
    """What the server said it may forget."""

    at: float
    """When the answer was here: the position was true at some time before."""
    confirmed: int


class Sampler:
    """Asks during a block, also while the server is away now and then."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self.samples: list[Sample] = []
        self.begun: set[int] = set()
        """Where slots began, as far as jobs from before that were still read from the table."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.is_set():
            try:
                with psycopg.connect(self._dsn, autocommit=True, connect_timeout=2) as connection:
                    self._ask(connection)
            except psycopg.Error:
                self._done.wait(_PAUSE)

    def _ask(self, connection: psycopg.Connection) -> None:
        while not self._done.is_set():
            for text, begun in connection.execute(_STATEMENT).fetchall():
                self.samples.append(Sample(at=time.monotonic(), confirmed=position(text)))
                if begun is not None:
                    self.begun.add(position(begun))

            self._done.wait(_PAUSE)
