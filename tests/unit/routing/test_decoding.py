"""Payloads arrive as the type that is asked for, whatever they were written with."""

import gzip
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NewType, Optional, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest

from pgcdc_outbox import Job, Router
from pgcdc_outbox.codec import Encode, Msgpack, encoder
from pgcdc_outbox.errors import PayloadInvalid
from pgcdc_outbox.job import BYTES_TYPE, JSON_TYPE
from pgcdc_outbox.routing.decoding import Decoder
from tests.unit.routing.units import job, run

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Struct(msgspec.Struct):
    id: int
    at: datetime


@dataclass
class Data:
    id: int
    price: Decimal


class Typed(TypedDict):
    id: int


class Model(pydantic.BaseModel):
    id: int
    at: datetime


class Strict(pydantic.BaseModel, strict=True):
    at: datetime


class Holder(msgspec.Struct):
    model: Strict


@pydantic.dataclasses.dataclass
class Checked:
    id: Annotated[int, pydantic.Field(gt=0)]


class Colour(Enum):
    RED = "red"


class Tree(msgspec.Struct):
    value: int
    left: Optional["Tree"] = None


Id = NewType("Id", int)

ENCODERS: dict[str, Encode] = {
    "json": encoder(),
    "json+gzip": encoder(compress_above=0),
    "json+zstd": encoder(compress_above=0, compression="zstd"),
    "msgpack": encoder(Msgpack()),
    "msgpack+gzip": encoder(Msgpack(), compress_above=0),
}

VALUES: list[tuple[Any, Any]] = [
    (Struct(1, AT), Struct),
    (Data(1, Decimal("1.10")), Data),
    ({"id": 1}, Typed),
    (Model(id=1, at=AT), Model),
    (Strict(at=AT), Strict),
    (Holder(Strict(at=AT)), Holder),
    (Checked(5), Checked),
    (Colour.RED, Colour),
    (Tree(1, Tree(2)), Tree),
    ([Model(id=1, at=AT)] * 2, list[Model]),
    ([Struct(1, AT)], list[Struct]),
    ({"a": Data(1, Decimal(2))}, dict[str, Data]),
    ({1: "a"}, dict[int, str]),
    (Model(id=1, at=AT), Model | None),
    (None, Optional[Model]),  # noqa: UP045 -- either spelling
    (None, Struct | None),
    (Struct(1, AT), Optional[Struct]),  # noqa: UP045
    (5, int | str),
    ("5", int | str),
    ((1, "a"), tuple[int, str]),
    ({1, 2}, set[int]),
    (AT, datetime),
    (UUID(int=7), UUID),
    (Decimal("1.10"), Decimal),
    ("b", Literal["a", "b"]),
    (7, Id),
    (1.5, float),
    (True, bool),
    ("text", str),
    (None, None),
    ({"a": [1, None, "x"]}, Any),
    ([1, "a", None], Any),
    ("null", Any),
    (None, Any),
    ({"a": 1}, dict),
]


def made(payload: Any, encode: Encode, type_: Any = Any) -> Job:
    if isinstance(payload, dict) and payload and isinstance(next(iter(payload)), int):
        body = msgspec.json.encode(payload)  # a client refuses keys that are no text
        return job(1, payload=body)

    body, content_type = encode(payload)
    return job(1, payload=body, content_type=content_type or JSON_TYPE)


@pytest.mark.parametrize("encode", ENCODERS.values(), ids=ENCODERS)
@pytest.mark.parametrize(("payload", "type_"), VALUES, ids=range(len(VALUES)))
def test_the_same_value_of_the_same_type(payload: Any, type_: Any, encode: Encode) -> None:
    found = Decoder(type_)(made(payload, encode))

    assert found == payload
    assert type(found) is type(payload)


@pytest.mark.parametrize("body", [b"", b"\0\xff\xfe", b'{"a": 1}', b"null", b"\x1f\x8b"], ids=str)
@pytest.mark.parametrize("type_", [bytes, Any, bytes | None, bytes | Struct], ids=str)
def test_bytes_stay_bytes(body: bytes, type_: Any) -> None:
    found = Decoder(type_)(job(1, payload=body, content_type=BYTES_TYPE))
    assert (found, type(found)) == (body, bytes)


def test_bytes_are_whatever_was_written() -> None:
    decode = Decoder(bytes)
    assert decode(job(1, payload=b'{"a": 1}')) == b'{"a": 1}'
    packed = gzip.compress(b'{"a": 1}')
    assert decode(job(1, payload=packed, content_type="application/json+gzip")) == b'{"a": 1}'


@pytest.mark.parametrize(
    ("content_type", "body", "type_", "expected"),
    [
        ("application/json; charset=utf-8", b'{"id": 1}', Typed, {"id": 1}),
        ("Application/JSON", b'{"id": 1}', Typed, {"id": 1}),
        ("application/cloudevents+json", b'{"id": 1}', Typed, {"id": 1}),
        ("application/octet-stream", b'{"id": 1}', Typed, {"id": 1}),
        ("text/plain", "žluťoučký".encode(), str, "žluťoučký"),
        ("text/plain; charset=utf-8", b"a", Any, "a"),
        ("image/png", b"\x89PNG", Any, b"\x89PNG"),
    ],
)
def test_content_types(content_type: str, body: bytes, type_: Any, expected: Any) -> None:
    assert Decoder(type_)(job(1, payload=body, content_type=content_type)) == expected


