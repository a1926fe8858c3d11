"""What tests need: a PostgreSQL server of one's own, a clean outbox, and clients without either.

The servers need no installed PostgreSQL, no container and no rights: the programs come from
a wheel, the server listens on a private socket, and it ends with whoever started it. (The
demo uses them too.) pytest finds the fixtures by itself; they are in `testing.plugin`.

The names below are imported when they are first used: pytest loads the plugin in every
run of everybody who has installed this package.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgcdc_outbox.testing.binaries import Binaries
    from pgcdc_outbox.testing.enqueued import EnqueuedJob
    from pgcdc_outbox.testing.errors import DrainTimeout, NotClean, ServerUnavailable
    from pgcdc_outbox.testing.inline import AsyncInlineClient, InlineClient
    from pgcdc_outbox.testing.outbox import Outbox
    from pgcdc_outbox.testing.report import Execution, FailedJob, Report
    from pgcdc_outbox.testing.server import PostgresServer

__all__ = [
    "AsyncInlineClient",
    "Binaries",
    "DrainTimeout",
    "EnqueuedJob",
    "Execution",
    "FailedJob",
    "InlineClient",
    "NotClean",
    "Outbox",
    "PostgresServer",
    "Report",
    "ServerUnavailable",
]

_HOMES = {
    "AsyncInlineClient": "inline",
    "Binaries": "binaries",
    "DrainTimeout": "errors",
    "EnqueuedJob": "enqueued",
    "Execution": "report",
    "FailedJob": "report",
    "InlineClient": "inline",
    "NotClean": "errors",
    "Outbox": "outbox",
    "PostgresServer": "server",
    "Report": "report",
    "ServerUnavailable": "errors",
}


def __getattr__(name: str) -> Any:
    if (home := _HOMES.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
