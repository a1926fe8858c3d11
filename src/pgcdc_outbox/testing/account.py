"""The operating system's account that a server runs under.

PostgreSQL refuses to run as root. An ordinary user runs a server as himself; root hands
it to an account that owns nothing else of interest.
"""

import os
import pwd
import stat
from pathlib import Path
from typing import Self

from msgspec import Struct

from pgcdc_outbox.testing.errors import ServerUnavailable

# In order of preference. Both exist to run things that should not be root.
UNPRIVILEGED = ("postgres", "nobody")


class Account(Struct, frozen=True):
    """Who a server's processes belong to."""

    uid: int
    gid: int

    @classmethod
    def for_data(cls, data: Path | None) -> Self:
        """Choose the account for a server with this data folder, which need not exist."""
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid())
        owner = _owner_of_cluster(data) if data else None
        # A folder that an ordinary user's server made stays that user's.
        return cls(owner.st_uid, owner.st_gid) if owner else cls._unprivileged()

    @classmethod
    def _unprivileged(cls) -> Self:
        for name in UNPRIVILEGED:
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(entry.pw_uid, entry.pw_gid)
        raise ServerUnavailable(
            "PostgreSQL does not run as root, and this system has no account to run it under",
            hint="Create a user named 'postgres', or run this as an ordinary user.",
        )

    @property
    def user(self) -> int | None:
        """The ``user`` argument of `subprocess.Popen`: none when there is nothing to change."""
        return None if self._is_ours else self.uid

    @property
    def group(self) -> int | None:
        """The ``group`` argument of `subprocess.Popen`."""
        return None if self._is_ours else self.gid

    @property
    def extra_groups(self) -> list[int] | None:
        """The ``extra_groups`` argument of `subprocess.Popen`: root's must not be kept."""
        return None if self._is_ours else []

    def own(self, path: Path) -> None:
        """Give a file or folder to this account."""
        if not self._is_ours:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def reaches(self, path: Path) -> bool:
        """Tell whether every folder on the way to ``path``, and ``path``, let us through."""
        if self._is_ours:
            return True
        real = path.resolve()
        return all(self._may_enter(place) for place in (real, *real.parents) if place.exists())

    @property
    def _is_ours(self) -> bool:
        return self.uid == os.geteuid()

    def _may_enter(self, place: Path) -> bool:
        found = place.stat()

        if found.st_uid == self.uid:
            return bool(found.st_mode & stat.S_IXUSR)
        if found.st_gid == self.gid:
            return bool(found.st_mode & stat.S_IXGRP)
        return bool(found.st_mode & stat.S_IXOTH)


def _owner_of_cluster(data: Path) -> os.stat_result | None:
    try:
        found = (data / "PG_VERSION").stat()
    except FileNotFoundError:
        return None
    return found if found.st_uid != 0 else None
