"""Whether something expected is part of something that is there; and if not, where it is not.

- A mapping is part of another that has its keys, with values of which its own are part.
- A list is part of another that has its items in the same order, perhaps with others
  in between.
- Anything else has to be equal. ``True`` is not 1.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from pgcdc_outbox.errors import JobInvalid
from pgcdc_outbox.payload import encode

_SHOWN = 200
_PLAIN = (str, int, float, bool, type(None))


def differences(expected: Any, actual: Any, path: str = "payload") -> Iterator[str]:
    """What is missing or other in ``actual``, a line each; nothing if ``expected`` is part of it.

    ``actual`` is what JSON has. In ``expected`` there may also be whatever a
    payload may hold, and objects that compare as they like, such as
    ``unittest.mock.ANY`` and ``pytest.approx``.
    """
    match expected:
        case Mapping():
            yield from _of_mappings(expected, actual, path)
        case list() | tuple():
            yield from _of_lists(expected, actual, path)
        case _ if not _equal(expected, actual):
            yield f"{path}: expected {shown(expected)}, found {shown(actual)}"


def shown(value: object) -> str:
    """A value for a person, not too long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


def _of_mappings(expected: Mapping[Any, Any], actual: Any, path: str) -> Iterator[str]:
    if not isinstance(actual, Mapping):
        yield f"{path}: expected {shown(expected)}, found {shown(actual)}"
        return

    for key, value in expected.items():
        place = f"{path}[{key!r}]"
        if key in actual:
            yield from differences(value, actual[key], place)
        else:
            yield f"{place}: expected {shown(value)}, and the key is missing"


def _of_lists(expected: Sequence[Any], actual: Any, path: str) -> Iterator[str]:
    if not isinstance(actual, list | tuple):
        yield f"{path}: expected {shown(expected)}, found {shown(actual)}"
        return

    # The first that fits is as good as any later one, because the order is kept.
    remaining = iter(actual)
    for index, item in enumerate(expected):
        if not any(_is_part(item, other) for other in remaining):
            if len(expected) == len(actual):
                yield from differences(item, actual[index], f"{path}[{index}]")
            else:
                yield f"{path}: expected the item {shown(item)}, found {shown(actual)}"

            return


def _is_part(expected: Any, actual: Any) -> bool:
    return next(differences(expected, actual), None) is None


def _equal(expected: Any, actual: Any) -> bool:
    if isinstance(expected, bool) is not isinstance(actual, bool) and isinstance(expected, _PLAIN):
        return False

    if expected == actual:
        return True

    return not isinstance(expected, _PLAIN) and _as_json(expected) == (actual,)


def _as_json(value: Any) -> tuple[Any] | None:
    """What a reader finds of a date, a UUID, a model and so on; None if it cannot be sent."""
    try:
        body, content_type = encode(value)
    except JobInvalid:
        return None

    return (msgspec.json.decode(body) if content_type is None else body,)
