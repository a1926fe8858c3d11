"""Several readers of one outbox: each with a share of the jobs, or each with all of them.

A share is a publication of its own with a row filter. The server decodes the whole log for
each slot, drops what the filter does not let through, and sends the rest. So what several
readers gain follows from three costs, which the processor time of the server tells:
that of decoding and filtering a job (paid once for each slot), that of sending one, and that
of reading one.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial

import psycopg

from benchmarks.backlog import Backlog, backlog
from benchmarks.case import Case, Contender, Point, Sample, Scale
from benchmarks.cases.drain import TUNED, spelled
from benchmarks.crew import drained
from benchmarks.place import Place
from benchmarks.task import Task
from pgcdc_outbox.postgres.source.rows import COLUMNS

COUNTS = (1, 2, 4)
SHAPES = (1, 1000)
_FILTERS_SINCE = 150000

# By key, and by id where there is none: null would be let through by no filter. Only built-in
# immutable functions may stand in one. (The remainder of a negative number is negative.)
_SHARE = "abs(case when key is null then hashint8(id) else hashtext(key) end % {count}) = {share}"
_PUBLICATION = """
create publication {name} for table outbox.immediate ({columns}) where ({filter})
with (publish = 'insert', publish_via_partition_root = true);
"""
_UNPUBLISHED = "bench_unpublished"
_FILTERED_OUT = "bench_filtered_out"


class Shards(Case):
    """What several slots gain, on the processors that there are."""

    name = "shards"
    title = "Several readers of the same outbox"
    unit = "jobs/s"
    growing = "readers"
    counted = (
        "Jobs of the backlog over the time until the last reader has read its share, connecting "
        "and ending included, interpreter and imports not. Processor time is that of all readers, "
        "and of the server with all its walsenders, over the same jobs. `unpublished` and "
        "`filtered out` get nothing: they are what decoding costs, and the filter."
    )
    durable = (
        "The jobs were committed before. pg_recvlogical keeps nothing; the replication cursors "
        "what they confirmed once a second; ours the position, within a second."
    )

    def points(self, place: Place, scale: Scale) -> Iterator[Point]:
        jobs = scale.size(200_000, quick=500)
        with psycopg.connect(place.dsn) as connection:
            if connection.info.server_version < _FILTERS_SINCE:
                raise RuntimeError("row filters need PostgreSQL 15 or newer")

        for size in (1,) if scale.quick else SHAPES:
            counts = (1, 2) if scale.quick else COUNTS
            names = [f"reader{number}" for number in range(max(counts))]
            with backlog(
                place, jobs=jobs, size=size, consumers=names, prepare=_publications(counts)
            ) as made:
                for count in counts:
                    shape = "1 job" if size == 1 else f"{size:,} jobs"
                    yield Point(
                        name=f"{shape} in a transaction, readers: {count}",
                        x=count,
                        contenders=_contenders(place, made, count, names[:count]),
                    )


def _contenders(
    place: Place, made: Backlog, count: int, consumers: list[str]
) -> Sequence[Contender]:
    shares = [_share(count, share) for share in range(count)]
    transport = place.transports[0]
    contenders = [
        Contender(
            name="pg_recvlogical, a share each",
            run=partial(made.recvlogical, transport, shares),
            settings="",
        ),
        Contender(
            name="replication cursor, a share each",
            run=partial(_cursors, place, made, count),
            settings="",
        ),
        Contender(
            name="pg_recvlogical, all jobs each",
            run=partial(made.recvlogical, transport, [_share(1, 0)] * count),
            settings="",
        ),
        Contender(
            name="ours, all jobs each",
            run=partial(_consumers, place, made, consumers),
            settings=spelled(TUNED),
        ),
    ]
    if count > 1:
        return contenders

    for name in (_UNPUBLISHED, _FILTERED_OUT):
        contenders.append(
            Contender(
                name=f"pg_recvlogical, {name.removeprefix('bench_').replace('_', ' ')}",
                run=partial(made.recvlogical, transport, [name]),
                settings="",
            )
        )

    return contenders


def _cursors(place: Place, made: Backlog, count: int) -> Sample:
    with ExitStack() as stack, psycopg.connect(made.dsn) as connection:
        tasks = []
        for share in range(count):
            filtered = _SHARE.format(count=count, share=share)
            (jobs,) = connection.execute(
                f"select count(*) from outbox.immediate where {filtered}".encode()
            ).fetchone() or (0,)
            slot = stack.enter_context(made.copied_slot())
            publication = _share(count, share)
            tasks.append(
                Task(dsn=made.dsn, jobs=jobs, reader="bare", slot=slot, publication=publication)
            )

        return drained(place, *tasks)


def _consumers(place: Place, made: Backlog, names: Sequence[str]) -> Sample:
    """The sample of consumers that get everything, told for the jobs of the backlog."""
    for name in names:
        made.rewind(name)

    settings = {"maintenance": False, **TUNED}
    sample = drained(place, *(made.task(settings={**settings, "name": name}) for name in names))
    per_job = {
        name: value * len(names) if name.endswith("/job") else value
        for name, value in sample.also.items()
    }
    return Sample(value=sample.value / len(names), also=per_job)


def _publications(counts: Sequence[int]) -> str:
    """The statements that make all of them: a slot sees those only that are older than a job."""
    filters = {
        _share(count, share): _SHARE.format(count=count, share=share)
        for count in {1, *counts}
        for share in range(count)
    }
    filters[_FILTERED_OUT] = _SHARE.format(count=2, share=2)
    columns = ", ".join(COLUMNS)
    return f"create publication {_UNPUBLISHED};" + "".join(
        _PUBLICATION.format(name=name, columns=columns, filter=text)
        for name, text in filters.items()
    )


def _share(count: int, share: int) -> str:
    return f"bench_{share}_of_{count}"
