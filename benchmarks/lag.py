"""How far a slot is behind, looked at again and again."""

import threading
import time
from types import TracebackType
from typing import Final, Self

import psycopg

_PAUSE_SECONDS: Final = 0.5
_LAG: Final = """
select pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::float8
from pg_replication_slots
where slot_name = %s
"""


class Lag:
    """The bytes of log that a slot has not confirmed, twice a second within a block."""

    def __init__(self, dsn: str, slot: str) -> None:
        self._dsn = dsn
        self._slot = slot
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.bytes: list[tuple[float, float]] = []
        """Seconds since the block began, and the lag."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def told(self) -> dict[str, float]:
        """For a sample: the most, and what the second half has above the first on average."""
        values = [lag for _, lag in self.bytes] or [0.0]
        half = len(values) // 2 or 1
        first, second = values[:half], values[half:] or values[:half]
        growth = sum(second) / len(second) - sum(first) / len(first)
        return {"largest lag kiB": max(values) / 1024, "lag growth kiB": growth / 1024}

    def _look(self) -> None:
        started = time.monotonic()
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._ended.wait(_PAUSE_SECONDS):
                if (row := connection.execute(_LAG, [self._slot]).fetchone()) is not None:
                    self.bytes.append((round(time.monotonic() - started, 2), row[0]))
