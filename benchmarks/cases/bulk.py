"""Many jobs in one call, against COPY by hand."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial

import msgspec
import psycopg

from benchmarks import outbox
from benchmarks.case import Case, Contender, Point, Sample, Scale
from benchmarks.place import Place
from benchmarks.slots import read_all
from benchmarks.usage import Usage
from pgcdc_outbox import Client, NewJob

YARDSTICK = "binary COPY with ids and times"
TOPIC = "order.paid"


class Bulk(Case):
    """`enqueue_many`, in the transaction of the caller."""

    name = "bulk"
    title = "Enqueueing many jobs at once"
    unit = "jobs/s"
    counted = (
        "Jobs over the time of the call and the commit, with psycopg. By hand: write_row of a "
        "binary COPY of topic and payload, where the server fills in the rest row by row; and one "
        "that takes ids from the sequence first and sends them and a time too, so that the server "
        "can insert many rows at once. All of them encode the same JSON; what is to be sent was "
        "made before."
    )
    durable = "All jobs are on disk: the commit waited for that."

    def points(self, place: Place, scale: Scale) -> Iterator[Point]:
        jobs = scale.size(100_000, quick=500)
        with place.database() as dsn:
            outbox.create(dsn)
            read_all(dsn)
            yield Point(
                name=f"{jobs:,} jobs",
                yardstick=YARDSTICK,
                contenders=[
                    Contender(name=name, run=partial(_timed, put, dsn, jobs), settings="")
                    for name, put in (
                        (YARDSTICK, _copy_everything),
                        ("binary COPY of topic and payload", _copy_what_is_needed),
                        ("Client.enqueue_many", _enqueue_many),
                    )
                ],
            )


def _timed(put: Callable[[psycopg.Connection, range], float], dsn: str, jobs: int) -> Sample:
    with psycopg.connect(dsn) as connection:
        before = Usage.own()
        seconds = put(connection, range(jobs))
        used = Usage.own() - before
        connection.execute("truncate outbox.immediate")

    return Sample(value=jobs / seconds, also={"client CPU µs/job": 1e6 * used.cpu_seconds / jobs})


def _enqueue_many(connection: psycopg.Connection, numbers: range) -> float:
    client = Client()
    jobs = [NewJob(payload={"order": number}, topic=TOPIC) for number in numbers]
    started = time.perf_counter()
    client.enqueue_many(jobs, tx=connection)
    connection.commit()
    return time.perf_counter() - started


def _copy_what_is_needed(connection: psycopg.Connection, numbers: range) -> float:
    payloads = [{"order": number} for number in numbers]
    started = time.perf_counter()
    with connection.cursor().copy(
        "copy outbox.immediate (topic, payload) from stdin (format binary)"
    ) as copy:
        copy.set_types(["text", "bytea"])
        for payload in payloads:
            copy.write_row((TOPIC, msgspec.json.encode(payload)))

    connection.commit()
    return time.perf_counter() - started


def _copy_everything(connection: psycopg.Connection, numbers: range) -> float:
    payloads = [{"order": number} for number in numbers]
    started = time.perf_counter()
    now = datetime.now(UTC)
    ids = connection.execute(
        "select nextval('outbox.job_id') from generate_series(1, %s)", [len(payloads)]
    ).fetchall()
    with connection.cursor().copy(
        "copy outbox.immediate (id, created_at, topic, payload) from stdin (format binary)"
    ) as copy:
        copy.set_types(["int8", "timestamptz", "text", "bytea"])
        for (number,), payload in zip(ids, payloads, strict=True):
            copy.write_row((number, now, TOPIC, msgspec.json.encode(payload)))

    connection.commit()
    return time.perf_counter() - started
