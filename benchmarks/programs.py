"""Programs of PostgreSQL, run against a database: pgbench, pg_recvlogical."""

import os
import subprocess
import tempfile
import time

from msgspec import Struct
from psycopg.conninfo import conninfo_to_dict

from benchmarks.usage import Usage
from pgcdc_outbox.testing.binaries import Binaries


class Ran(Struct, frozen=True, kw_only=True):
    """A program that ended well."""

    output: str
    seconds: float
    usage: Usage


class Programs:
    """The programs beside a server's."""

    def __init__(self, binaries: Binaries) -> None:
        self._binaries = binaries

    def run(self, name: str, dsn: str, *arguments: str, cwd: str | None = None) -> Ran:
        """Run one to its end. Where the database is goes through its environment.

        Raises `RuntimeError` with what it said if it failed.
        """
        if (program := self._binaries.program(name)) is None:
            raise RuntimeError(f"there is no {name} in {self._binaries.bin}")

        with tempfile.TemporaryFile() as output:
            started = time.perf_counter()
            process = subprocess.Popen(
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._binaries.environment() | environment(dsn),
                cwd=cwd,
            )
            try:
                _, status, used = os.wait4(process.pid, 0)
            except BaseException:
                process.kill()
                raise

            seconds = time.perf_counter() - started
            process.returncode = os.waitstatus_to_exitcode(status)
            output.seek(0)
            text = output.read().decode(errors="replace")

        if process.returncode:
            raise RuntimeError(f"{name} failed with {process.returncode}:\n{text}")

        return Ran(output=text, seconds=seconds, usage=Usage.counted(used))


def environment(dsn: str) -> dict[str, str]:
    """Variables with which libpq finds the database: no password shows in a list of processes."""
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE"}
    names |= {"password": "PGPASSWORD", "sslmode": "PGSSLMODE", "passfile": "PGPASSFILE"}
    parameters = conninfo_to_dict(dsn)
    if unknown := set(parameters) - set(names):
        raise RuntimeError(f"the DSN has parameters that are not handed on: {sorted(unknown)}")

    return {names[key]: str(value) for key, value in parameters.items()}
