"""Rows to be enqueued: everything is checked here, before anything is sent.

Pure: it reads no clock. What depends on the time is left to the server's.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, get_args

import msgspec
from msgspec import Struct

from pgcdc_outbox.codec import Encode
from pgcdc_outbox.errors import JobInvalid, SettingsError
from pgcdc_outbox.job import NewJob, OnDuplicate
from pgcdc_outbox.payload import encode as as_json
from pgcdc_outbox.postgres.producer.moments import check_end, moment, seconds

MAX_TOPIC_BYTES: Final = 255
MAX_KEY_BYTES: Final = 1024
MAX_PAYLOAD_BYTES: Final = 8 * 1024 * 1024
DEDUP_FOR: Final = timedelta(hours=1)

# What the tables take at most.
_TABLE_PAYLOAD_BYTES: Final = 256 * 1024 * 1024

# What `check` takes of a job, in its order.
_FIELDS: Final = attrgetter(
    "payload",
    "topic",
    "key",
    "headers",
    "run_at",
    "delay",
    "expires_at",
    "time_to_live",
    "dedup_key",
    "dedup_for",
    "on_duplicate",
)


class Once(Struct, frozen=True, gc=False):
    """That a job is not to be enqueued twice."""

    key: str
    seconds: float
    """How long the key is taken, from when it is enqueued."""
    on_duplicate: OnDuplicate


class Row(Struct, frozen=True, gc=False):
    """A job that was checked, as the values of its columns."""

    topic: str
    payload: bytes
    key: str | None = None
    headers: str | None = None
    """A JSON object."""
    content_type: str | None = None
    run_at: datetime | None = None
    """In UTC."""
    delay: float | None = None
    """Seconds, above zero."""
    expires_at: datetime | None = None
    """In UTC."""
    time_to_live: float | None = None
    """Seconds from the moment when it may run, above zero."""
    once: Once | None = None
    """Whether a key stands for it."""

    @property
    def run_at_text(self) -> str | None:
        """ISO 8601, which the server reads alike whatever its settings are."""
        return None if self.run_at is None else self.run_at.isoformat()

    @property
    def expires_at_text(self) -> str | None:
        """The same for the moment when it expires."""
        return None if self.expires_at is None else self.expires_at.isoformat()

    @property
    def expires(self) -> bool:
        """Whether it expires at all."""
        return self.expires_at is not None or self.time_to_live is not None


def check(
    payload: Any,
    topic: str = "default",
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    run_at: datetime | None = None,
    delay: timedelta | float | None = None,
    expires_at: datetime | None = None,
    time_to_live: timedelta | float | None = None,
    dedup_key: str | None = None,
    dedup_for: timedelta | float | None = None,
    on_duplicate: OnDuplicate | None = None,
    *,
    max_payload_bytes: int = MAX_PAYLOAD_BYTES,
    encode: Encode = as_json,
) -> Row:
    """The row of one job. Raises `JobInvalid`, naming the field.

    Every job pays for it, so what a plain one does not have costs it no call
    (guarded by `benchmarks/cases/enqueue.py` and `bulk.py`).
    """
    # Only a str itself can be looked up; anything else is looked at each time.
    if topic.__class__ is str:
        _check_known_topic(topic)
    else:
        _check_topic(topic)

    if key is not None:
        _check_text("key", key, MAX_KEY_BYTES)

    body, content_type = encode(payload)
    if len(body) > max_payload_bytes:
        raise JobInvalid(
            f"payload: {len(body)} bytes, and the limit is {max_payload_bytes}",
            hint="Store it elsewhere and send a reference, or raise max_payload_bytes.",
        )

    facts = None if headers is None else _headers(headers)
    once = None
    if dedup_key is not None or dedup_for is not None or on_duplicate is not None:
        once = _once(dedup_key, dedup_for, on_duplicate)

    if run_at is None and delay is None and expires_at is None and time_to_live is None:
        return Row(topic, body, key, facts, content_type, once=once)

    start = moment("run_at", run_at, "delay", delay)
    end = moment("expires_at", expires_at, "time_to_live", time_to_live)
    check_end(start, end, time_to_live)
    return Row(topic, body, key, facts, content_type, *start, *end, once=once)


def check_many(
    jobs: Iterable[NewJob],
    *,
    max_payload_bytes: int = MAX_PAYLOAD_BYTES,
    encode: Encode = as_json,
) -> list[Row]:
    """The rows of several jobs. Raises `JobInvalid`, naming the job and the field."""
    if isinstance(jobs, (NewJob, str, bytes, Mapping)) or not isinstance(jobs, Iterable):
        raise JobInvalid(
            f"jobs: a {type(jobs).__name__} is given", hint="Give a list of NewJob(payload=...)."
        )

    rows = []
    for index, job in enumerate(jobs):
        if not isinstance(job, NewJob):
            raise JobInvalid(
                f"jobs[{index}]: a {type(job).__name__} is given",
                hint="Wrap it: NewJob(payload=...).",
            )

        try:
            row = check(*_FIELDS(job), max_payload_bytes=max_payload_bytes, encode=encode)
        except JobInvalid as error:
            raise JobInvalid(f"jobs[{index}].{error}", hint=error.hint) from error

        rows.append(row)

    return rows


def check_limit(max_payload_bytes: int) -> int:
    """The limit itself. Raises `SettingsError`."""
    if not 0 < max_payload_bytes <= _TABLE_PAYLOAD_BYTES:
        raise SettingsError(
            f"max_payload_bytes: {max_payload_bytes} is not within 1 and {_TABLE_PAYLOAD_BYTES}"
        )

    return max_payload_bytes


def _check_topic(topic: str) -> None:
    _check_text("topic", topic, MAX_TOPIC_BYTES)
    if not topic:
        raise JobInvalid("topic: is empty", hint="Leave it out for 'default'.")


# Topics are few, and come again and again. What raises is not kept.
_check_known_topic: Final = lru_cache(maxsize=1024)(_check_topic)


def _check_text(field: str, text: str, limit: int) -> None:
    if not isinstance(text, str):
        raise JobInvalid(f"{field}: a {type(text).__name__} is given", hint="Give a str.")

    if "\0" in text:
        raise JobInvalid(f"{field}: has a NUL character, which PostgreSQL cannot store as text")

    # ASCII is the common case: one byte each, and no surrogates.
    size = len(text) if text.isascii() else len(_utf8(field, text))
    if size > limit:
        raise JobInvalid(f"{field}: {size} bytes in UTF-8, and the limit is {limit}")


def _utf8(field: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise JobInvalid(f"{field}: has a lone surrogate, which UTF-8 cannot hold") from None


def _headers(headers: Mapping[str, str]) -> str | None:
    if not isinstance(headers, Mapping):
        raise JobInvalid(
            f"headers: a {type(headers).__name__} is given", hint="Give a mapping of str to str."
        )

    for name, value in headers.items():
        for part in (name, value):
            if not isinstance(part, str):
                raise JobInvalid(
                    f"headers[{name!r:.80}]: a {type(part).__name__} is given",
                    hint="Headers are text; put other values into the payload, or use str(value).",
                )

            if "\0" in part:
                raise JobInvalid(f"headers[{name!r:.80}]: has a NUL character")

            _utf8(f"headers[{name!r:.80}]", part)

    return msgspec.json.encode(dict(headers)).decode() if headers else None


def _once(
    key: str | None, duration: timedelta | float | None, on_duplicate: OnDuplicate | None
) -> Once | None:
    if key is None:
        for field, value in (("dedup_for", duration), ("on_duplicate", on_duplicate)):
            if value is not None:
                raise JobInvalid(f"{field}: is given without dedup_key")

        return None

    _check_text("dedup_key", key, MAX_KEY_BYTES)
    if not key:
        raise JobInvalid("dedup_key: is empty", hint="Leave it out to enqueue in any case.")

    policy = "ignore" if on_duplicate is None else on_duplicate
    if policy not in get_args(OnDuplicate):
        raise JobInvalid(
            f"on_duplicate: {policy!r:.80} is not known",
            hint=f"Use one of {', '.join(get_args(OnDuplicate))}.",
        )

    length = seconds("dedup_for", DEDUP_FOR if duration is None else duration)
    if length is None:
        raise JobInvalid("dedup_for: is nothing", hint="Leave it out for an hour.")

    return Once(key, length, policy)
