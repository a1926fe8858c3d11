"""A library in an environment of its own, made from its requirements file."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from psycopg.conninfo import conninfo_to_dict

from benchmarks.case import Sample
from benchmarks.place import Place
from benchmarks.usage import ServerUsage

_PEERS: Final = Path(__file__).with_name("peers")
_ENVIRONMENTS: Final = Path(__file__).with_name(".venv")
_NEEDS: Final = re.compile(r"^# needs Python (\d+)\.(\d+)$", re.MULTILINE)
_NEWEST: Final = 99  # of Python 3: further than this is not looked


class NoInterpreter(Exception):
    """A peer needs a newer Python than any that is here."""


class Peer:
    """One of them: ``NAME.txt`` says what to install, ``NAME_jobs.py`` fills and drains."""

    def __init__(self, name: str) -> None:
        """Raises `NoInterpreter` if it cannot run on this machine."""
        self.name = name
        self._requirements = _PEERS / f"{name}.txt"
        self._program = _PEERS / f"{name}_jobs.py"
        self._base = self._interpreter()

    def run(self, place: Place, jobs: int, *, tuned: bool) -> Sample:
        """Fill its queue in an empty database, which is not counted, and drain it."""
        self._python()  # installs it, if it is not, before anything is timed
        with place.database() as dsn:
            task = {"place": conninfo_to_dict(dsn), "jobs": jobs, "tuned": tuned}
            self._do({**task, "step": "fill"})
            with ServerUsage(place.postmaster) as server:
                told = self._do({**task, "step": "drain"})

        if told["jobs"] != jobs:
            raise RuntimeError(f"{self.name}: {jobs} jobs were there, {told['jobs']} came")

        return Sample(value=jobs / told["seconds"], also=server.per_job(jobs))

    @property
    def version(self) -> str:
        """What is installed, as its requirements name it, and in which Python if not in ours."""
        lines = self._requirements.read_text().splitlines()
        library = next(line for line in lines if not line.startswith("#"))
        return library if self._base == sys.executable else f"{library}, {Path(self._base).name}"

    def _do(self, task: dict[str, Any]) -> dict[str, Any]:
        # Not as an argument: there may be a password in it.
        done = subprocess.run(
            [self._python(), self._program],
            input=json.dumps(task),
            capture_output=True,
            text=True,
            env={name: text for name, text in os.environ.items() if name != "PYTHONPATH"},
        )
        if done.returncode:
            raise RuntimeError(f"{self.name} failed:\n{done.stderr[-2000:]}")

        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return told

    def _interpreter(self) -> str:
        """The one that its environment is made with: ours, or the oldest that will do."""
        needs = _NEEDS.search(self._requirements.read_text())
        if needs is None or sys.version_info[:2] >= (least := (int(needs[1]), int(needs[2]))):
            return sys.executable

        for minor in range(least[1], _NEWEST + 1):
            found = shutil.which(f"python{least[0]}.{minor}")
            # Tried, because a version manager leaves names on the path that only complain.
            if found and not subprocess.run([found, "-c", ""], capture_output=True).returncode:
                return found

        raise NoInterpreter(
            f"{self.name} needs Python {least[0]}.{least[1]} or newer: put one on the PATH"
        )

    def _python(self) -> Path:
        """Its interpreter. Its environment is made anew when the requirements change."""
        mark = hashlib.sha256(self._requirements.read_bytes()).hexdigest()[:12]
        folder = _ENVIRONMENTS / f"{self.name}-{mark}"
        python = folder / "bin" / "python"
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([self._base, "-m", "venv", folder], check=True)
            subprocess.run(
                [python, "-m", "pip", "install", "--quiet", "--requirement", self._requirements],
                check=True,
            )
            (folder / "complete").touch()

        return python
