"""What real servers sent, as `record.py` kept it."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pgcdc_outbox.pgoutput import Message, Parser, XLogData, decode_frame

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Recording:
    """One scenario, on one version."""

    version: int
    name: str
    options: dict[str, Any]
    expect: dict[str, Any]
    frames: tuple[bytes, ...]

    def __str__(self) -> str:
        return f"{self.version // 10000}: {self.name}"

    @property
    def parallel(self) -> bool:
        return self.options.get("streaming") == "parallel"

    def messages(self) -> list[Message]:
        return [message for _, message, _ in self.decoded()]

    def decoded(self) -> Iterator[tuple[bytes, Message, bool]]:
        """Every message: its bytes, its value, and whether a block was open before it."""
        parser = Parser(parallel=self.parallel)
        for frame in map(decode_frame, self.frames):
            if isinstance(frame, XLogData):
                streaming = parser.in_stream
                yield frame.payload, parser.decode(frame.payload), streaming


@cache
def recordings() -> tuple[Recording, ...]:
    found = tuple(recording for path in sorted(HERE.glob("pg*.json")) for recording in _read(path))
    assert found, "the recordings are missing"
    return found


def _read(path: Path) -> Iterator[Recording]:
    described = json.loads(path.read_text(encoding="utf-8"))
    data = path.with_suffix(".bin").read_bytes()
    at = 0
    for scenario in described["scenarios"]:
        assert scenario["begin"] == at
        frames = []
        for _ in range(scenario["frames"]):
            (size,) = struct.unpack_from(">I", data, at)
            frames.append(data[at + 4 : at + 4 + size])
            at += 4 + size

        yield Recording(
            version=described["server_version"],
            name=scenario["name"],
            options=scenario["options"],
            expect=scenario["expect"],
            frames=tuple(frames),
        )

    assert at == len(data)
