"""`consume`: run a handler on the jobs of the outbox, until a signal ends it."""

import logging
import os
import signal
import sys
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click

from pgcdc_outbox.cli.options import Options, pass_options
from pgcdc_outbox.cli.parameters import duration, size

if TYPE_CHECKING:
    from pgcdc_outbox import Consumer, RetryPolicy
    from pgcdc_outbox.events import Event

# Which option sets which field of the retry policy.
_RETRY: Final = {
    "max_attempts": "max_attempts",
    "retry_delay": "first_delay",
    "retry_max_delay": "max_delay",
}
_LOG_LINE: Final = "%(asctime)s %(levelname)-7s %(name)s %(message)s"


@click.command("consume")
@click.option("--handler", metavar="MODULE:NAME", help="Where the handler is.")
@click.option("--name", help="Name of the consumer.  [default: default]")
@click.option(
    "--mode",
    type=click.Choice(["logical", "polling", "auto"]),
    help="How jobs are read: from the log, by polling the table, or whichever is possible.",
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Most jobs in one call.")
@click.option("--linger", type=duration, help="How long a batch waits for more jobs, such as 50ms.")
@click.option("--concurrency", type=click.IntRange(min=1), help="Most calls at the same time.")
@click.option(
    "--ordering",
    type=click.Choice(["none", "key", "strict_key"]),
    help="Jobs of one key in order: not at all, when they start, or also across retries.",
)
@click.option("--prefetch", type=click.IntRange(min=1), help="Jobs held ahead of the handler.")
@click.option("--poll-interval", type=duration, help="Wait between two polls, such as 50ms.")
@click.option(
    "--max-retained-wal",
    type=size,
    help="In mode auto: poll rather than let the slot keep more log.",
)
@click.option("--max-attempts", type=click.IntRange(min=1), help="Then a job is dead.")
@click.option("--retry-delay", type=duration, help="Delay before the first retry.")
@click.option("--retry-max-delay", type=duration, help="Delays double up to this.")
@click.option(
    "--audit",
    type=click.Choice(["none", "failures", "all"]),
    help="Of which executions to keep a row.",
)
@click.option("--drain-timeout", type=duration, help="What calls may take after a signal.")
@click.option(
    "--on-slot-loss", type=click.Choice(["reconcile", "stop"]), help="When the slot is lost."
)
@click.option("--failover/--no-failover", default=None, help="Have standbys copy the slot.")
@click.option("--shutdown-grace", type=duration, help="... when the server shuts down.")
@click.option(
    "--wal-sender-timeout", type=duration, help="Then the server gives up a reader that is gone."
)
@click.option("--maintain/--no-maintain", default=None, help="Keep the partitions, too.")
@click.option("--once", is_flag=True, help="Handle what is committed by now, then end.")
@click.option("--quiet", "level", flag_value=logging.WARNING, type=int, help="Log only trouble.")
@click.option("--verbose", "level", flag_value=logging.DEBUG, type=int, help="Log every batch.")
@pass_options
@click.pass_context
def command(
    ctx: click.Context, options: Options, /, once: bool, level: int | None, **flags: Any
) -> None:
    """Run a handler on the jobs of the outbox.

    A handler is a Router, or a function or an object with a method `handle` that
    takes a batch of jobs. SIGTERM or Ctrl-C lets running calls finish; a second one
    cancels them. What they leave undone comes again with the next start.

    Flags come first, then the table [consume] of --config. Exits with 1 if
    calls had to be abandoned.
    """
    import anyio

    abandonments = _Abandonments()
    consumer = _consumer(options, flags, abandonments)
    _log_to_stderr(logging.INFO if level is None else level)
    code = 1
    try:
        abandoned = anyio.run(partial(_run, consumer, once=once))
        code = 1 if abandoned else 0
    finally:
        if abandonments.calls:
            ctx.find_root().call_on_close(partial(_leave, code))

    if abandoned:
        click.echo(f"warning: {abandoned} calls of the handler were abandoned", err=True)
        click.echo("hint: Their jobs come again with the next start.", err=True)

    ctx.exit(code)


class _Abandonments:
    """Counts calls that did not end in time, also of earlier holds and of ones that failed."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, event: "Event") -> None:
        from pgcdc_outbox.events import HandlersAbandoned

        if isinstance(event, HandlersAbandoned):
            self.calls += event.batches


def _consumer(options: Options, flags: dict[str, Any], abandonments: _Abandonments) -> "Consumer":
    """The consumer that flags and settings ask for. Nothing is connected yet."""
    from pgcdc_outbox import Consumer
    from pgcdc_outbox.cli.handlers import load_handler
    from pgcdc_outbox.errors import SettingsError
    from pgcdc_outbox.observers.log import LogObserver

    settings = options.settings.consume
    chosen = {
        field: value if (value := flags[field]) is not None else getattr(settings, field)
        for field in flags
    }
    spec = chosen.pop("handler")
    retry = _retry({field: chosen.pop(flag) for flag, field in _RETRY.items()})
    chosen["maintenance"] = chosen.pop("maintain")
    if not spec:
        raise SettingsError(
            "handler: none was given",
            hint="Give --handler package.module:name, or `handler` in [consume] of --config.",
        )

    return Consumer(
        options.dsn,
        load_handler(spec),
        schema=options.schema,
        retry=retry,
        observers=[LogObserver(), abandonments],
        **{field: value for field, value in chosen.items() if value is not None},
    )


def _retry(chosen: dict[str, int | float | timedelta | None]) -> "RetryPolicy | None":
    from pgcdc_outbox import RetryPolicy

    given: dict[str, Any] = {
        field: value.total_seconds() if isinstance(value, timedelta) else value
        for field, value in chosen.items()
        if value is not None
    }
    return RetryPolicy(**given) if given else None


async def _run(consumer: "Consumer", *, once: bool) -> int:
    """Run it; each signal asks it to stop."""
    import anyio

    from pgcdc_outbox.errors import OutboxError

    failure: OutboxError | None = None
    abandoned = 0
    async with anyio.create_task_group() as group:

        async def heed_signals() -> None:
            async for _ in signals:
                consumer.stop()

        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            group.start_soon(heed_signals)
            try:
                abandoned = await consumer.run(once=once)
            except OutboxError as error:
                # Raised outside, where no group wraps it.
                failure = error

            group.cancel_scope.cancel()

    if failure is not None:
        raise failure

    return abandoned


def _log_to_stderr(level: int) -> None:
    # Without effect where the handler's module has set up logging already.
    logging.basicConfig(level=max(level, logging.INFO), format=_LOG_LINE, stream=sys.stderr)
    logging.getLogger("pgcdc_outbox").setLevel(level)


def _leave(code: int) -> None:
    """End at once: the thread of an abandoned call would keep the interpreter alive for ever."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()

    os._exit(code)
