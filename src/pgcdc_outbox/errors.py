"""Every error this library raises: what may be retried, and what a person should do."""

from typing import ClassVar


class OutboxError(Exception):
    """Base class of every error raised by this library.

    ``transient`` tells whether the same call may succeed later; ``hint`` tells
    a person what to do. Neither the message nor the hint holds a password.
    """

    transient: ClassVar[bool] = False
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = self.default_hint if hint is None else hint


class SettingsError(OutboxError):
    """A setting that makes no sense. The message names the field and where it came from."""


class JobInvalid(OutboxError, ValueError):
    """A job that cannot be enqueued. The message names the field; nothing was sent."""


class JobDuplicate(OutboxError):
    """The dedup key of a job is taken. Nothing was enqueued; ``id`` names the job that has it."""

    default_hint = "Give on_duplicate='ignore' to be content with that job, or 'replace'."

    def __init__(self, message: str, *, id: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.id = id


class PayloadInvalid(OutboxError, ValueError):
    """A payload that cannot be decoded. Trying again will not help."""

    default_hint = "Trying again will not help: fix the producer, or the type asked for."


class ReplayIncomplete(OutboxError):
    """Some jobs of the time that is to be replayed are gone with their partitions."""


class HandlerInvalid(OutboxError, TypeError):
    """A handler that cannot be called with a batch of jobs."""

    default_hint = "A handler takes one argument, the sequence of jobs: `def handle(jobs): ...`."


class RouteInvalid(HandlerInvalid):
    """A function that cannot be a handler of a topic, or routes that contradict each other.

    The message names the function and what is wrong with it.
    """

    default_hint = ""


class ResultInvalid(OutboxError, TypeError):
    """A handler returned something that says nothing about its jobs."""

    default_hint = (
        "Return None (all done), the ids that failed, or a mapping of id to Done, Retry, "
        "Snooze or Dead."
    )


class StreamCorrupt(OutboxError):
    """Bytes from the server that we cannot read. Nothing past them is acknowledged."""

    default_hint = "Nothing was lost: the slot still holds the log. Please report this."


class SourceUnavailable(OutboxError):
    """The server cannot be reached, or ended the connection."""

    transient = True
    default_hint = "Check that the server runs and accepts connections."


class ServerStopping(SourceUnavailable):
    """The server shuts down; this consumer has let go of it, and comes back."""

    default_hint = "Nothing to do: the consumer connects again when the server is back."


class SlotInUse(SourceUnavailable):
    """Another reader holds this consumer: stand by."""

    default_hint = "Another instance runs this consumer; this one takes over when it ends."


class SlotMissing(OutboxError):
    """The replication slot does not exist (any more)."""

    transient = True
    default_hint = "The next start makes a new slot and re-reads unsettled jobs from the table."


class SlotInvalidated(OutboxError):
    """PostgreSQL removed log that the slot had not yet confirmed."""

    transient = True
    default_hint = "The next start makes a new slot and re-reads unsettled jobs from the table."


class SlotBlocked(SourceUnavailable):
    """A lock could not be had in time: a slot waits for every transaction that has written."""

    default_hint = (
        "A transaction that writes is open for long (pg_stat_activity); this is tried again."
    )


class SlotLost(OutboxError):
    """The slot is gone or has a gap, and the settings say not to make another one by itself."""

    default_hint = "Run `pgcdc-outbox slot reconcile`."


class SlotExists(OutboxError):
    """There is a slot already."""

    default_hint = "To put a new one in its place: `pgcdc-outbox slot reconcile`."


class SlotForeign(OutboxError):
    """A slot of our name belongs to another database or another plugin."""

    default_hint = "Drop that slot, or give this consumer another name."


class PublicationMissing(OutboxError):
    """The publication of the outbox does not exist, or does not publish it."""

    default_hint = "Create it again: `pgcdc-outbox migrate --print` shows how."


class PublicationChanged(SourceUnavailable):
    """The publication was changed while it was read: jobs may have been left out.

    They are read from the table, once it is right again.
    """

    default_hint = "The next start makes a new slot and re-reads unsettled jobs from the table."


class WalLevelTooLow(OutboxError):
    """The server writes too little log for logical decoding."""

    default_hint = "alter system set wal_level = 'logical'; then restart the server."


class CheckpointForeign(OutboxError):
    """The saved position belongs to another cluster."""


class PermissionMissing(OutboxError):
    """The role may not do this. The hint is the statement or pg_hba line that mends it."""


class AccessRefused(PermissionMissing):
    """The server runs, and does not let us in.

    At the start that is final. A consumer that had been let in before tries again:
    somebody may be changing a password, or pg_hba.conf.
    """

    default_hint = (
        "Check user, password, the name of the database, pg_hba.conf, and "
        "`grant connect on database`."
    )


class SchemaBehind(OutboxError):
    """The outbox is missing, or older than this version of the library needs."""

    default_hint = "Run `pgcdc-outbox migrate`."


class SchemaAhead(OutboxError):
    """The outbox was migrated by a newer version of the library."""

    default_hint = "Upgrade pgcdc-outbox."


class MigrationChanged(OutboxError):
    """A migration that was applied differs from the one in this version."""

    default_hint = (
        "Install the version that applied it, or compare with `pgcdc-outbox migrate --print`."
    )


class MigrationBlocked(OutboxError):
    """A lock could not be had in time, so that producers are not kept waiting."""

    transient = True
    default_hint = "A long transaction holds the tables; try again when it has ended."


class TransactionMissing(OutboxError, ValueError):
    """The connection given as ``tx`` is in autocommit mode with no transaction open."""

    default_hint = "Open a transaction first, or leave tx out to commit the job on its own."


class LedgerUnavailable(OutboxError):
    """Outcomes could not be written. The batch is not acknowledged."""

    transient = True
    default_hint = "Jobs are safe in the log; check the server and its disk."


class Fenced(OutboxError):
    """Another instance took over this consumer; this one wrote nothing more."""

    transient = True
    default_hint = "Another instance runs this consumer now; this one stands by."


class NotCommitted(OutboxError):
    """The transaction of a call was rolled back, and everything with it. ``cause`` is why."""

    transient = True
    default_hint = "Nothing of it happened; its jobs are tried again as the policy says."

    def __init__(self, message: str, *, cause: Exception) -> None:
        super().__init__(message)
        self.cause = cause


class TransactionOwned(OutboxError, RuntimeError):
    """A handler wanted to begin or end a transaction that the consumer owns."""

    default_hint = (
        "The consumer commits it with the outcome of the job. To undo what was done, raise. "
        "For a transaction of your own open a connection of your own; for savepoints use "
        "`connection.unsafe`."
    )


class TransactionOver(OutboxError, RuntimeError):
    """A connection was used after the part of the transaction that it was for."""

    default_hint = "It is of use until the handler returns: ask for another one in each call."
