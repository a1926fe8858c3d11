"""pgbench: many clients that commit jobs as fast as they can, or at a given rate."""

import random
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct

from benchmarks.latency import Key
from benchmarks.place import Place

# A mark as `task.MARK` reads it, not like that of any other run; then as much as makes
# forty bytes of it.
MARKED: Final = r"""
\set n :n + 1
insert into outbox.immediate (topic, payload)
values (
    'bench',
    int4send(:run::int + :client_id::int) || int8send(:n::bigint)
        || '\x78787878787878787878787878787878787878787878787878787878'::bytea
);
"""

_RATE: Final = re.compile(r"^tps = ([\d.]+)", re.MULTILINE)


class Load(Struct, frozen=True, kw_only=True):
    """What clients did."""

    commits_per_second: float
    committed: dict[Key, int]
    """When each commit returned, in nanoseconds since 1970; empty if not asked for."""


def run(
    place: Place,
    dsn: str,
    script: str,
    *,
    clients: int,
    seconds: float,
    rate: int | None = None,
    log: bool = False,
) -> Load:
    """Run clients for some time. With ``log`` the script counts ``n`` for each client, from 1."""
    mark = random.getrandbits(30)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "script.sql")
        file.write_text(script)
        ran = place.programs.run(
            "pgbench", dsn, "--no-vacuum", "--protocol=prepared", f"--file={file}",
            f"--client={clients}", f"--jobs={min(clients, 2)}", f"--time={max(1, round(seconds))}",
            "--define=n=0", f"--define=run={mark}",
            *([] if rate is None else [f"--rate={rate}"]),
            *(["--log", "--log-prefix=log"] if log else []),
            cwd=folder,
        )  # fmt: skip
        committed = dict(_committed(Path(folder), mark)) if log else {}

    found = _RATE.search(ran.output)
    if found is None:
        raise RuntimeError(f"pgbench said no rate:\n{ran.output}")

    return Load(commits_per_second=float(found[1]), committed=committed)


def _committed(folder: Path, mark: int) -> Iterator[tuple[Key, int]]:
    # A client is in one file, for it belongs to one thread, and its lines are in order.
    numbers: dict[int, int] = {}
    for file in folder.glob("log.*"):
        for line in file.read_text().splitlines():
            client, _, _, _, seconds, microseconds, *_ = map(int, line.split())
            numbers[client] = number = numbers.get(client, 0) + 1
            yield (mark + client, number), seconds * 1_000_000_000 + microseconds * 1000
