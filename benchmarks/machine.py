"""What the figures were measured on."""

import os
import platform
import subprocess
from pathlib import Path

import psycopg
from msgspec import Struct

SETTINGS = (
    "fsync",
    "full_page_writes",
    "max_wal_size",
    "server_version",
    "shared_buffers",
    "synchronous_commit",
    "wal_level",
)


class Facts(Struct, frozen=True, kw_only=True):
    """The machine, the programs and the settings of the server."""

    processor: str
    processors: int
    memory_gib: float
    system: str
    python: str
    psycopg: str
    commit: str
    server: dict[str, str]


def look(dsn: str) -> Facts:
    """Collect them."""
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "select name, current_setting(name) from unnest(%s::text[]) as name", [list(SETTINGS)]
        )
        server = {str(name): str(value) for name, value in rows}

    return Facts(
        processor=_processor(),
        processors=os.cpu_count() or 1,
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        system=f"{platform.system()} {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        psycopg=f"{psycopg.__version__} ({psycopg.pq.__impl__})",
        commit=_commit(),
        server=server,
    )


def load() -> float:
    """The load average of the last minute."""
    return round(os.getloadavg()[0], 2)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()

    return platform.machine()


def _commit() -> str:
    """Which state of the code it was; a plus says that files were changed."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except FileNotFoundError:
        return ""
