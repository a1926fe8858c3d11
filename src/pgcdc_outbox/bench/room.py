"""A schema to measure in, made for one run and taken away after it, however it ends."""

import secrets
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

from psycopg import Connection, errors

from pgcdc_outbox.bench.figures import Durability
from pgcdc_outbox.errors import OutboxError, SourceUnavailable
from pgcdc_outbox.postgres.connection import Row, run, session
from pgcdc_outbox.postgres.migrate import migrate
from pgcdc_outbox.postgres.names import lock_key, slot_name
from pgcdc_outbox.postgres.partition.maintenance import Maintenance

READER: Final = "bench"
"""The consumer that has a slot."""

_PATIENCE_SECONDS: Final = 15.0


@contextmanager
def room(conninfo: str) -> Iterator[tuple[str, Durability]]:
    """The name of an outbox of its own, with its partitions, and how durable its server is.

    Takes away first what killed runs have left. SIGTERM ends the block as Ctrl-C does,
    and neither disturbs the cleaning up.
    """
    schema = f"pgcdc_bench_{secrets.token_hex(4)}"
    with _heeding_signals(), session(conninfo, doing="measure") as watch:
        _clear_left(watch)
        _lock(watch, schema)
        try:
            migrate(conninfo, schema=schema)
            run(watch, "bench_mark", schema)
            Maintenance(conninfo, schema=schema).once()
            settings = run(watch, "bench_settings", schema).fetchone()
            assert settings is not None
            yield schema, Durability(**settings)
        finally:
            with _undisturbed():
                _leave(conninfo, schema)


def _leave(conninfo: str, schema: str) -> None:
    # Over a connection of its own: the other one may be what broke.
    try:
        with session(conninfo, doing="clean up") as connection:
            _clear(connection, schema)
    except OutboxError as error:
        raise SourceUnavailable(
            f"schema {schema} and perhaps its slot are left behind: {error}",
            hint="The next `pgcdc-outbox bench` removes them. Until then the slot keeps WAL.",
        ) from error


def _clear_left(connection: Connection[Row]) -> None:
    """Take away what nobody measures in any more."""
    for row in run(connection, "bench_left", "").fetchall():
        if _lock(connection, row["schema"]):
            _clear(connection, row["schema"])


def _lock(connection: Connection[Row], schema: str) -> bool:
    row = run(connection, "bench_lock", "", key=lock_key(schema, "bench")).fetchone()
    return bool(row and row["taken"])


def _clear(connection: Connection[Row], schema: str) -> None:
    found = run(connection, "whereabouts_now", "").fetchone()
    assert found is not None
    slot = slot_name(schema, READER, found["oid"])
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            run(connection, "bench_end_reader", "", slot=slot)
            run(connection, "drop_slot", "", slot=slot)
            break
        except errors.ObjectInUse:
            if time.monotonic() > deadline:
                raise

            time.sleep(0.05)

    run(connection, "bench_clear", schema)


@contextmanager
def _heeding_signals() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        # Not a KeyboardInterrupt here: a loop that runs has a better answer to SIGINT, and
        # raised amid its tasks one could be lost.
        signal.raise_signal(signal.SIGINT)

    with _handling({signal.SIGTERM: interrupt}):
        yield


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let no signal end the block."""
    with _handling({signal.SIGTERM: signal.SIG_IGN, signal.SIGINT: signal.SIG_IGN}):
        yield


@contextmanager
def _handling(handlers: dict[signal.Signals, Any]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are not ours to handle
        return

    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
