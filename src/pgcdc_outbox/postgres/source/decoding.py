"""From frames of the stream to jobs in the intake, and to positions in the progress."""

import struct
from collections.abc import Callable
from struct import Struct as Layout
from typing import Final

from pgcdc_outbox.consumer.intake import Intake
from pgcdc_outbox.core.deliveries import number
from pgcdc_outbox.core.progress import Progress, Ticket
from pgcdc_outbox.errors import PublicationChanged, StreamCorrupt
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
from pgcdc_outbox.postgres.source.rows import COLUMNS, Decoder, Undecodable, decoder
from pgcdc_outbox.postgres.source.stream import Next

_XLOG_DATA: Final = ord("w")
_BEGIN: Final = ord("B")
_INSERT: Final = ord("I")
_COMMIT: Final = ord("C")
_NEW: Final = ord("N")
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
    """

    def __init__(
        self,
        intake: Intake,
        progress: Progress,
        *,
        consumer: str,
        schema: str | None = None,
        traces: dict[int, int],
        skips_rows: Callable[[], bool],
    ) -> None:
        self._intake = intake
        self._progress = progress
        self._consumer = consumer
        # Whose table alone holds jobs; None takes every table for one of ours.
        self._schema = schema
        self._traces = traces
        self._skips_rows = skips_rows
        self._decoders: dict[int, Decoder] = {}
        self._ticket: Ticket | None = None
        self._in_transaction = False
        self._run: list[Job] = []
        self._run_size = 0
        self.now = 0.0
        """Seconds of a monotonic clock, set by the reader now and then."""
        self.asked = False
        """Whether the server wants an answer; reset by who gives it."""

    def take_in(self, get: Next, limit: int) -> tuple[int, int]:
        """Take in the frames that are there, so many at most.

        Returns how many, and the size that `get` gave last. Raises
        `StreamCorrupt` for a frame that makes no sense.

        This is the hot loop of the consumer. It looks at the three frequent
        messages by their place in the frame, calls as little as it can, and
        hands jobs on by the run, not one by one; ``benchmarks/drain.py``
        guards what that gains.
        """
        run = self._run
        decode_row: Decoder | None = None
        relation = b""
        count = size = 0
        try:
            while count < limit:
                size, view = get(1)
                if size <= 0:
                    break

                count += 1
                # The one copy: a slice of it becomes the payload.
                frame = bytes(view)
                kind = frame[_TYPE_AT] if frame[0] == _XLOG_DATA else None
                if kind == _INSERT:
                    if frame[_OID_AT:_NEW_AT] != relation:
                        relation = frame[_OID_AT:_NEW_AT]
                        decode_row = self._decoders.get(int.from_bytes(relation, "big"))

                    if decode_row is None or frame[_NEW_AT] != _NEW or not self._in_transaction:
                        raise ProtocolError("an insert out of place", what="Insert", offset=0)

                    job = decode_row(frame)
                    if (
                        type(job) is Job
                        and job.attempt == 1
                        and job.expires_us is None
                        and not self._traces
                    ):
                        run.append(job)
                        self._run_size += size
                    elif job is not None:
                        self._single(job)
                elif kind == _COMMIT and size == _COMMIT_SIZE:
                    self._commit(LSN(_COMMIT_END.unpack_from(frame, _END_AT)[0]))
                elif kind == _BEGIN:
                    self._in_transaction = True
                else:
                    self._hand_over()
                    self._other(frame)
                    relation = b""
                    if self._skips_rows():
                        # What comes now is behind rows that were left out.
                        break
        except (ProtocolError, IndexError, struct.error) as error:
            raise StreamCorrupt(
                f"the stream cannot be read after {LSN(self._progress.received)}: {error}"
            ) from error

        self._hand_over()
        return count, size

    def _hand_over(self) -> None:
        """Give the intake the run of jobs that were decoded one after the other."""
        if self._run:
            ticket = self._open_ticket()
            ticket.owed += len(self._run)
            self._intake.put_many(self._run, ticket, self._run_size, self.now)
            self._run.clear()
            self._run_size = 0

    def _single(self, job: Job | Undecodable) -> None:
        """A job that is looked at more closely: it may be known, go alone, or be none."""
        self._hand_over()
        what = job.job if isinstance(job, Undecodable) else job
        if self._traces.get(what.id, 0) >= number(what):
            # The log brings again what an earlier hold has recorded.
            return

        ticket = self._open_ticket()
        ticket.owed += 1
        if isinstance(job, Undecodable):
            self._intake.put_dead(job.job, job.reason, ticket, self.now)
        else:
            self._intake.put(job, ticket, self.now)

    def _open_ticket(self) -> Ticket:
        if self._ticket is None:
            self._ticket = self._progress.begin()

        return self._ticket

    def _commit(self, end: LSN) -> None:
        self._hand_over()
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
                        self._decoders[relation.oid] = self._decoder(relation)
                    case Commit() | Insert():
                        raise ProtocolError("a message of a wrong size", what="frame", offset=0)
                    case _:
                        # Types, origins, logical messages, and the stray abort that
                        # version 18 sends: nothing of ours.
                        pass
            case _:
                # A frame of a newer server: not for us.
                pass

    def _decoder(self, relation: Relation) -> Decoder:
        if self._schema is None:
            return decoder(relation, self._consumer)

        if (relation.namespace, relation.name) != (self._schema, "immediate"):
            # A partition, described beside its root; or a table that somebody has
            # published with ours.
            return _no_job

        decode_row = decoder(relation, self._consumer)
        if missing := set(COLUMNS).difference(column.name for column in relation.columns):
            raise PublicationChanged(
                f"publication of {self._schema}.immediate lacks {', '.join(sorted(missing))}"
            )

        return decode_row


def _no_job(frame: bytes) -> None:
    return None
