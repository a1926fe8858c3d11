"""A bounded run of the fuzz target: recorded messages, broken at random."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from pgcdc_outbox.pgoutput import ProtocolError, decode
from tests.fuzz.pgoutput_target import check
from tests.recordings import recordings

INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF, *b"nutbKON")


def seeds() -> list[bytes]:
    found = {
        (data[0], len(data), streaming): data
        for recording in recordings()
        for data, _, streaming in recording.decoded()
    }
    return [found[shape] for shape in sorted(found)]


def mutate(data: bytes, chance: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(out) + 1)
        match chance.randrange(5):
            case 0:
                del out[at : at + chance.randint(1, 8)]
            case 1:
                out[at:at] = chance.randbytes(chance.randint(1, 8))
            case 2:
                out[at : at + 1] = bytes((chance.choice(INTERESTING),))
            case 3:
                out[at : at + 4] = chance.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"))
            case _:
                out[at : at + 1] = chance.randbytes(1)

    return bytes(out)


@pytest.mark.parametrize("seed", range(4))
def test_broken_messages_are_understood_or_refused(seed: int):
    chance = random.Random(seed)
    sources = seeds()
    outcomes: Counter[str] = Counter()
    for _ in range(5000):
        data = mutate(chance.choice(sources), chance)
        check(data)
        outcomes[outcome(data)] += 1

    # The mutations are worth something only if they reach both sides.
    assert outcomes["understood"] > 100
    assert outcomes["refused"] > 1000


def outcome(data: bytes) -> str:
    try:
        decode(data)
    except ProtocolError:
        return "refused"

    return "understood"