@pytest.mark.parametrize(
    ("content_type", "body", "type_", "why"),
    [
        (JSON_TYPE, b'{"id": "x"}', Typed, r"Expected `int`, got `str` - at `\$.id`"),
        (JSON_TYPE, b"{", Typed, "truncated"),
        (JSON_TYPE, b"\xff", str, "payload of job 1"),
        (JSON_TYPE, b'{"id": 1}', Model, "at\n  Field required"),
        (JSON_TYPE, b'{"id": 0}', Checked, "greater than 0"),
        (JSON_TYPE, b"0", Annotated[int, pydantic.Field(gt=0)], "greater than 0"),
        pytest.param(JSON_TYPE, b"[" * 100_000, Any, "payload of job 1", id="nested too deeply"),
        ("image/png", b"\x89PNG", Typed, "no codec for the content type 'image/png'"),
        ("application/json+gzip", b"{}", Typed, "no gzip"),
        ("application/json+gzip", gzip.compress(b'{"id": 1}', mtime=0)[:-3], Typed, "cut off"),
        ("application/json+gzip", gzip.compress(b"{}", mtime=0) + b"x", Typed, "behind its end"),
        ("application/json+zstd", b"{}", Typed, "no zstd"),
        ("application/msgpack", b"\xc1", Any, "payload of job 1"),
    ],
    ids=str,
)
async def test_what_does_not_fit_says_why(
    content_type: str, body: bytes, type_: Any, why: str
) -> None:
    router = Router()

    async def handle(payload: Any) -> None:
        raise AssertionError("called")

    handle.__annotations__ = {"payload": type_}
    router.on("t")(handle)

    error = (await run(router, job(1, payload=body, content_type=content_type)))[1]
    assert isinstance(error, PayloadInvalid)
    with pytest.raises(PayloadInvalid, match=why):
        raise error


def test_what_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgcdc_outbox.compression.MAX_BYTES", 1000)
    for compression in ("gzip", "zstd"):
        encode = encoder(compress_above=0, compression=compression)
        assert len(Decoder(Any)(made("x" * 998, encode))) == 998
        with pytest.raises(PayloadInvalid, match="larger than 1000 bytes"):
            Decoder(Any)(made("x" * 100_000, encode))


class Reversed:
    """A codec of somebody's own."""

    content_type = "application/x-reversed"

    def encode(self, payload: Any) -> bytes:
        return msgspec.json.encode(payload)[::-1]

    def decode(self, body: bytes) -> Any:
        return msgspec.json.decode(body[::-1])


@pytest.mark.parametrize(
    ("payload", "type_"),
    [(Struct(1, AT), Struct), (Model(id=1, at=AT), Model), ({"a": 1}, Any), (b"\xff", bytes)],
    ids=str,
)
async def test_a_codec_of_ones_own(payload: Any, type_: Any) -> None:
    """Given to the outermost router, it is known to those within."""
    outer, inner, seen = Router(codecs=[Reversed()]), Router("a"), list[Any]()
    outer.include_router(inner)

    async def handle(payload: Any) -> None:
        seen.append(payload)

    handle.__annotations__ = {"payload": type_}
    inner.on("t")(handle)
    for encode in (encoder(Reversed()), encoder(Reversed(), compress_above=0)):
        body, content_type = encode(payload if type_ is not Model else payload.model_dump())
        assert await run(outer, job(1, "a.t", body, content_type=content_type)) == {}

    assert seen == [payload, payload]


async def test_the_nearest_codec_decodes() -> None:
    class Other(Reversed):
        def decode(self, body: bytes) -> Any:
            return "the outer one"

    outer, inner, seen = Router(codecs=[Other()]), Router(codecs=[Reversed()]), list[Any]()
    outer.include_router(inner)

    @inner.on("t")
    async def handle(payload: Any) -> None:
        seen.append(payload)

    body, content_type = encoder(Reversed())(5)
    assert await run(outer, job(1, "t", body, content_type=content_type)) == {}
    assert seen == [5]


async def test_in_a_batch_only_the_one_that_does_not_fit_fails() -> None:
    router, seen = Router(), list[Any]()

    @router.on("t", batch=True)
    async def handle(numbers: list[int], jobs: list[Job]) -> None:
        seen.append((numbers, [each.id for each in jobs]))

    jobs = [job(1, payload=b"1"), job(2, payload=b'"x"'), job(3, payload=b"3")]
    errors = await run(router, *jobs)

    assert {id_: type(error) for id_, error in errors.items()} == {2: PayloadInvalid}
    assert seen == [([1, 3], [1, 3])]
