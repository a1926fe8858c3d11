"""What happens, told to observers as values.

An event is told at the moment it names, on the event loop, before anything
that follows from it: a test that kills the process in an observer kills it
at exactly that point.
"""

from msgspec import Struct

from pgcdc_outbox.lsn import LSN


class Event(Struct, frozen=True, kw_only=True):
    """Base class of all events."""

    consumer: str


class Connecting(Event, frozen=True, kw_only=True):
    """An attempt to reach the server begins."""


class StandingBy(Event, frozen=True, kw_only=True):
    """Another instance holds this consumer; told once for each time of waiting."""

    holder: str


class PredecessorEnded(Event, frozen=True, kw_only=True):
    """A process that had this consumer before, and still kept its slot busy, was ended."""

    slot: str
    reader: str
    waited_seconds: float


class SlotCreated(Event, frozen=True, kw_only=True):
    """A new slot was made, because there was none that continues the checkpoint."""

    slot: str
    position: LSN
    reason: str


class Reconciling(Event, frozen=True, kw_only=True):
    """Jobs that no slot can bring are re-read from the table."""

    jobs: int


class Reconciled(Event, frozen=True, kw_only=True):
    """Every job committed before the slot is settled; the log takes over."""

    jobs: int


class Streaming(Event, frozen=True, kw_only=True):
    """The log is being read."""

    position: LSN


class Polling(Event, frozen=True, kw_only=True):
    """The table is being polled."""

    position: LSN


class SlotReleased(Event, frozen=True, kw_only=True):
    """The server keeps more log for the slot than it should: the table is polled instead."""

    slot: str
    retained_bytes: int


class LogUnavailable(Event, frozen=True, kw_only=True):
    """The log cannot be read now: the table is polled instead."""

    error: str
    hint: str


class BatchStarted(Event, frozen=True, kw_only=True):
    """A handler is about to be called."""

    jobs: int
    first_id: int


class BatchHandled(Event, frozen=True, kw_only=True):
    """A handler returned or raised; nothing is recorded yet."""

    jobs: int
    failed: int
    seconds: float


class OutcomesRecorded(Event, frozen=True, kw_only=True):
    """What is not done of a batch is durable."""

    retried: int
    dead: int
    snoozed: int = 0


class BatchSettled(Event, frozen=True, kw_only=True):
    """Every job of a batch is settled."""

    jobs: int


class JobDead(Event, frozen=True, kw_only=True):
    """A job went to the dead letters."""

    id: int
    topic: str
    reason: str


class JobsParked(Event, frozen=True, kw_only=True):
    """Jobs were put aside, because an earlier one of their key is not finished."""

    jobs: int


class JobsReleased(Event, frozen=True, kw_only=True):
    """What keys waited for is finished: the next parked jobs of each are back in line."""

    keys: int
    free: int
    """Of how many of them no job is parked any more."""


class OrderGivenUp(Event, frozen=True, kw_only=True):
    """Order is not strict any more: whatever was parked is back in line."""

    keys: int


class CarefulBegan(Event, frozen=True, kw_only=True):
    """The process died several times in a row: jobs run one by one, each noted before."""

    crashes: int


class CarefulEnded(Event, frozen=True, kw_only=True):
    """Jobs run in batches again."""

    because: str


class JobCrashed(Event, frozen=True, kw_only=True):
    """An execution that ended with its process was recorded as a failure."""

    id: int
    topic: str
    attempt: int


class Reported(Event, frozen=True, kw_only=True):
    """The server was told how far we are."""

    flushed: LSN


class CheckpointSaved(Event, frozen=True, kw_only=True):
    """The durable position moved."""

    position: LSN


class Promoted(Event, frozen=True, kw_only=True):
    """Jobs that fell due were put back in line."""

    scheduled: int
    failed: int


class SchedulesFired(Event, frozen=True, kw_only=True):
    """Jobs were enqueued because their schedules were due."""

    jobs: int


class Maintained(Event, frozen=True, kw_only=True):
    """Maintenance changed something, or could not."""

    created: int
    dropped: int
    kept: tuple[str, ...]


class ChoreFailed(Event, frozen=True, kw_only=True):
    """Promotion, maintenance or the ledger failed and will be tried again."""

    chore: str
    error: str
    delay_seconds: float


class LoopStalled(Event, frozen=True, kw_only=True):
    """The event loop did not run for so long that reports were late: something blocks it."""

    seconds: float


class Disconnected(Event, frozen=True, kw_only=True):
    """The connection ended; the next attempt follows after the delay."""

    error: str
    hint: str
    delay_seconds: float


class ServerDraining(Event, frozen=True, kw_only=True):
    """The server shuts down: nothing new is handed out, and it is let go of after the grace."""

    sign: str
    grace_seconds: float


class Stopping(Event, frozen=True, kw_only=True):
    """A stop was asked for: nothing more is read, running handlers finish."""


class HandlersAbandoned(Event, frozen=True, kw_only=True):
    """Handlers did not end in time and were cancelled. Their jobs are safe in the log."""

    batches: int


class Stopped(Event, frozen=True, kw_only=True):
    """The consumer ended, as it was asked to, and let go of everything; also if it held nothing."""

    flushed: LSN
    """What the last hold had confirmed; 0 if there was none."""
