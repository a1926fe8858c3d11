"""Many clients at once: what a reader of the log costs them, and what NOTIFY would."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Final

import psycopg

from benchmarks import outbox, pgbench
from benchmarks.case import Case, Contender, Point, Sample, Scale
from benchmarks.crew import attending
from benchmarks.place import Place
from benchmarks.slots import read_all
from benchmarks.task import Task

CLIENTS: Final = (16, 64)
YARDSTICK: Final = "INSERT, nobody reads"

INSERT: Final = r"""
insert into outbox.immediate (topic, payload)
values ('bench', '\x7b226f72646572223a20312c2022706164223a2022787878787878787878787878787878227d');
"""
NOTIFY: Final = INSERT.replace("insert into", "with job as (insert into", 1).replace(
    "');", "') returning id) select pg_notify('bench', '') from job;", 1
)


class Commits(Case):
    """Clients of pgbench commit one job after the other, as fast as they can."""

    name = "commits"
    title = "Commits of many clients"
    unit = "commits/s"
    counted = (
        "Transactions of pgbench, one job in each, without the time to connect. The reader is a "
        "consumer with its defaults, on the same machine as everything else, and so takes "
        "processor time from the clients. With NOTIFY one connection listens, as a queue would."
    )
    durable = (
        "Where it says so, each commit waited for the disk; with fsync off none did, and what "
        "remains is the processor's work and the locks."
    )

    def points(self, place: Place, scale: Scale) -> Iterator[Point]:
        seconds = scale.duration(3, quick=1)
        with place.database() as dsn:
            outbox.create(dsn)
            read_all(dsn)
            for disk in scale.few((lambda: nullcontext("each commit on disk"), place.without_disk)):
                with disk() as how:
                    for clients in scale.few(CLIENTS):
                        run = partial(_run, place, dsn, clients, seconds)
                        yield Point(
                            name=f"{clients} clients, {how}",
                            yardstick=YARDSTICK,
                            contenders=_contenders(run, dsn),
                        )


def _contenders(run: Callable[..., Sample], dsn: str) -> list[Contender]:
    log = Task(dsn=dsn, jobs=None)
    table = Task(dsn=dsn, jobs=None, settings={"mode": "polling", "name": "polling"})
    beside: dict[str, tuple[str, Callable[[], AbstractContextManager[object]]]] = {
        YARDSTICK: (INSERT, nullcontext),
        "INSERT, a consumer reads the log": (INSERT, partial(_caught_up, log)),
        "INSERT, a consumer polls": (INSERT, partial(_caught_up, table)),
        "INSERT and pg_notify": (NOTIFY, partial(_listening, dsn)),
    }
    return [
        Contender(name=name, run=partial(run, script, reader), settings="")
        for name, (script, reader) in beside.items()
    ]


def _run(
    place: Place,
    dsn: str,
    clients: int,
    seconds: float,
    script: str,
    reader: Callable[[], AbstractContextManager[object]],
) -> Sample:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("truncate outbox.immediate")

    with reader():
        load = pgbench.run(place, dsn, script, clients=clients, seconds=seconds)

    return Sample(value=load.commits_per_second)


@contextmanager
def _caught_up(task: Task) -> Iterator[None]:
    """A consumer that has nothing left to read when the block begins."""
    read_all(task.dsn, **task.settings)
    with attending(task) as reader:
        yield
        reader.end()


@contextmanager
def _listening(dsn: str) -> Iterator[None]:
    """A connection that hears every notification."""
    ended = threading.Event()

    def listen() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("listen bench")
            listens.set()
            while not ended.is_set():
                for _ in connection.notifies(timeout=0.1):
                    pass

    listens = threading.Event()
    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    listens.wait()
    try:
        yield
    finally:
        ended.set()
        thread.join()
