"""Fuzz the parser with atheris, guided by coverage. Run by hand:

    pip install atheris
    python -m tests.fuzz.fuzz_pgoutput --seeds corpus     # once: recorded messages
    python -m tests.fuzz.fuzz_pgoutput corpus -max_total_time=300 -max_len=2048

It stops at the first input that is neither understood nor refused properly.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path


def write_seeds(folder: Path) -> None:
    """Write the recorded messages, one for every kind and length."""
    # Not above: what is imported before atheris looks on is not instrumented.
    from tests.recordings import recordings

    folder.mkdir(parents=True, exist_ok=True)
    seeds = {
        (data[0], len(data), streaming): data
        for recording in recordings()
        for data, _, streaming in recording.decoded()
    }
    for data in seeds.values():
        (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def main() -> None:
    if sys.argv[1:2] == ["--seeds"]:
        write_seeds(Path(sys.argv[2]))
        return

    import atheris

    with atheris.instrument_imports(include=["pgcdc_outbox.pgoutput"]):
        from tests.fuzz.pgoutput_target import check

    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
