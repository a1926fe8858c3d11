"""From the bytes of a payload to the type that a handler asks for.

What can be known from the type is worked out at registration: the decoder for
JSON is ready before the first job comes, and a type that nothing can be decoded
into is refused. Decoders for other content types are made when one is met.
"""

from collections.abc import Callable, Mapping, Sequence
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin

import msgspec

from pgcdc_outbox.codec import MSGPACK_TYPE, Codec
from pgcdc_outbox.compression import decompress, split
from pgcdc_outbox.errors import PayloadInvalid
from pgcdc_outbox.job import BYTES_TYPE, JSON_TYPE, Job

Decode = Callable[[bytes], Any]

# Content types are made by producers: what is kept is bounded.
_REMEMBERED: Final = 100


class Decoder:
    """Decodes payloads into one type. Raises `TypeError` for a type that cannot be had."""

    def __init__(self, type_: Any, codecs: Sequence[Codec] = ()) -> None:
        self._type = type_
        self._codecs: Mapping[str, Codec] = {
            codec.content_type: codec for codec in reversed(codecs)
        }
        self._pydantic = _has_model(type_)
        self._json = _json_decoder(type_, pydantic=self._pydantic)
        self._takes_bytes = _takes_bytes(type_)
        self._by_type: dict[str, Decode] = {}
        self._usual = self._decoder(JSON_TYPE)

    def __call__(self, job: Job) -> Any:
        """The payload of a job. Raises `PayloadInvalid`."""
        content_type = job.content_type
        try:
            if content_type == JSON_TYPE:
                return self._usual(job.payload)

            return self._of(content_type)(job.payload)
        except Exception as error:
            # Whatever it is: the same bytes will not fare better next time.
            raise PayloadInvalid(f"payload of job {job.id} ({job.topic}): {error}") from error

    def _of(self, content_type: str) -> Decode:
        decode = self._by_type.get(content_type)
        if decode is None:
            decode = self._decoder(content_type)
            if len(self._by_type) >= _REMEMBERED:
                self._by_type.clear()

            self._by_type[content_type] = decode

        return decode

    def _decoder(self, content_type: str) -> Decode:
        if (codec := self._codecs.get(content_type)) is not None:
            return lambda body: self._convert(codec.decode(body))

        inner, packing = split(content_type)
        if packing:
            unpacked = self._decoder(inner)
            return lambda body: unpacked(decompress(body, packing))

        plain = content_type.partition(";")[0].strip().lower()
        if plain != content_type:
            return self._decoder(plain)

        return self._builtin(plain)

    def _builtin(self, content_type: str) -> Decode:
        if self._type is bytes:
            return bytes

        if content_type == JSON_TYPE or content_type.endswith("+json"):
            return self._json

        if content_type in (MSGPACK_TYPE, "application/x-msgpack"):
            return lambda body: self._convert(msgspec.msgpack.decode(body))

        if content_type.startswith("text/") and self._type in (str, Any, object):
            return lambda body: body.decode()

        if self._takes_bytes:
            return bytes

        if content_type == BYTES_TYPE:
            # Somebody may have made the JSON himself.
            return self._json

        return self._refuse(content_type)

    def _refuse(self, content_type: str) -> Decode:
        def refuse(body: bytes) -> Any:
            raise PayloadInvalid(f"there is no codec for the content type {content_type!r:.80}")

        return refuse

    def _convert(self, value: Any) -> Any:
        if self._pydantic:
            return _adapter(self._type).validate_python(value)

        return msgspec.convert(value, self._type, dec_hook=_hook, str_keys=True)


def _json_decoder(type_: Any, *, pydantic: bool) -> Decode:
    if pydantic:
        validate: Decode = _adapter(type_).validate_json
        return validate

    _refuse_unknown(type_)
    decode: Decode = msgspec.json.Decoder(type_, dec_hook=_hook).decode
    return decode


def _adapter(type_: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(type_)


def _hook(kind: type, value: Any) -> Any:
    """What msgspec does not know itself: a Pydantic model inside something of msgspec's."""
    validate = getattr(kind, "model_validate_json", None)
    if validate is None:
        raise NotImplementedError(f"{kind.__qualname__} cannot be decoded")

    # As JSON again: only that mode reads dates and the like from text if the model is strict.
    return validate(msgspec.json.encode(value))


def _has_model(type_: Any) -> bool:
    """Whether Pydantic has to validate it: a model of its, or one in a list, a union, a dict."""
    if hasattr(type_, "__pydantic_validator__"):
        return True

    # Annotated[int, Field(gt=0)]: msgspec would pass over what it does not know.
    if type(type_).__module__.partition(".")[0] in ("pydantic", "annotated_types"):
        return True

    return any(_has_model(each) for each in get_args(type_) if not isinstance(each, str))


def _takes_bytes(type_: Any) -> bool:
    if type_ in (bytes, Any, object):
        return True

    if get_origin(type_) in (Union, UnionType):
        return any(_takes_bytes(each) for each in get_args(type_))

    return False


def _refuse_unknown(type_: Any) -> None:
    """Raise `TypeError` for a class that msgspec would leave to a hook that we do not have."""
    try:
        info = msgspec.inspect.type_info(type_)
    except NameError as error:
        raise TypeError(f"a name inside it means nothing: {error}") from error

    seen: set[int] = set()
    waiting: list[Any] = [info]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue

        seen.add(id(node))
        match node:
            case msgspec.inspect.CustomType(cls=cls) if not hasattr(cls, "model_validate_json"):
                raise TypeError(f"nothing can be decoded into {cls.__qualname__}")
            case list() | tuple():
                waiting.extend(node)
            case msgspec.Struct():
                waiting.extend(getattr(node, name) for name in node.__struct_fields__)
