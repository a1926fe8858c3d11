"""`enqueue`: enqueue one job."""

import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click

from pgcdc_outbox.cli.options import Options, pass_options
from pgcdc_outbox.cli.parameters import duration, header, moment


@click.command("enqueue")
@click.argument("payload", required=False)
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="Read the payload from a file, - for standard input.",
)
@click.option("--topic", default="default", show_default=True, help="What kind of job it is.")
@click.option("--key", help="What the job is about; kept for the handler.")
@click.option("--header", "headers", type=header, multiple=True, metavar="NAME=VALUE")
@click.option("--delay", type=duration, help="Not before this long from now.")
@click.option("--run-at", type=moment, help="Not before this moment, ISO 8601.")
@click.option("--expires-at", type=moment, help="Not started after this moment, ISO 8601.")
@click.option("--time-to-live", type=duration, help="Not started later than this long after due.")
@click.option("--dedup-key", help="Enqueue one job of this key, not several.")
@click.option("--dedup-for", type=duration, help="How long the key is taken.  [default: 1h]")
@click.option(
    "--on-duplicate",
    type=click.Choice(["ignore", "replace", "error"]),
    help="What to do when the key is taken.  [default: ignore]",
)
@click.option("--bytes", "raw", is_flag=True, help="The payload is bytes, not JSON.")
@pass_options
def command(
    options: Options,
    /,
    payload: str | None,
    file: str | None,
    topic: str,
    key: str | None,
    headers: tuple[tuple[str, str], ...],
    delay: timedelta | None,
    run_at: datetime | None,
    raw: bool,
    **others: Any,
) -> None:
    """Enqueue one job, and print its id.

    PAYLOAD is JSON; text needs its quotes: '"hello"'.
    """
    if (payload is None) == (file is None):
        raise click.UsageError("Give PAYLOAD, or --file.")

    body = payload.encode() if payload is not None else _read(str(file))
    from pgcdc_outbox.postgres.producer.client import Client

    with Client(options.dsn, schema=options.schema) as client:
        job_id = client.enqueue(
            body if raw else read_json(body),
            topic=topic,
            key=key,
            headers=dict(headers) or None,
            delay=delay,
            run_at=run_at,
            **others,
        )

    click.echo(job_id)


def _read(file: str) -> bytes:
    return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()


def read_json(body: bytes) -> object:
    """The payload that somebody typed."""
    import msgspec

    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"PAYLOAD is not JSON: {error}. Bytes need --bytes.") from error
