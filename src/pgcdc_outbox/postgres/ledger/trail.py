"""Where executions are kept that succeeded: many of them in one COPY."""

import struct
import time
from collections.abc import Sequence
from typing import Final

from pgcdc_outbox.consumer.ports import ServerClock
from pgcdc_outbox.core.call import Execution
from pgcdc_outbox.errors import OutboxError
from pgcdc_outbox.postgres.queries import query
from pgcdc_outbox.postgres.session import Session
from pgcdc_outbox.postgres.sqlstate import ledger_error

_DOING: Final = "write down what was executed"

# COPY in binary form, as the manual has it: a signature, rows of fields that say their
# length first, and an end.
_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
_TRAILER: Final = struct.pack("!h", -1)
_NULL: Final = struct.pack("!i", -1)
_FIELDS: Final = 10
_ID_AND_ATTEMPT: Final = struct.Struct("!hiqii").pack
_LENGTH: Final = struct.Struct("!i").pack
_CALL: Final = struct.Struct("!iqidii").pack

# Between 1970, which we count from, and 2000, which the server counts from.
_SERVER_EPOCH_US: Final = 946_684_800_000_000


class PostgresTrail:
    """Writes to ``attempt``, on a session of its own.

    No epoch is asked for: what was executed was executed, whoever holds the
    consumer by now.
    """

    def __init__(
        self,
        session: Session,
        *,
        clock: ServerClock,
        consumer: str,
        schema: str,
        instance: str,
    ) -> None:
        self._session = session
        self._clock = clock
        self._copy = query("copy_attempts", schema)
        self._ends = b"".join(_text(text) for text in (consumer, "done", instance))

    async def write(self, executions: Sequence[Execution]) -> None:
        """Write all of them, durably, or none.

        Raises `LedgerUnavailable` when trying again may help, other `OutboxError` when
        it will not.
        """
        try:
            offset_us = await self._clock.now_us() - _microseconds(time.perf_counter())
            rows = encoded(executions, offset_us=offset_us, ends=self._ends)
            await self._session.copy(self._copy, rows, doing=_DOING)
        except OutboxError as error:
            raise ledger_error(error) from error


def encoded(executions: Sequence[Execution], *, offset_us: int, ends: bytes) -> bytes:
    """The rows as COPY takes them: what differs by job, what differs by call, what never does."""
    topics = _Texts()
    chunks = [_HEADER]
    for execution in executions:
        began_us = _microseconds(execution.call.began) + offset_us - _SERVER_EPOCH_US
        call = _CALL(8, began_us, 8, execution.call.seconds, 4, execution.shared) + ends
        chunks += [
            _ID_AND_ATTEMPT(_FIELDS, 8, job.id, 4, job.attempt)
            + topics[job.topic]
            + (_NULL if job.key is None else _text(job.key))
            + call
            for job in execution.jobs
        ]

    chunks.append(_TRAILER)
    return b"".join(chunks)


class _Texts(dict[str, bytes]):
    """Texts as COPY takes them, each spelled once."""

    def __missing__(self, text: str) -> bytes:
        spelled = self[text] = _text(text)
        return spelled


def _text(text: str) -> bytes:
    spelled = text.encode()
    return _LENGTH(len(spelled)) + spelled


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)
