"""Payloads: what a producer hands over, as the bytes of a job.

JSON is strict here. What would come back as something else -- NaN as null, the
key 1 as "1" -- is refused, with the place named, and nothing is sent.
"""

import math
from collections.abc import Iterator
from typing import Any

import msgspec

from pgcdc_outbox.errors import JobInvalid
from pgcdc_outbox.job import BYTES_TYPE, NewJob

_SUPPORTED = (
    "Supported: None, bool, int, float, str, Decimal, datetime, UUID, Enum, list, tuple, set, "
    "dict with text keys, dataclasses, msgspec Structs, Pydantic models; bytes as they are."
)
_BYTES = (bytes, bytearray, memoryview)
_LEAVES = frozenset({str, int, float, bool, type(None)})
_PLAIN = _LEAVES | {dict, list}


def encode(payload: Any) -> tuple[bytes, str | None]:
    """The bytes of a payload, and their media type; None means JSON.

    bytes, bytearray and memoryview stay as they are. Everything else becomes
    JSON in UTF-8: the builtins, and whatever msgspec encodes, dataclasses,
    Structs and Pydantic models also inside a list or dict. Integers are exact
    at any size. Raises `JobInvalid` for what JSON cannot hold.
    """
    is_plain = type(payload) in _PLAIN
    if not is_plain and isinstance(payload, _BYTES):
        return bytes(payload), BYTES_TYPE

    try:
        # The common case first; it needs no looking at what else it may be.
        body = _ENCODER.encode(payload) if is_plain else _json(payload)
        has_text_keys = _has_text_keys(payload)
    except JobInvalid:
        raise
    except RecursionError:
        raise JobInvalid("payload: nested too deeply, or contains itself") from None
    except Exception as error:
        raise _explain(payload, error) from error

    if not has_text_keys:
        raise _explain(payload)

    # NaN becomes null: only where there is a null, look for it.
    if b"null" in body and payload is not None:
        _refuse_nan(payload)

    return body, None


def _json(payload: Any) -> bytes:
    if isinstance(payload, NewJob):
        raise JobInvalid("payload: this is a NewJob", hint="Use enqueue_many([job]).")

    if not isinstance(payload, type) and hasattr(payload, "model_dump_json"):
        text: str = payload.model_dump_json()
        return text.encode()

    return _ENCODER.encode(payload)


def _hook(value: Any) -> Any:
    """What msgspec does not know: a Pydantic model inside something else, or nothing at all."""
    if not isinstance(value, type) and hasattr(value, "model_dump_json"):
        return value.model_dump(mode="json")

    raise _Unsupported(value)


def _plain(value: Any) -> Any:
    # Whoever hands over raw JSON vouches for it.
    return None if isinstance(value, msgspec.Raw) else _hook(value)


class _Unsupported(Exception):
    def __init__(self, value: object) -> None:
        super().__init__(_name(value))
        self.value = value


_ENCODER = msgspec.json.Encoder(enc_hook=_hook)


def _has_text_keys(value: Any) -> bool:
    """Whether every plain dict in it has nothing but str keys.

    Every job pays for it, so it is bare (measured: a third of the time of a loop
    with a stack). Typed objects are passed over: whoever decodes into their type
    gets their keys back.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            if key.__class__ is not str and not isinstance(key, str):
                return False

            if item.__class__ not in _LEAVES and not _has_text_keys(item):
                return False
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            if item.__class__ not in _LEAVES and not _has_text_keys(item):
                return False

    return True


def _refuse_nan(payload: Any) -> None:
    for path, value in _walk(msgspec.to_builtins(payload, enc_hook=_plain)):
        if isinstance(value, float) and not math.isfinite(value):
            raise JobInvalid(
                f"{path}: {value} is not a number that JSON knows", hint="Send None, or text."
            )


def _explain(payload: Any, error: Exception | None = None) -> JobInvalid:
    """Find what is wrong, and where."""
    culprit = error.value if isinstance(error, _Unsupported) else None
    for path, value in _walk(payload):
        if isinstance(value, dict) and (odd := [k for k in value if not isinstance(k, str)]):
            return JobInvalid(
                f"{path}: the key {odd[0]!r:.80} is a {_name(odd[0])}, and JSON has text keys",
                hint="Use str(key), or a list of pairs.",
            )

        if isinstance(value, str) and not _is_unicode(value):
            return JobInvalid(f"{path}: has a lone surrogate, which UTF-8 cannot hold")

        if culprit is not None and value is culprit:
            return JobInvalid(f"{path}: cannot encode a {_name(value)}", hint=_SUPPORTED)

    if culprit is not None:
        return JobInvalid(f"payload: cannot encode a {_name(culprit)} inside it", hint=_SUPPORTED)

    return JobInvalid(f"payload: cannot be encoded: {error}", hint=_SUPPORTED)


def _walk(payload: Any) -> Iterator[tuple[str, Any]]:
    """Every value of the plain containers, in order, with the path to it."""
    stack: list[tuple[str, Any]] = [("payload", payload)]
    while stack:
        path, value = stack.pop()
        yield path, value
        match value:
            case dict():
                inner = [(f"{path}[{key!r:.80}]", item) for key, item in value.items()]
                inner += [(f"{path}: a key", key) for key in value]
            case list() | tuple() | set() | frozenset():
                inner = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
            case _:
                continue

        stack.extend(reversed(inner))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False

    return True


def _name(value: object) -> str:
    kind = type(value)
    if kind.__module__ == "builtins":
        return kind.__qualname__

    return f"{kind.__module__}.{kind.__qualname__}"
