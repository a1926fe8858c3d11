"""Catching up by `pg_logical_slot_peek_binary_changes`, against the walsender.

A prototype, so that the decision not to read that way can be looked at again: it decodes rows
as the library does, and knows nothing else of what a consumer has to do.
"""

import select
from collections.abc import Iterator
from functools import partial
from time import perf_counter

import psycopg
from psycopg import pq

from benchmarks.backlog import Backlog, backlog
from benchmarks.case import Case, Contender, Point, Sample, Scale
from benchmarks.cases.drain import SHAPES, TUNED, YARDSTICK, spelled
from benchmarks.crew import drained
from benchmarks.place import Place
from benchmarks.usage import ServerUsage, Usage
from pgcdc_outbox import Job
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.pgoutput import Relation, decode
from pgcdc_outbox.postgres.names import publication_name
from pgcdc_outbox.postgres.source.rows import Decoder, decoder

# COPY, because nothing that gives rows is faster. What comes before the change in each row is as
# long as the header of a frame of the stream, and so the decoder of the library reads it as it is.
_CHUNK = """
copy (
    select lsn, '\\x000000'::bytea, data
    from pg_logical_slot_peek_binary_changes(
        '{slot}', null, {changes},
        'proto_version', '1', 'binary', 'true', 'publication_names', '{publication}'
    )
) to stdout (format binary)
"""
_FILE_HEADER = 19
_HEADER = 25
_COMMIT_END = slice(35, 43)
_AT_A_TIME = 512


class Peek(Case):
    """One chunk after the other, each confirmed before the next is asked for."""

    name = "peek"
    title = "Catching up by peeking"
    unit = "jobs/s"
    counted = (
        "Jobs over the time of the whole run. Who peeks is connected already, and decodes rows to "
        "jobs, nothing more; ours does everything. A chunk ends with a transaction. Calls begin "
        "where the oldest transaction began that ran when the server last wrote that down, every "
        "15 seconds."
    )
    durable = (
        "The jobs were committed before. pg_recvlogical keeps nothing, who peeks what it advanced "
        "the slot to, ours the position, within a second."
    )

    def points(self, place: Place, scale: Scale) -> Iterator[Point]:
        jobs = scale.size(200_000, quick=2000)
        for size in scale.few(SHAPES):
            with backlog(place, jobs=jobs, size=size) as made:
                for transport in scale.few(place.transports):
                    shape = "1 job" if size == 1 else f"{size:,} jobs"
                    yield Point(
                        name=f"{shape} in a transaction, {transport}",
                        yardstick=YARDSTICK,
                        contenders=[
                            Contender(
                                name=YARDSTICK,
                                run=partial(made.recvlogical, transport),
                                settings="-f /dev/null",
                            ),
                            Contender(
                                name="ours",
                                run=partial(_ours, place, made, transport),
                                settings=spelled(TUNED),
                            ),
                            *(
                                Contender(
                                    name="peek",
                                    run=partial(_peek, place, made, transport, changes),
                                    settings=f"{changes or 'all'} changes at a time",
                                )
                                for changes in (None, 200_000, 20_000, 2000)
                            ),
                        ],
                    )


class _Reader:
    """A connection, and what it knows of the tables that changes belong to."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._pgconn = connection.pgconn
        self._decoders: dict[bytes, Decoder] = {}
        self.jobs = 0
        self.end = LSN(0)
        """Where the log goes on after the last transaction that was read."""

    def read(self, statement: str) -> None:
        """Decode what it gives."""
        pgconn = self._pgconn
        pgconn.send_query(statement.encode())
        while pgconn.is_busy():
            self._receive()

        result = pgconn.get_result()
        if result is None or result.status != pq.ExecStatus.COPY_OUT:
            raise RuntimeError(f"cannot peek: {result and result.error_message.decode()}")

        jobs: list[object] = []
        skip = _FILE_HEADER
        while (size := pgconn.get_copy_data(1))[0] >= 0:
            if not size[0]:
                self._receive()
                continue

            self._take(bytes(size[1])[skip:], jobs)
            skip = 0
            if len(jobs) >= _AT_A_TIME:
                # As a batch that has been handled.
                self.jobs += len(jobs)
                jobs.clear()

        self.jobs += len(jobs)
        while pgconn.get_result():
            pass

    def _take(self, frame: bytes, jobs: list[object]) -> None:
        match frame[_HEADER : _HEADER + 1]:
            case b"I":
                job = self._decoders[frame[26:30]](frame)
                assert type(job) is Job
                jobs.append(job)
            case b"C":
                self.end = LSN(int.from_bytes(frame[_COMMIT_END], "big"))
            case b"R":
                relation = decode(frame[_HEADER:])
                assert isinstance(relation, Relation)
                self._decoders[relation.oid.to_bytes(4, "big")] = decoder(relation, "default")

    def _receive(self) -> None:
        select.select([self._pgconn.socket], [], [])
        self._pgconn.consume_input()


def _peek(place: Place, made: Backlog, transport: str, changes: int | None) -> Sample:
    dsn = place.through(transport, made.dsn)
    with made.copied_slot() as slot, psycopg.connect(dsn, autocommit=True) as connection:
        reader = _Reader(connection)
        statement = _CHUNK.format(
            slot=slot, changes=changes or "null", publication=publication_name("outbox")
        )
        with ServerUsage(place.postmaster) as server:
            used, started = Usage.own(), perf_counter()
            while reader.jobs < made.jobs:
                before = reader.jobs
                reader.read(statement)
                if reader.jobs == before:
                    raise RuntimeError(f"{made.jobs} jobs were there, {reader.jobs} came")

                connection.execute(
                    "select pg_replication_slot_advance(%s, %s)", [slot, str(reader.end)]
                )

            seconds = perf_counter() - started
            used = Usage.own() - used

    return Sample(
        value=made.jobs / seconds,
        also={
            "reader CPU µs/job": 1e6 * used.cpu_seconds / made.jobs,
            "reader switches/job": used.switches / made.jobs,
            **server.per_job(made.jobs),
        },
    )


def _ours(place: Place, made: Backlog, transport: str) -> Sample:
    made.rewind()
    return drained(place, made.task(transport, settings=TUNED))
