"""One running ``postgres`` process, the parent of all others of its server."""

import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pgcdc_outbox.testing.account import Account

Mode = Literal["smart", "fast", "immediate"]

SIGNALS: Mapping[Mode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}

# Reading fails when we are gone, however we went, and then the server has to go too. The
# lock file is read again at that moment: only the server that we started is ended. What
# was temporary goes when it has ended, for it may take up memory.
GUARD = """
read -r dismissed && exit
read -r pid < "$1/postmaster.pid" && test "$pid" = "$2" && kill -INT "$pid" || exit
test -n "$3" || exit
while kill -0 "$pid"; do sleep 0.1; done
rm -rf "$3"
"""


class Postmaster:
    """A process, and a guard that ends it should we die without doing so."""

    def __init__(self, process: subprocess.Popen[bytes], guard: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._guard = guard

    @classmethod
    def launch(
        cls,
        command: list[str | Path],
        *,
        data: Path,
        log: Path,
        account: Account,
        environment: Mapping[str, str],
        temporary: Path | None = None,
    ) -> Self:
        """Start the process. It is not ready for connections yet.

        ``temporary`` is removed after it if we die.
        """

        # In a session of its own, so that Ctrl-C reaches the program and not its server;
        # in the root folder, because the account may not be let into ours.
        def spawn(
            command: list[str | Path], stdin: int, output: int | None
        ) -> subprocess.Popen[bytes]:
            return subprocess.Popen(  # noqa: S603
                command,
                stdin=stdin,
                stdout=output,
                stderr=output,
                cwd="/",
                env=environment,
                user=account.user,
                group=account.group,
                extra_groups=account.extra_groups,
                start_new_session=True,
            )

        with log.open("ab") as file:
            account.own(log)
            process = spawn(command, subprocess.DEVNULL, file.fileno())

        watch: list[str | Path] = ["/bin/sh", "-c", GUARD, "guard", data, str(process.pid)]
        watch.append(temporary or "")
        return cls(process, spawn(watch, subprocess.PIPE, subprocess.DEVNULL))

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def end(self, mode: Mode, *, timeout: float) -> bool:
        """Ask the server to shut down, and tell whether it did in time."""
        if self.running:
            self._process.send_signal(SIGNALS[mode])
        return self._wait(timeout)

    def kill(self) -> None:
        """End the process as a crash would. Its children notice, and follow."""
        if self.running:
            self._process.kill()
        self._wait(None)

    def _wait(self, timeout: float | None) -> bool:
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        self._dismiss_guard()
        return True

    def _dismiss_guard(self) -> None:
        if self._guard.poll() is None:
            self._guard.communicate(b"dismissed\n")
