"""What a client writes: codecs and compression, and what is refused."""

from typing import Any

import msgspec
import pytest

from pgcdc_outbox import AsyncClient, Client
from pgcdc_outbox.codec import MSGPACK_TYPE, Msgpack, encoder
from pgcdc_outbox.errors import JobInvalid, PayloadInvalid, SettingsError
from pgcdc_outbox.job import BYTES_TYPE, Job
from pgcdc_outbox.postgres.producer.enqueue import check


def test_without_anything_it_is_json() -> None:
    assert encoder()({"a": 1}) == (b'{"a":1}', None)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_only_what_is_larger_and_gains_by_it_is_compressed(compression: str) -> None:
    encode = encoder(compress_above=100, compression=compression)

    assert encode("x" * 98) == (b'"' + b"x" * 98 + b'"', None)
    body, content_type = encode("x" * 99)
    assert content_type == f"application/json+{compression}"
    assert len(body) < 101
    noise = bytes(range(256))
    assert encode(noise) == (noise, BYTES_TYPE)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_job_reads_its_compressed_json(compression: str) -> None:
    body, content_type = encoder(compress_above=0, compression=compression)({"a": "x" * 100})
    assert content_type is not None

    job = Job(1, "t", body, content_type=content_type)

    assert job.json() == {"a": "x" * 100}
    assert job.json(dict[str, str]) == {"a": "x" * 100}
    with pytest.raises(PayloadInvalid, match="payload of job 1"):
        Job(1, "t", b"no", content_type=content_type).json()


def test_equal_payloads_are_equal_bytes() -> None:
    encode = encoder(compress_above=0)
    assert encode("x" * 1000) == encode("x" * 1000)


def test_msgpack() -> None:
    body, content_type = encoder(Msgpack())({"raw": b"\xff"})
    assert content_type == MSGPACK_TYPE
    assert msgspec.msgpack.decode(body) == {"raw": b"\xff"}


class Broken:
    content_type = "application/x-broken"

    def __init__(self, given: Any) -> None:
        self.given = given

    def encode(self, payload: Any) -> Any:
        if isinstance(self.given, Exception):
            raise self.given

        return self.given

    def decode(self, body: bytes) -> Any:
        return None


@pytest.mark.parametrize("given", [ValueError("no"), "text", None], ids=str)
def test_a_codec_that_fails_sends_nothing(given: Any) -> None:
    with pytest.raises(JobInvalid, match=r"^payload: Broken"):
        encoder(Broken(given))(5)


def test_the_limit_is_about_what_is_stored() -> None:
    encode = encoder(compress_above=0)
    assert check("x" * 10_000, max_payload_bytes=1000, encode=encode).payload
    with pytest.raises(JobInvalid, match="limit is 1000"):
        check("x" * 10_000, max_payload_bytes=1000)


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"codec": object()}, "codec"),
        ({"codec": Msgpack}, "codec"),
        ({"codec": type("Nameless", (Msgpack,), {"content_type": ""})()}, "codec"),
        ({"compress_above": -1}, "compress_above"),
        ({"compress_above": "1"}, "compress_above"),
        ({"compress_above": 1, "compression": "lzma"}, "compression"),
    ],
    ids=range(6),
)
def test_settings_that_make_no_sense(client: Any, settings: Any, field: str) -> None:
    with pytest.raises(SettingsError, match=f"^{field}: "):
        client("host=nowhere", **settings)
