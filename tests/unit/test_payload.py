"""Payloads come back as they were, or are refused."""

import dataclasses
import json
from collections import OrderedDict, defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcdc_outbox.errors import JobInvalid
from pgcdc_outbox.job import BYTES_TYPE, JSON_TYPE, Job, NewJob
from pgcdc_outbox.payload import encode


class Colour(Enum):
    RED = "red"


class Point(msgspec.Struct):
    x: int
    y: float


@dataclasses.dataclass
class Line:
    sku: str
    number: int


class Order(pydantic.BaseModel):
    id: int
    at: datetime
    note: str | None = None


class Price(pydantic.BaseModel):
    amount: float


ORDER = Order(id=1, at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))


def back(payload: Any, type: Any = Any) -> Any:
    """Encode, and read it as a handler does."""
    body, content_type = encode(payload)
    return Job(1, "t", body, content_type=content_type or JSON_TYPE).json(type)


SAME = [
    {"a": [1, 2.5, None, True, "x", {"b": []}]},
    [1, [2, [3]]],
    None,
    True,
    0,
    -1,
    1.5,
    1e300,
    2**63,
    2**64,
    -(2**70),
    "",
    "text",
    "null",
    "NaN",
    '{"a": 1}',
    "a\0b",
    "\U0001f600 žluťoučký",
    {},
    [],
    {"": None},
    {"null": "NaN"},
]


@pytest.mark.parametrize("payload", SAME, ids=repr)
def test_comes_back_equal_and_of_the_same_type(payload):
    found = back(payload)

    assert found == payload
    assert type(found) is type(payload)


@pytest.mark.parametrize(
    ("payload", "type"),
    [
        (Point(1, 2.5), Point),
        (Line("a", 2), Line),
        (ORDER, Order),
        ([ORDER], list[Order]),
        ([Point(1, 2.0)], list[Point]),
        ({"line": Line("a", 2)}, dict[str, Line]),
        ((1, "a"), tuple[int, str]),
        ({1, 2}, set[int]),
        (Decimal("1.10"), Decimal),
        (ORDER.at, datetime),
        (UUID(int=5), UUID),
        (Colour.RED, Colour),
    ],
    ids=repr,
)
def test_comes_back_as_the_type_asked_for(payload, type):
    if type == list[Order]:
        assert [Order.model_validate(item) for item in back(payload)] == payload
        return

    assert back(payload, type) == payload


@pytest.mark.parametrize(
    "payload",
    [b"", b"\0\xff\xfe", b'{"a": 1}', b"null", bytearray(b"ab"), memoryview(b"abcd")[::2]],
    ids=lambda payload: f"{type(payload).__name__} {bytes(payload)!r}",
)
def test_bytes_stay_as_they_are(payload):
    assert encode(payload) == (bytes(payload), BYTES_TYPE)


def test_json_needs_no_content_type():
    assert encode({"a": 1}) == (b'{"a":1}', None)
    assert encode("text") == (b'"text"', None)
    assert encode(None) == (b"null", None)


def test_models_nested_in_containers_are_encoded_as_at_the_top():
    body, _ = encode({"orders": [ORDER], "points": (Point(1, 2.0),)})

    assert json.loads(body) == {
        "orders": [json.loads(ORDER.model_dump_json())],
        "points": [{"x": 1, "y": 2.0}],
    }


def test_subclasses_of_dict_are_dicts():
    assert back(OrderedDict(a=1)) == {"a": 1}
    assert back({"a": defaultdict(int, b=2)}) == {"a": {"b": 2}}


def test_raw_json_is_passed_through():
    assert encode(msgspec.Raw(b'{"a": null}'))[0] == b'{"a": null}'
    assert encode({"a": None, "b": msgspec.Raw(b"[1]")})[0] == b'{"a":null,"b":[1]}'


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")], ids=str)
@pytest.mark.parametrize(
    ("wrap", "where"),
    [
        (lambda number: number, "payload: "),
        (lambda number: {"a": [1.0, number]}, "payload['a'][1]: "),
        (lambda number: {"a": None, "b": Point(1, number)}, "payload['b']['y']: "),
        (lambda number: Point(1, number), "payload['y']: "),
        (lambda number: Price(amount=number), "payload['amount']: "),
        (lambda number: [Price(amount=number)], "payload[0]['amount']: "),
        (lambda number: [msgspec.Raw(b"1"), number], "payload[1]: "),
    ],
    ids=["top", "nested", "in a Struct", "a Struct", "a model", "in a model", "beside raw JSON"],
)
def test_what_json_would_make_null_is_refused(number, wrap, where):
    with pytest.raises(JobInvalid) as caught:
        encode(wrap(number))

    assert str(caught.value).startswith(where + str(number))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("payload", "where", "name"),
    [
        ({1: "a"}, "payload:", "int"),
        ({"a": [{1.5: 2}]}, "payload['a'][0]:", "float"),
        ({(1, 2): 3}, "payload:", "tuple"),
        ({None: 1}, "payload:", "NoneType"),
        ({"a": OrderedDict({1: 2})}, "payload['a']:", "int"),
    ],
    ids=repr,
)
def test_keys_that_would_come_back_as_text_are_refused(payload, where, name):
    with pytest.raises(JobInvalid) as caught:
        encode(payload)

    assert str(caught.value).startswith(where)
    assert f"is a {name}," in str(caught.value)


def test_keys_of_a_typed_object_come_back_with_their_type():
    class Counts(msgspec.Struct):
        by_year: dict[int, str]

    assert back(Counts({2026: "a"}), Counts) == Counts({2026: "a"})


@pytest.mark.parametrize(
    ("payload", "where", "name"),
    [
        pytest.param(object(), "payload:", "object", id="object"),
        (1j, "payload:", "complex"),
        ({"a": [0, len]}, "payload['a'][1]:", "builtin_function_or_method"),
        (Order, "payload:", "pydantic"),
        ({"a": [Order]}, "payload['a'][0]:", "pydantic"),
    ],
    ids=repr,
)
def test_what_cannot_be_encoded_is_named(payload, where, name):
    with pytest.raises(JobInvalid) as caught:
        encode(payload)

    assert str(caught.value).startswith(where)
    assert name in str(caught.value)
    assert "Supported:" in caught.value.hint


@pytest.mark.parametrize("payload", ["\ud800", {"a": ["\udfff"]}, {"\ud800": 1}], ids=ascii)
def test_lone_surrogates_are_refused(payload):
    with pytest.raises(JobInvalid, match="lone surrogate"):
        encode(payload)


def test_what_contains_itself_is_refused():
    knot: list[Any] = []
    knot.append(knot)

    with pytest.raises(JobInvalid, match="contains itself"):
        encode(knot)


def test_a_new_job_is_no_payload():
    with pytest.raises(JobInvalid) as caught:
        encode(NewJob(payload=1))

    assert "enqueue_many" in caught.value.hint


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=20,
)


@given(json_values)
def test_whatever_json_holds_comes_back(payload):
    assert back(payload) == payload


@given(st.binary())
def test_whatever_bytes_come_back(payload):
    assert encode(payload) == (payload, BYTES_TYPE)
