"""Codecs: between values and the bytes of a payload, by content type."""

from collections.abc import Callable
from typing import Any, Final, Protocol, runtime_checkable

import msgspec

from pgcdc_outbox.compression import compressor, mark
from pgcdc_outbox.errors import JobInvalid, SettingsError
from pgcdc_outbox.job import JSON_TYPE
from pgcdc_outbox.payload import encode

MSGPACK_TYPE: Final = "application/msgpack"

Encode = Callable[[Any], tuple[bytes, str | None]]
"""From a payload to its bytes and their content type; None means JSON."""


@runtime_checkable
class Codec(Protocol):
    """A way to write payloads. Clients encode with it, and routers decode."""

    @property
    def content_type(self) -> str:
        """What payloads are marked with, and found by; without parameters."""
        ...

    def encode(self, payload: Any) -> bytes:
        """The bytes of a payload. What it raises is told as `JobInvalid`; nothing is sent."""
        ...

    def decode(self, body: bytes) -> Any:
        """The payload, in builtins; the handler's type is made from them.

        What it raises is told as `PayloadInvalid`: the job is a dead letter.
        """
        ...


class Msgpack:
    """MessagePack: smaller than JSON, and it knows bytes and datetimes."""

    content_type = MSGPACK_TYPE

    def encode(self, payload: Any) -> bytes:
        """As msgspec does; Pydantic models too."""
        return msgspec.msgpack.encode(payload, enc_hook=_model)

    def decode(self, body: bytes) -> Any:
        """In builtins."""
        return msgspec.msgpack.decode(body)


def encoder(
    codec: Codec | None = None, *, compress_above: int | None = None, compression: str = "gzip"
) -> Encode:
    """How a client encodes: by the codec, and compressed if it is larger than so many bytes.

    Compressed only if it gains something. Raises `SettingsError`.
    """
    if codec is not None:
        check_codec(codec)

    plain: Encode = encode if codec is None else _by(codec)
    if compress_above is None:
        return plain

    if isinstance(compress_above, bool) or not isinstance(compress_above, int):
        raise SettingsError(
            f"compress_above: a {type(compress_above).__name__} is given", hint="Give bytes."
        )

    if compress_above < 0:
        raise SettingsError(f"compress_above: {compress_above} is negative", hint="Give bytes.")

    return _compressing(plain, compress_above, compressor(compression), compression)


def _by(codec: Codec) -> Encode:
    def by_codec(payload: Any) -> tuple[bytes, str | None]:
        try:
            body = codec.encode(payload)
        except JobInvalid:
            raise
        except Exception as error:
            raise JobInvalid(
                f"payload: {type(codec).__name__} cannot encode it: {error}"
            ) from error

        if not isinstance(body, bytes):
            raise JobInvalid(
                f"payload: {type(codec).__name__}.encode gave a {type(body).__name__}",
                hint="A codec has to give bytes.",
            )

        return body, codec.content_type

    return by_codec


def _compressing(
    plain: Encode, above: int, compress: Callable[[bytes], bytes], name: str
) -> Encode:
    def compressing(payload: Any) -> tuple[bytes, str | None]:
        body, content_type = plain(payload)
        if len(body) <= above or len(packed := compress(body)) >= len(body):
            return body, content_type

        return packed, mark(content_type or JSON_TYPE, name)

    return compressing


def check_codec(codec: object) -> None:
    """Raise `SettingsError` for what is no codec."""
    if isinstance(codec, type) or not isinstance(codec, Codec):
        raise SettingsError(
            f"codec: {codec!r:.80} is no codec",
            hint="Give an object with content_type, encode(payload) and decode(body).",
        )

    if not isinstance(codec.content_type, str) or not codec.content_type:
        raise SettingsError(
            f"codec: the content_type of {type(codec).__name__} is {codec.content_type!r:.80}",
            hint="Give text such as 'application/x-orders'.",
        )


def _model(value: Any) -> Any:
    if not isinstance(value, type) and hasattr(value, "model_dump"):
        return value.model_dump()

    raise TypeError(f"a {type(value).__name__} cannot be encoded")
