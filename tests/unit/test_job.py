"""Jobs, as handlers see them."""

from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
import pytest
from pydantic import BaseModel

from pgcdc_outbox.errors import PayloadInvalid
from pgcdc_outbox.job import Failing, History, Job


class Order(msgspec.Struct):
    id: int


@dataclass
class PlainOrder:
    id: int


class ModelledOrder(BaseModel):
    id: int


def job(payload: bytes = b'{"id": 7}', **fields: object) -> Job:
    return Job(1, "orders", payload, **fields)


def test_without_a_type_the_payload_is_plain_data() -> None:
    assert job().json() == {"id": 7}


@pytest.mark.parametrize("type_", [Order, PlainOrder, ModelledOrder])
def test_with_a_type_the_payload_is_of_it(type_: type) -> None:
    order = job().json(type_)

    assert isinstance(order, type_)
    assert order.id == 7


def test_the_generics_of_builtins_are_types_too() -> None:
    assert job(b"[1, 2]").json(list[int]) == [1, 2]


@pytest.mark.parametrize("type_", [Order, PlainOrder, ModelledOrder, list[int]])
@pytest.mark.parametrize("payload", [b"", b"{", b"\xff", b'{"id": "seven"}', b'{"id": "\xff"}'])
def test_a_payload_that_does_not_fit_is_an_error_of_its_own(payload: bytes, type_: type) -> None:
    with pytest.raises(PayloadInvalid, match=r"payload of job 1 \(orders\)"):
        job(payload).json(type_)


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff", b"[1,]"])
def test_a_payload_that_is_no_json_is_an_error_of_its_own(payload: bytes) -> None:
    with pytest.raises(PayloadInvalid):
        job(payload).json()


def test_it_knows_when_it_was_enqueued() -> None:
    assert job(created_us=1_000_001).created_at == datetime(1970, 1, 1, 0, 0, 1, 1, tzinfo=UTC)


def test_a_fresh_job_has_no_past() -> None:
    assert job().attempt == 1
    assert job().errors == ()
    assert job().prior_attempts == 0


def test_its_past_travels_with_it() -> None:
    failing = Failing(attempt=1, at="2024-01-01T00:00:00Z", error="ValueError", text="no")
    past = History(created_us=0, prior_attempts=3, errors=(failing,))

    assert job(history=past).errors == (failing,)
    assert job(history=past).prior_attempts == 3


def test_neither_payload_nor_headers_get_into_a_log() -> None:
    text = repr(job(b"secret", headers={"token": "secret"}, key="k"))

    assert text == "Job(id=1, topic='orders', key='k', attempt=1, payload=<6 bytes>)"


def test_headers_belong_to_one_job() -> None:
    job().headers["mark"] = 1

    assert job().headers == {}


def test_it_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        job().attempt = 2
