"""Compressed payloads: a content type that ends in ``+gzip`` or ``+zstd`` says so.

gzip is the standard library's. zstd comes with Python 3.14, and before it with
the extra ``zstd``; it is imported when it is needed.
"""

import zlib
from collections.abc import Callable
from typing import Any, Final, Literal

from pgcdc_outbox.errors import PayloadInvalid, SettingsError

Compression = Literal["gzip", "zstd"]

MAX_BYTES: Final = 256 * 1024 * 1024
"""How large a payload may become when it is unpacked: as large as the table would take it plain."""

_GZIP: Final = 16 + zlib.MAX_WBITS
_MARK: Final = "+"


def compressor(name: str) -> Callable[[bytes], bytes]:
    """What compresses. Raises `SettingsError` for an unknown name, or a missing library."""
    match name:
        case "gzip":
            return _gzip
        case "zstd":
            return _zstd_compressor()
        case _:
            raise SettingsError(
                f"compression: {name!r} is not known", hint="Give 'gzip' or 'zstd'."
            )


def split(content_type: str) -> tuple[str, str]:
    """The content type of what is inside, and the name of the compression or nothing."""
    inner, mark, name = content_type.rpartition(_MARK)
    return (inner, name) if mark and name in _DECOMPRESSORS else (content_type, "")


def mark(content_type: str, name: str) -> str:
    """The content type of something compressed."""
    return f"{content_type}{_MARK}{name}"


def decompress(body: bytes, name: str) -> bytes:
    """What is inside. Raises `PayloadInvalid`."""
    return _DECOMPRESSORS[name](body)


def _gzip(body: bytes) -> bytes:
    # Not gzip.compress: that writes the time, and equal payloads should be equal bytes.
    packer = zlib.compressobj(wbits=_GZIP)
    return packer.compress(body) + packer.flush()


def _gunzip(body: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=_GZIP)
    try:
        plain = unpacker.decompress(body, MAX_BYTES)
    except zlib.error as error:
        raise PayloadInvalid(f"the payload is no gzip: {error}") from error

    _check(unpacker.eof, unpacker.unconsumed_tail, unpacker.unused_data, "gzip")
    return plain


def _unzstd(body: bytes) -> bytes:
    zstd = _zstd()
    if zstd is None:
        raise PayloadInvalid(
            "the payload is compressed with zstd, which is not installed here",
            hint="pip install 'pgcdc-outbox[zstd]'",
        )

    unpacker = zstd.ZstdDecompressor()
    try:
        plain: bytes = unpacker.decompress(body, MAX_BYTES)
    except zstd.ZstdError as error:
        raise PayloadInvalid(f"the payload is no zstd: {error}") from error

    _check(unpacker.eof, b"" if unpacker.needs_input else b"more", unpacker.unused_data, "zstd")
    return plain


def _check(is_whole: bool, left: bytes, behind: bytes, name: str) -> None:
    if is_whole and not behind:
        return

    if not is_whole and left:
        raise PayloadInvalid(f"the payload is larger than {MAX_BYTES} bytes when unpacked")

    what = "has something behind its end" if behind else "is cut off"
    raise PayloadInvalid(f"the payload is no {name}: it {what}")


def _zstd_compressor() -> Callable[[bytes], bytes]:
    zstd = _zstd()
    if zstd is None:
        raise SettingsError(
            "compression: zstd is not installed", hint="pip install 'pgcdc-outbox[zstd]'"
        )

    compress: Callable[[bytes], bytes] = zstd.compress
    return compress


def _zstd() -> Any:
    from importlib import import_module

    for name in ("compression.zstd", "backports.zstd"):
        try:
            return import_module(name)
        except ImportError:
            continue

    return None


_DECOMPRESSORS: Final[dict[str, Callable[[bytes], bytes]]] = {"gzip": _gunzip, "zstd": _unzstd}
