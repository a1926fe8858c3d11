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
    ProtocolError,
    Relation,
    XLogData,
    decode,
    decode_frame,
)
from pgcdc_outbox.postgres.source.rows import (
    COLUMNS,
    Decoder,
    FreshDecoder,
    Undecodable,
    decoder,
    fresh_decoder,
)
from pgcdc_outbox.postgres.source.stream import Frame, Next, Receive

_XLOG_DATA: Final = ord("w")
_KEEPALIVE: Final = ord("k")
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
# ... and in one that carries a begin, behind the time when it was sent: type, the
# commit's position, its time.
_SENT_AT: Final = 17
_BEGIN_SIZE: Final = 46
_BEGIN_TIMES: Final = Layout(">q9xq")
# A keepalive follows every transaction of a server that has nothing else to send: where
# its log ends, when it was sent, whether it wants an answer.
_ALIVE: Final = Layout(">xQ8x?")


# A server blocks when a few hundred messages wait in a Unix socket: the socket is emptied
# after so many, into libpq's memory, and so often at most before that is empty.
_RECEIVE_EVERY: Final = 64
_RECEIVE_AHEAD: Final = 32


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
        self._fresh: FreshDecoder = _not_fresh
        self._ticket: Ticket | None = None
        self._in_transaction = False
        self._received = 0
        # Jobs that were not handed over yet, and after how many of them a transaction came
        # to its end with which frame.
        self._run: list[Job] = []
        self._run_size = 0
        self._ends: list[tuple[int, Frame]] = []
        self.now = 0.0
        """Seconds of a monotonic clock, set by the reader now and then."""
        self.late = 0.0
        """How many seconds ago the last transaction was committed when it was sent."""
        self.asked = False
        """Whether the server wants an answer; reset by who gives it."""

    def take_in(self, get: Next, receive: Receive, limit: int) -> tuple[int, int]:
        """Take in the frames that are there, so many at most.

        Returns how many, and the size that `get` gave last. Raises
        `StreamCorrupt` for a frame that makes no sense.

        This is the hot loop of the consumer. It looks at the three frequent
        messages by their place in the frame, allocates nothing for the beginning
        and the end of a transaction, calls as little as it can, and hands jobs on
        by the run, not one by one; ``benchmarks/drain.py`` guards what that gains.
        """
        run, ends, fresh, traces = self._run, self._ends, self._fresh, self._traces
        count = size = 0
        received = False
        begin: Frame | None = None
        try:
            while count < limit:
                size, view = get(1)
                if size <= 0:
                    if size or received:
                        break

                    receive()
                    received = True
                    self._received = 0
                    continue

                received = False
                count += 1
                if not count % _RECEIVE_EVERY and self._received < _RECEIVE_AHEAD:
                    receive()
                    self._received += 1

                kind = view[_TYPE_AT] if view[0] == _XLOG_DATA else None
                if kind == _INSERT and self._in_transaction:
                    # The one copy: a slice of it becomes the payload.
                    frame = bytes(view)
                    if (job := fresh(frame)) is None or (traces and job.id in traces):
                        self._look_closely(frame)
                    else:
                        run.append(job)
                        self._run_size += size
                elif kind == _COMMIT and size == _COMMIT_SIZE:
                    self._in_transaction = False
                    ends.append((len(run), view))
                elif kind == _BEGIN and size == _BEGIN_SIZE:
                    self._in_transaction, begin = True, view
                else:
                    self._hand_over()
                    self._other(bytes(view))
                    fresh = self._fresh
                    if self._skips_rows():
                        # What comes now is behind rows that were left out.
                        break
        except (ProtocolError, IndexError, struct.error) as error:
            raise StreamCorrupt(
                f"the stream cannot be read after {LSN(self._progress.received)}: {error}"
            ) from error

        if begin is not None:
            sent, committed = _BEGIN_TIMES.unpack_from(begin, _SENT_AT)
            self.late = (sent - committed) / 1e6

        self._hand_over()
        return count, size

    def _hand_over(self) -> None:
        """Give the intake the jobs that were decoded one after the other.

        Small transactions that end up in one batch share a ticket: it is settled as a
        whole, and so is their position.
        """
        run = self._run
        each = self._run_size // len(run) if run else 0
        given = complete = 0
        room = self._intake.room_in_batch
        commit: Frame | None = None
        for place, frame in self._ends:
            if place - given > room and complete > given:
                self._give(run[given:complete], each)
                self._end(commit)
                given, room = complete, self._intake.room_in_batch

            complete, commit = place, frame

        if self._ends:
            self._give(run[given:complete], each)
            self._end(commit)

        self._give(run[complete:], each)
        run.clear()
        self._ends.clear()
        self._run_size = 0

    def _give(self, jobs: list[Job], each: int) -> None:
        if jobs:
            ticket = self._open_ticket()
            ticket.owed += len(jobs)
            self._intake.put_many(jobs, ticket, each * len(jobs), self.now)

    def _look_closely(self, frame: bytes) -> None:
        """A row that is not the usual one."""
        row = self._row(frame)
        if type(row) is Job and not self._is_special(row):
            self._run.append(row)
            self._run_size += len(frame)
        elif row is not None:
            self._hand_over()
            self._single(row)

    def _row(self, frame: bytes) -> Job | Undecodable | None:
        """A row of any relation; None if it is none of ours."""
        decode_row = self._decoders.get(int.from_bytes(frame[_OID_AT:_NEW_AT], "big"))
        if decode_row is None or frame[_NEW_AT] != _NEW:
            raise ProtocolError("an insert out of place", what="Insert", offset=0)

        return decode_row(frame)

    def _is_special(self, job: Job) -> bool:
        """Whether a job may go alone, may not be started any more, or is known already."""
        return job.attempt > 1 or job.expires_us is not None or job.id in self._traces

    def _single(self, job: Job | Undecodable) -> None:
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

    def _end(self, commit: Frame | None) -> None:
        """The transactions that share the open ticket came to their end."""
        assert commit is not None
        end = LSN(_COMMIT_END.unpack_from(commit, _END_AT)[0])
        ticket, self._ticket = self._ticket, None
        if ticket is None:
            self._progress.observe(end)
        else:
            self._progress.commit(ticket, end)

    def _keepalive(self, frame: bytes) -> None:
        wal_end, asked = _ALIVE.unpack(frame)
        # After skipped rows it would acknowledge them.
        if not self._skips_rows():
            self._progress.observe(LSN(wal_end))

        self.asked = self.asked or asked

    def _other(self, frame: bytes) -> None:
        if frame[0] == _KEEPALIVE:
            self._keepalive(frame)
            return

        match decode_frame(frame):
            case XLogData(payload=payload):
                match decode(payload):
                    case Relation() as relation:
                        self._describe(relation)
                    case Insert():
                        raise ProtocolError("an insert out of place", what="Insert", offset=0)
                    case Commit():
                        raise ProtocolError("a message of a wrong size", what="frame", offset=0)
                    case _:
                        # Types, origins, logical messages, and the stray abort that
                        # version 18 sends: nothing of ours.
                        pass
            case _:
                # A frame of a newer server: not for us.
                pass

    def _describe(self, relation: Relation) -> None:
        decode_row = self._decoders[relation.oid] = self._decoder(relation)
        if decode_row is not _no_job:
            self._fresh = fresh_decoder(relation) or _not_fresh

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


def _not_fresh(frame: bytes) -> None:
    """Stands for a reader of usual rows, where none is known."""
    return
