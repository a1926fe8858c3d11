"""What is part of what."""

from dataclasses import dataclass
from datetime import date
from unittest.mock import ANY
from uuid import UUID

import pytest

from pgcdc_outbox.testing.matching import differences


@dataclass
class Line:
    sku: str


PART = [
    (1, 1),
    ("a", "a"),
    (None, None),
    ({}, {"a": 1}),
    ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}, "d": 3}),
    ([], [1, 2]),
    ([1, 3], [1, 2, 3]),
    ([{"a": 1}], [{"b": 2}, {"a": 1, "c": 3}]),
    ((1,), [1]),
    ({"a": ANY}, {"a": 5}),
    (ANY, {"a": 5}),
    (pytest.approx(0.3), 0.1 + 0.2),
    ({"day": date(2026, 1, 2)}, {"day": "2026-01-02"}),
    (UUID(int=1), str(UUID(int=1))),
    ({"line": Line("a")}, {"line": {"sku": "a"}}),
    (b"\xff", b"\xff"),
]

NOT_PART = [
    (1, 2, "payload: expected 1, found 2"),
    (True, 1, "payload: expected True, found 1"),
    (1, True, "payload: expected 1, found True"),
    (None, 0, "payload: expected None, found 0"),
    ({"a": None}, {}, "payload['a']: expected None, and the key is missing"),
    ({"a": 1}, [1], "payload: expected {'a': 1}, found [1]"),
    ([1], {"a": 1}, "payload: expected [1], found {'a': 1}"),
    ([2, 1], [1, 2], "payload[1]: expected 1, found 2"),
    ([3, 1], [1, 2, 3], "payload: expected the item 1, found [1, 2, 3]"),
    ([1, 1], [1], "payload: expected the item 1, found [1]"),
    ({"day": date(2026, 1, 2)}, {"day": "2026-01-03"}, "payload['day']: expected datetime.date("),
    ("x" * 500, "", "payload: expected '" + "x" * 199 + "... (502 characters), found ''"),
]


@pytest.mark.parametrize(("expected", "actual"), PART, ids=repr)
def test_part(expected, actual) -> None:
    assert list(differences(expected, actual)) == []


@pytest.mark.parametrize(("expected", "actual", "text"), NOT_PART, ids=lambda each: repr(each)[:30])
def test_not_part(expected, actual, text) -> None:
    (line,) = differences(expected, actual)
    assert line.startswith(text)
