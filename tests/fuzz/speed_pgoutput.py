"""How many messages a second the parser decodes. Run by hand:

python -m tests.fuzz.speed_pgoutput
"""

from __future__ import annotations

import timeit
from collections.abc import Callable

from pgcdc_outbox.pgoutput import Begin, Commit, Insert, Parser, Row, XLogData, decode_frame
from pgcdc_outbox.pgoutput.rows import read_row

COLUMNS = 10
ROUNDS, REPEATS = 20_000, 15


def main() -> None:
    values = (b"\0" * 8, None, b"some text here", b"x" * 100)
    row = Row(tuple(values[n % len(values)] for n in range(COLUMNS)), b"b" * COLUMNS)
    insert = Insert(16384, row).encode()
    frame = memoryview(XLogData(1 << 32, 1 << 32, 0, insert).encode())
    decode = Parser().decode
    report("Begin", decode, Begin(1 << 32, 0, 767).encode())
    report("Commit", decode, Commit(0, 1 << 32, (1 << 32) + 40, 0).encode())
    report(f"Insert, {COLUMNS} columns", decode, insert)
    report(f"row alone, {COLUMNS} columns", lambda data: read_row(data, 6, "Insert"), insert)
    report("XLogData", decode_frame, frame)


def report(name: str, run: Callable[[bytes], object], data: bytes | memoryview) -> None:
    # The fastest of many: the rest is what else the machine was doing.
    seconds = min(
        timeit.repeat(
            "run(data)", globals={"run": run, "data": data}, number=ROUNDS, repeat=REPEATS
        )
    )
    print(f"{name:24} {ROUNDS / seconds:12,.0f} /s")


if __name__ == "__main__":
    main()
