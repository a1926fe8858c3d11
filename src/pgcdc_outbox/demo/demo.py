"""The demo from start to end: a server, a run, the count, and what to try next."""

import shlex
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import anyio

from pgcdc_outbox.demo.audit import audit, examine
from pgcdc_outbox.demo.folder import clear
from pgcdc_outbox.demo.producers import COUNT
from pgcdc_outbox.demo.report import table, verdict
from pgcdc_outbox.demo.screen import Screen
from pgcdc_outbox.demo.shop import create_shop
from pgcdc_outbox.demo.trial import Trial
from pgcdc_outbox.postgres.migrate import migrate
from pgcdc_outbox.postgres.partition.maintenance import Maintenance
from pgcdc_outbox.testing import PostgresServer


def show(
    data: Path,
    screen: Screen,
    *,
    fresh: bool,
    seconds: float | None,
    orders: int | None,
    keep_running: bool,
) -> bool:
    """Show the demo, and tell whether it went as it must.

    Raises `OutboxError` and `ServerUnavailable`; KeyboardInterrupt at the second signal.
    """
    if fresh:
        clear(data)

    screen.say(f"Starting PostgreSQL on the data folder {data} ...")
    # Durable: a commit waits for the disk, as it does in production.
    with PostgresServer.start(data, durable=True) as server:
        dsn = server.dsn()
        migrate(dsn)
        Maintenance(dsn).once()
        create_shop(dsn)
        screen.say(*_introduction(server, seconds, orders), "")

        trial = Trial(dsn, seconds=seconds, orders=orders, screen=screen)
        _run(trial)

        found = audit(
            trial.record, examine(dsn, trial.name, trial.record, lag_bytes=trial.lag_bytes)
        )
        screen.say("", *table(found), "")
        screen.verdict(verdict(found), good=found.good)
        screen.say("", *_what_next(server, data, keep_running=keep_running))
        if keep_running:
            anyio.run(_until_a_signal)

    return found.good


def _introduction(server: PostgresServer, seconds: float | None, orders: int | None) -> list[str]:
    length = f"for {seconds:g} s" if orders is None else f"until there are {orders:,}"
    version = f"{server.version // 10000}.{server.version % 10000}"
    return [
        f"PostgreSQL {version} is up, the outbox is migrated, and a consumer reads the log.",
        f"{COUNT} producers place orders {length}, each with its job in one transaction.",
        "Some roll back; some jobs fail, once or for good; some are due later.",
    ]


def _run(trial: Trial) -> None:
    try:
        anyio.run(trial.run)
    except BaseExceptionGroup as group:
        cause: BaseException = group
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]

        raise cause from None


def _what_next(server: PostgresServer, data: Path, *, keep_running: bool) -> Sequence[str]:
    kept = f"The data is kept in {data}, for the next run; --fresh starts anew."
    log = f"The log of the server: {data / server.log.name}"
    if not keep_running:
        return [kept, log, "To look around with the server still up: --keep-running"]

    psql = "psql" if shutil.which("psql") else str(server.program("psql") or "psql")
    dsn = shlex.quote(server.dsn())
    return [
        kept,
        log,
        "The consumer has ended; the server is up until Ctrl-C. Try in another terminal:",
        "",
        f"  pgcdc-outbox --dsn {dsn} status",
        f"  pgcdc-outbox --dsn {dsn} lag",
        f"  pgcdc-outbox --dsn {dsn} dead list",
        f"  {shlex.quote(psql)} {dsn} -c 'table outbox.job limit 5'",
    ]


async def _until_a_signal() -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            return
