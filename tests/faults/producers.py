"""Producers: threads that commit and roll back jobs, and note which."""

import random
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import psycopg

from pgcdc_outbox.job import NewJob
from pgcdc_outbox.postgres.producer.client import Client
from tests.faults.truth import Body, Claim, Fate, Truth, position

_PLACE = "select pg_current_wal_insert_lsn()::text"


class Producer:
    """Writes transactions on one connection, one after the other, all of one key."""

    def __init__(self, dsn: str, truth: Truth, name: str) -> None:
        self._dsn = dsn
        self._truth = truth
        self.name = name
        self._client = Client()

    def put(self, jobs: Sequence[Body]) -> None:
        """Commit these jobs in one transaction."""
        with psycopg.connect(self._dsn) as connection:
            self.write(connection, jobs)

    def write(
        self, connection: psycopg.Connection, jobs: Sequence[Body], *, commit: bool = True
    ) -> None:
        """Write jobs in a transaction, and note its fate, also if the connection breaks."""
        fate: Fate = "rolled back"
        before = after = 0
        try:
            self._enqueue(connection, jobs)
            before = _place(connection)
            if commit:
                fate = "in doubt"
                connection.commit()
                fate = "committed"
                after = _place(connection)
                connection.commit()
            else:
                connection.rollback()
        finally:
            self._note(jobs, fate, before, after)

    def _enqueue(self, connection: psycopg.Connection, jobs: Sequence[Body]) -> None:
        now = [self._job(job) for job in jobs if not job.delayed]
        later = [self._job(job) for job in jobs if job.delayed]
        for part in filter(None, (now, later)):
            self._client.enqueue_many(part, tx=connection)

    def savepoint(self, connection: psycopg.Connection, jobs: Sequence[Body]) -> None:
        """Write jobs that a savepoint takes back, in a transaction that goes on."""
        try:
            with connection.transaction(force_rollback=True):
                self._enqueue(connection, jobs)
        finally:
            self._note(jobs, "rolled back")

    def _job(self, body: Body) -> NewJob:
        return NewJob(
            payload={"seq": body.seq, "fails": body.fails, "delayed": body.delayed},
            key=self.name,
            delay=0.2 if body.delayed else None,
        )

    def _note(self, jobs: Sequence[Body], fate: Fate, before: int = 0, after: int = 0) -> None:
        self._truth.claim(
            Claim(
                producer=self.name,
                key=self.name,
                jobs=tuple(jobs),
                fate=fate,
                before=before,
                after=after,
                at=time.monotonic(),
            )
        )


class Busy:
    """A producer that goes on in a thread during a block, whatever becomes of its server."""

    def __init__(
        self,
        dsn: str,
        truth: Truth,
        *,
        name: str = "busy",
        seed: int = 1,
        pause: float = 0.01,
        failing: float = 0.07,
    ) -> None:
        """``failing`` is the part of jobs that fail: most once, some twice, a few always."""
        self._failing = failing
        self._dsn = dsn
        self._truth = truth
        self._producer = Producer(dsn, truth, name)
        self._random = random.Random(f"{name} {seed}")
        self._pause = pause
        self.errors: list[psycopg.Error] = []
        """What kept it from its work."""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.is_set():
            try:
                with psycopg.connect(self._dsn, connect_timeout=30) as connection:
                    while not self._done.wait(self._pause):
                        self._transaction(connection)
            except psycopg.Error as error:
                # Whatever is broken: the transaction is noted for what it was.
                self.errors.append(error)
                self._done.wait(0.05)

    def _transaction(self, connection: psycopg.Connection) -> None:
        if self._random.random() < 0.1:
            self._producer.savepoint(connection, self._jobs())

        self._producer.write(connection, self._jobs(), commit=self._random.random() > 0.15)

    def _jobs(self) -> list[Body]:
        return [self._body() for _ in range(self._random.choice((1, 1, 2, 5)))]

    def _body(self) -> Body:
        chance = self._random.random() / self._failing
        fails = 9 if chance < 1 / 7 else 1 if chance < 5 / 7 else 2 if chance < 1 else 0
        return self._truth.plan(fails=fails, delayed=self._random.random() < 0.05)


def _place(connection: psycopg.Connection) -> int:
    ((text,),) = connection.execute(_PLACE).fetchall()
    return position(text)
