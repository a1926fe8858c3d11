"""The data folder of the demo, and its removal."""

import os
import shutil
from pathlib import Path

from pgcdc_outbox.errors import SettingsError


def clear(data: Path) -> None:
    """Remove a data folder, if there is one.

    Raises `SettingsError` rather than remove anything else, or what a server is using.
    """
    place = data.resolve()  # root's may be a link into the temporary folder
    if place.exists() and any(place.iterdir()):
        if not (place / "PG_VERSION").is_file():
            raise SettingsError(
                f"data: {data} is not a data folder of PostgreSQL, so it is not removed",
                hint="Name another folder with --data.",
            )

        if pid := _server(place):
            raise SettingsError(
                f"data: a server (pid {pid}) is using {data}",
                hint="End the other demo, or name another folder with --data.",
            )

    shutil.rmtree(place, ignore_errors=True)
    if data.is_symlink():
        data.unlink()


def _server(place: Path) -> int | None:
    """The server that is running on a data folder."""
    try:
        pid = int((place / "postmaster.pid").read_text().split("\n", 1)[0])
        os.kill(pid, 0)
    except (OSError, ValueError):
        return None

    return pid
