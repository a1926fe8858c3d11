"""What must hold for any bytes at all: shared by the fuzzer and by pytest."""

from __future__ import annotations

from pgcdc_outbox.pgoutput import ProtocolError, decode, decode_client_frame, decode_frame

# Decoded anew, these bytes need not be the same: any byte but zero is true.
NORMALISED = {"StreamStart"}


def check(data: bytes) -> None:
    """Raise whatever is not a message, a frame or a `ProtocolError`."""
    for streaming in (False, True):
        for parallel in (False, True):
            try:
                message = decode(data, streaming=streaming, parallel=parallel)
            except ProtocolError as error:
                _check_error(error, data)
                continue

            encoded = message.encode()
            if type(message).__name__ in NORMALISED:
                assert decode(encoded) == message
            else:
                assert encoded == data

    try:
        decode_frame(data)
    except ProtocolError as error:
        _check_error(error, data)

    try:
        decode_client_frame(data)
    except ProtocolError as error:
        _check_error(error, data)


def _check_error(error: ProtocolError, data: bytes) -> None:
    assert 0 <= error.offset <= len(data), error
    assert str(error)
