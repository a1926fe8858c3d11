"""A data folder: what ``initdb`` makes, what configures it, and the log beside it."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pgcdc_outbox.testing.account import Account
from pgcdc_outbox.testing.binaries import Binaries
from pgcdc_outbox.testing.errors import ServerUnavailable
from pgcdc_outbox.testing.places import shared_folder

# Whoever gets to the socket's folder is trusted; TCP has no such folder.
INITDB = (
    "--username=postgres",
    "--auth-local=trust",
    "--auth-host=scram-sha-256",
    "--encoding=UTF8",
    "--locale=C",
    "--no-sync",
    "--no-instructions",
)

STILL_IN_USE = "is still in use"


class Cluster:
    """One data folder and the account that it belongs to."""

    def __init__(self, data: Path, account: Account) -> None:
        self.data = data
        self._account = account
        self._log_start = 0

    @classmethod
    def locate(cls, data: Path, account: Account) -> Self:
        """Find the folder's real place: where it was asked for, unless nobody gets there."""
        data.parent.mkdir(parents=True, exist_ok=True)

        if not data.exists():
            # A link with nothing behind it was left by a clean-up of the temporary folder.
            data.unlink(missing_ok=True)
            if not account.reaches(data.parent):
                data.symlink_to(tempfile.mkdtemp(prefix="data-", dir=shared_folder(account)))

        return cls(data.resolve(), account)

    @property
    def log(self) -> Path:
        """The file that the server logs to."""
        return self.data / "server.log"

    def create(self, binaries: Binaries, copy_of: "Cluster | None" = None) -> None:
        """Make a cluster, unless there is one: a new one, or a copy of one that is not in use."""
        if self._exists():
            return

        if self.data.exists() and any(self.data.iterdir()):
            raise ServerUnavailable(
                f"{self.data} is neither empty nor a data folder",
                hint="Name another folder, or remove this one.",
            )
        if not self._account.reaches(self.data.parent):
            raise ServerUnavailable(
                f"the user that the server runs as is not let into {self.data.parent}",
                hint="Name a data folder that does not exist yet, or one outside this folder.",
            )

        # Renamed when complete: half a cluster could never be started nor replaced.
        draft = self.data.with_name(f"{self.data.name}.new")
        shutil.rmtree(draft, ignore_errors=True)
        if copy_of is not None:
            self._copy(copy_of.data, draft)
        else:
            draft.mkdir(mode=0o700)
            self._account.own(draft)
            self._initdb(binaries, draft)

        draft.rename(self.data)

    def make_standby(self) -> None:
        """Let the copied cluster follow another, without that one's slots."""
        for slot in (self.data / "pg_replslot").iterdir():
            shutil.rmtree(slot)

        signal = self.data / "standby.signal"
        signal.touch()
        self._account.own(signal)

    def configure(self, settings: Mapping[str, str], file: Path) -> list[str]:
        """Write settings to a file, and return arguments with which ``postgres`` uses them.

        The file is not in the data folder: should that be in use, we leave no trace in it.
        """
        # First those that initdb found to suit this machine. What ALTER SYSTEM sets comes last.
        machine = self.data / "postgresql.conf"
        lines = [f"include {_quote(str(machine))}"]
        lines += [f"{name} = {_quote(value)}" for name, value in settings.items()]
        file.write_text("\n".join(lines) + "\n")
        self._account.own(file)
        return ["-D", str(self.data), "-c", f"config_file={file}"]

    def mark_log(self) -> None:
        """Remember that what the log says up to here is about earlier starts."""
        self._log_start = self.log.stat().st_size if self.log.exists() else 0

    def log_tail(self, lines: int) -> str:
        """Return the end of what the log says since it was marked."""
        if not self.log.exists():
            return ""
        text = self.log.read_bytes()[self._log_start :].decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def is_still_in_use(self) -> bool:
        """Tell whether the last start failed because a dead server's children live on."""
        return STILL_IN_USE in self.log_tail(20)

    def _exists(self) -> bool:
        try:
            os.stat(self.data / "PG_VERSION")
        except FileNotFoundError:
            return False
        except PermissionError as error:
            raise ServerUnavailable(
                f"the data folder {self.data} belongs to another user",
                hint="Remove it, or run this as the user who made it.",
            ) from error
        return True

    def _copy(self, data: Path, draft: Path) -> None:
        # Neither belongs to the data.
        ignored = shutil.ignore_patterns("postmaster.pid", "server.log")
        shutil.copytree(data, draft, symlinks=True, ignore=ignored)
        for path in (draft, *draft.rglob("*")):
            self._account.own(path)

    def _initdb(self, binaries: Binaries, folder: Path) -> None:
        try:
            subprocess.run(  # noqa: S603
                [binaries.bin / "initdb", *INITDB, "-D", folder],
                cwd="/",
                env=binaries.environment(),
                user=self._account.user,
                group=self._account.group,
                extra_groups=self._account.extra_groups,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=True,
            )
        except subprocess.CalledProcessError as error:
            raise ServerUnavailable(f"initdb failed:\n\n{error.stdout}") from error


def _quote(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
