"""Folders that a server's account can reach.

Root's home is closed to everyone else, and a checkout or a virtual environment may well
be in it: what the server needs from there is kept, or copied, in the temporary folder.
"""

import os
import stat
import tempfile
from pathlib import Path
from shutil import disk_usage

from pgcdc_outbox.testing.account import Account
from pgcdc_outbox.testing.errors import ServerUnavailable

# A socket's whole path has to fit into 103 bytes (macOS) or 107 (Linux).
LONGEST_SOCKET_FOLDER = 103 - len("/.s.PGSQL.65535")

# Where Linux keeps files in memory. Containers often have no more than 64 MB of it.
MEMORY = Path("/dev/shm")  # noqa: S108 - only ever through mkdtemp
ENOUGH_MEMORY = 4 * 1024**3


def private_folder(account: Account, *, prefix: str, in_memory: bool = False) -> Path:
    """Make a folder for this account alone, with a path short enough for a socket.

    ``in_memory`` prefers one whose files are not on a disk, if there is room for plenty of
    them and TMPDIR names no other.
    """
    # What mkdtemp adds to the prefix: eight characters, and the slash before it.
    room = LONGEST_SOCKET_FOLDER - len(prefix) - 9

    in_memory = in_memory and "TMPDIR" not in os.environ and _is_roomy(MEMORY)
    for place in [*([MEMORY] if in_memory else []), *_temporary_folders()]:
        if len(os.fsencode(place)) <= room and account.reaches(place):
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
            account.own(folder)
            return folder

    raise ServerUnavailable(
        "no temporary folder is both short enough for a socket and open to the server's user",
        hint="Set TMPDIR to such a folder.",
    )


def shared_folder(account: Account) -> Path:
    """Find, or make, the folder whose contents only we write and every account may read.

    Its name is known beforehand, so that what is in it is found again; for the same reason
    somebody else may have made it first, with programs of theirs in it.
    """
    for place in _temporary_folders():
        if not account.reaches(place):
            continue

        folder = place / f"pgcdc-outbox-{os.geteuid()}"
        folder.mkdir(mode=0o755, exist_ok=True)
        found = folder.lstat()
        writable_by_others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)

        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not writable_by_others:
            folder.chmod(0o755)  # the umask had its say in mkdir
            return folder

    return private_folder(account, prefix="pgcdc-")


def _temporary_folders() -> list[Path]:
    places = [tempfile.gettempdir(), "/var/tmp", "/tmp"]  # noqa: S108 - only ever through mkdtemp
    return [Path(place) for place in dict.fromkeys(places) if os.access(place, os.W_OK | os.X_OK)]


def _is_roomy(place: Path) -> bool:
    try:
        return os.access(place, os.W_OK | os.X_OK) and disk_usage(place).free >= ENOUGH_MEMORY
    except OSError:
        return False
