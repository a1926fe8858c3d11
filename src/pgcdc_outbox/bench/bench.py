"""The measurement from start to end."""

from collections.abc import Callable, Iterator

from pgcdc_outbox.bench.draining import begin, drain
from pgcdc_outbox.bench.enqueueing import many_at_once, one_by_one
from pgcdc_outbox.bench.figures import Durability, Figure, Measured, Skipped
from pgcdc_outbox.bench.latency import latency
from pgcdc_outbox.bench.room import room
from pgcdc_outbox.errors import OutboxError
from pgcdc_outbox.postgres.source.reading import Mode

Tell = Callable[[str], None]

_DRAINED = "every job, since before; the position within a second"
_WORDS: dict[Mode, str] = {"logical": "reading the log", "polling": "polling"}


def bench(conninfo: str, *, jobs: int, commits: int, samples: int, tell: Tell) -> Measured:
    """Measure in a schema of its own.

    ``jobs`` are enqueued many at once, ``commits`` one by one, and both drained; the latency
    is that of ``samples``. Raises `OutboxError`; whatever happens, the schema is gone.
    """
    with room(conninfo) as (schema, server):
        tell("making a slot")
        modes: list[Mode] = ["polling"]
        skipped = []
        try:
            begin(conninfo, schema, "logical")
            modes.insert(0, "logical")
        except OutboxError as error:
            for name in (_draining("logical"), _latency("logical")):
                skipped.append(Skipped(name=name, reason=str(error), hint=error.hint))

        figures = [
            *_enqueueing(conninfo, schema, server, jobs=jobs, commits=commits, tell=tell),
            *_reading(conninfo, schema, modes, at_least=jobs + commits, tell=tell),
            *_waiting(conninfo, schema, server, modes, samples=samples, tell=tell),
        ]
        return Measured(schema=schema, server=server, figures=figures, skipped=skipped)


def _enqueueing(
    conninfo: str, schema: str, server: Durability, *, jobs: int, commits: int, tell: Tell
) -> Iterator[Figure]:
    for name, count, run in (
        ("enqueue, a commit for each job", commits, one_by_one),
        ("enqueue_many, 10,000 in a commit", jobs, many_at_once),
    ):
        tell(f"{name}: {count:,} jobs")
        rate = run(conninfo, schema, count)
        yield Figure(name=name, value=rate, unit="jobs/s", durable=server.of_commits)


def _reading(
    conninfo: str, schema: str, modes: list[Mode], *, at_least: int, tell: Tell
) -> Iterator[Figure]:
    for mode in modes:
        tell(f"{_draining(mode)}: {at_least:,} jobs")
        seen, rate = drain(conninfo, schema, mode)
        if seen < at_least:
            raise OutboxError(
                f"{_draining(mode)}: {at_least} jobs were committed, {seen} were handed out",
                hint="This must not be. Please report it.",
            )

        yield Figure(name=_draining(mode), value=rate, unit="jobs/s", durable=_DRAINED)


def _waiting(
    conninfo: str, schema: str, server: Durability, modes: list[Mode], *, samples: int, tell: Tell
) -> Iterator[Figure]:
    for mode in modes:
        tell(f"{_latency(mode)}: {samples:,} jobs")
        middle, slowest = latency(conninfo, schema, mode, samples)
        for what, value in (("p50", middle), ("p99", slowest)):
            yield Figure(
                name=f"{_latency(mode)}, {what}",
                value=value,
                unit="ms",
                durable=server.of_commits,
            )


def _draining(mode: Mode) -> str:
    return f"drain, {_WORDS[mode]}"


def _latency(mode: Mode) -> str:
    return f"commit to handler, {_WORDS[mode]}"
