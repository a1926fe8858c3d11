"""From frames of the stream to jobs in the intake, and to positions in the progress."""

import struct
from collections.abc import Callable
from struct import Struct as Layout
from typing import Final

from pgcdc_outbox.consumer.intake import Intake
from pgcdc_outbox.core.progress import Progress, Ticket
from pgcdc_outbox.errors import StreamCorrupt
from pgcdc_outbox.job import Job
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.pgoutput import (
    Commit,
    Insert,
    PrimaryKeepalive,
    ProtocolError,
    Relation,
    XLogData,
    decode,
    decode_frame,
)
from pgcdc_outbox.postgres.rows import Decoder, Undecodable, decoder

_XLOG_DATA: Final = ord("w")
_BEGIN: Final = ord("B")
_INSERT: Final = ord("I")
_COMMIT: Final = ord("C")
_NEW: Final = ord("N")
_RELATION_OID: Final = Layout(">I")
_COMMIT_END: Final = Layout(">Q")

# Where things are in a frame that carries an insert: after the frame's own 25
# bytes the type, the relation and the letter N.
_TYPE_AT: Final = 25
_OID_AT: Final = 26
_NEW_AT: Final = 30
# ... and in one that carries a commit: type, flags, the commit's position, its end.
_END_AT: Final = 35
_COMMIT_SIZE: Final = 51


class Decoding:
    """Understands one connection's stream, in protocol version 1.

    Jobs are handed out before their commit arrives: a transaction is sent only
    after it was committed, and a huge one must not be gathered here first.

    `on_frame` is hot, and for that reason looks at the three frequent messages
    by their place in the frame; ``benchmarks/drain.py`` guards what it gains.
    """

    def __init__(
        self,
        intake: Intake,
        progress: Progress,
        *,
        consumer: str,
        traces: dict[int, int],
        skips_rows: Callable[[], bool],
    ) -> None:
        self._put = intake.put
        self._put_dead = intake.put_dead
        self._progress = progress
        self._consumer = consumer
        self._traces = traces
        self._skips_rows = skips_rows
        self._decoders: dict[int, Decoder] = {}
        self._ticket: Ticket | None = None
        self._in_transaction = False
        self.now = 0.0
        """Seconds of a monotonic clock, set by the reader now and then."""
        self.heard = 0
        """How many frames came."""
        self.asked = False
        """Whether the server wants an answer; reset by who gives it."""

    def on_frame(self, frame: bytes) -> None:
        """Take in one frame. Raises `StreamCorrupt` for one that makes no sense."""
        self.heard += 1
        try:
            if frame[0] == _XLOG_DATA:
                kind = frame[_TYPE_AT]
                if kind == _INSERT:
                    self._insert(frame)
                    return

                if kind == _COMMIT and len(frame) == _COMMIT_SIZE:
                    self._commit(LSN(_COMMIT_END.unpack_from(frame, _END_AT)[0]))
                    return

                if kind == _BEGIN:
                    self._in_transaction = True
                    return

            self._other(frame)
        except (ProtocolError, IndexError, struct.error) as error:
            raise StreamCorrupt(
                f"the stream cannot be read after {LSN(self._progress.received)}: {error}"
            ) from error

    def _insert(self, frame: bytes) -> None:
        decode_row = self._decoders.get(_RELATION_OID.unpack_from(frame, _OID_AT)[0])
        if decode_row is None or frame[_NEW_AT] != _NEW or not self._in_transaction:
            raise ProtocolError("an insert out of place", what="Insert", offset=_TYPE_AT)

        job = decode_row(frame)
        if job is None:
            return

        if (ticket := self._ticket) is None:
            ticket = self._ticket = self._progress.begin()

        if isinstance(job, Undecodable):
            if not self._recorded(job.job):
                ticket.owed += 1
                self._put_dead(job.job, job.reason, ticket, self.now)
        elif not self._traces or not self._recorded(job):
            ticket.owed += 1
            self._put(job, ticket, self.now)

    def _recorded(self, job: Job) -> bool:
        """Whether the log brings again what an earlier hold has recorded."""
        return self._traces.get(job.id, 0) >= job.attempt

    def _commit(self, end: LSN) -> None:
        self._in_transaction = False
        ticket, self._ticket = self._ticket, None
        if ticket is None:
            self._progress.observe(end)
        else:
            self._progress.commit(ticket, end)

    def _other(self, frame: bytes) -> None:
        match decode_frame(frame):
            case PrimaryKeepalive(wal_end, _, reply_requested):
                # A keepalive after skipped rows would acknowledge them.
                if not self._skips_rows():
                    self._progress.observe(LSN(wal_end))

                self.asked = self.asked or reply_requested
            case XLogData(payload=payload):
                match decode(payload):
                    case Relation() as relation:
                        self._decoders[relation.oid] = decoder(relation, self._consumer)
                    case Commit() | Insert():
                        raise ProtocolError("a message of a wrong size", what="frame", offset=0)
                    case _:
                        # Types, origins, logical messages, and the stray abort that
                        # version 18 sends: nothing of ours.
                        pass
            case _:
                # A frame of a newer server: not for us.
                pass
