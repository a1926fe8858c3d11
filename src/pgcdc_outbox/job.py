"""Jobs: what a producer enqueues and what a handler gets."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeVar, overload

import msgspec
from msgspec import Struct

from pgcdc_outbox.compression import decompress, split
from pgcdc_outbox.errors import PayloadInvalid

T = TypeVar("T")

OnDuplicate = Literal["ignore", "replace", "error"]
"""What becomes of a job whose dedup key is taken."""

JSON_TYPE = "application/json"
BYTES_TYPE = "application/octet-stream"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Failing(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One failed attempt, as it is kept in the error history of a job."""

    attempt: int
    """Which attempt it was, from 1."""
    at: str
    """When it was recorded, ISO 8601 in UTC, by the clock of the server."""
    error: str
    """Class of the exception, or the name of the outcome."""
    text: str
    """Text of the error, bounded."""
    jobs: int = 1
    """How many jobs shared the call that failed; above 1 the culprit is unknown."""


class History(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What happened to a job before the row that was read."""

    created_us: int
    """When the job was first enqueued: microseconds since 1970, UTC."""
    prior_attempts: int = 0
    """Attempts that do not count towards the limit: those made before a person last
    retried it, and those that ended with `Snooze`."""
    errors: tuple[Failing, ...] = ()
    """The failed attempts, oldest first, bounded."""
    parked: int = 0
    """How often it was parked behind another of its key."""
    position: int = 0
    """Its place among the parked jobs; 0 if it was never parked."""


# gc=False: a job holds no reference back to itself, and a million of them
# should cost the collector nothing. Positional: it is the cheapest to build.
class Job(Struct, frozen=True, gc=False):
    """A committed job, as the handler gets it."""

    id: int
    """Its identity for ever; give it to other systems as the idempotency key."""
    topic: str
    """What kind of job it is."""
    payload: bytes
    """The body as it was enqueued."""
    key: str | None = None
    """Ordering key."""
    headers: Mapping[str, Any] = msgspec.field(default_factory=dict)
    """Whatever the producer wants to tell beside the body."""
    content_type: str = JSON_TYPE
    """Media type of the payload."""
    attempt: int = 1
    """Which execution this is, from 1."""
    created_us: int = 0
    """When it was enqueued: microseconds since 1970, UTC."""
    history: History | None = None
    """Earlier attempts; None for a job that was never tried."""
    expires_us: int | None = None
    """After this it is not started any more: microseconds since 1970, UTC; None means never."""

    @property
    def created_at(self) -> datetime:
        """When the job was enqueued, by the clock of the server; aware, UTC."""
        return _EPOCH + timedelta(microseconds=self.created_us)

    @property
    def expires_at(self) -> datetime | None:
        """After this it is not started any more, by the clock of the server; aware, UTC."""
        if self.expires_us is None:
            return None

        return _EPOCH + timedelta(microseconds=self.expires_us)

    @property
    def errors(self) -> tuple[Failing, ...]:
        """The failed attempts before this one, oldest first, bounded."""
        return () if self.history is None else self.history.errors

    @property
    def prior_attempts(self) -> int:
        """Attempts that do not count towards the limit.

        Those made before a person last retried it from the dead letters, and
        those that ended with `Snooze`.
        """
        return 0 if self.history is None else self.history.prior_attempts

    @property
    def parked(self) -> int:
        """How often it was put aside, not executed, because an earlier one of its key failed."""
        return 0 if self.history is None else self.history.parked

    @property
    def position(self) -> int:
        """Its place among the parked jobs of its key; 0 if it was not released from there."""
        return 0 if self.history is None else self.history.position

    @overload
    def json(self) -> Any: ...
    @overload
    def json(self, type: type[T]) -> T: ...
    def json(self, type: Any = Any) -> Any:
        """Decode the payload as JSON, into ``type`` if one is given; unpacked, if it is compressed.

        ``type`` is anything msgspec decodes (Struct, dataclass, TypedDict, the
        builtins and their generics) or a Pydantic model. Raises
        `PayloadInvalid` if the payload is not JSON or does not fit.
        """
        try:
            body = self.payload
            if self.content_type != JSON_TYPE and (packing := split(self.content_type)[1]):
                body = decompress(body, packing)

            if (validate := getattr(type, "model_validate_json", None)) is not None:
                return validate(body)

            return msgspec.json.decode(body, type=type)
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
            raise PayloadInvalid(f"payload of job {self.id} ({self.topic}): {error}") from error

    def __repr__(self) -> str:
        # Without the payload and the headers: they may hold what no log should.
        return (
            f"Job(id={self.id}, topic={self.topic!r}, key={self.key!r}, "
            f"attempt={self.attempt}, payload=<{len(self.payload)} bytes>)"
        )


class NewJob(Struct, frozen=True, kw_only=True):
    """A job to be enqueued, for `Client.enqueue_many`.

    At most one of ``run_at`` (an aware datetime) and ``delay`` (a timedelta, or
    seconds, counted by the clock of the server) may be given, and at most one of
    ``expires_at`` (an aware datetime) and ``time_to_live`` (a timedelta, or seconds,
    counted from the moment when the job may run).

    Of the jobs of a topic that have the same ``dedup_key``, one is enqueued within
    ``dedup_for`` (a timedelta, or seconds; an hour if not given). ``on_duplicate``
    says what becomes of a later one: it is left out ("ignore", the default), takes
    the place of the first if that still waits for its time ("replace"), or is
    refused with `JobDuplicate` ("error").
    """

    payload: Any
    topic: str = "default"
    key: str | None = None
    headers: Mapping[str, str] | None = None
    run_at: datetime | None = None
    delay: timedelta | float | None = None
    expires_at: datetime | None = None
    time_to_live: timedelta | float | None = None
    dedup_key: str | None = None
    dedup_for: timedelta | float | None = None
    on_duplicate: OnDuplicate | None = None
