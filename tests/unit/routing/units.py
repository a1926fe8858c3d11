"""A unit of work in memory: it keeps what the port promises, and a diary of what was asked."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio

from pgcdc_outbox.job import Job, NewJob
from pgcdc_outbox.routing.router import Router


class MemoryUnit:
    """What is written stays only if its part ends well."""

    consumer = "default"
    schema = "outbox"
    instance = "test"

    def __init__(self) -> None:
        self.diary: list[str] = []
        self.written: list[Any] = []
        self.enqueued: list[NewJob] = []
        self.once: list[int] = []
        self._lock = anyio.Lock()

    @asynccontextmanager
    async def effects(self, jobs: Sequence[Job]) -> AsyncIterator["MemoryPart"]:
        async with self._lock:
            part = MemoryPart()
            self.diary.append(f"begin {[job.id for job in jobs]}")
            try:
                yield part
            except BaseException:
                self.diary.append("undo")
                raise

            self.diary.append("keep")
            self.written += part.written
            self.enqueued += part.enqueued

    async def begin_once(self, jobs: Sequence[Job]) -> None:
        await anyio.lowlevel.checkpoint()
        self.diary.append(f"once {[job.id for job in jobs]}")
        self.once += [job.id for job in jobs]

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[int]:
        self.enqueued += jobs
        return list(range(100, 100 + len(jobs)))


class MemoryPart:
    """A part of it. As a connection, anything with a list to write to will do."""

    def __init__(self) -> None:
        self.written: list[Any] = []
        self.enqueued: list[NewJob] = []
        self._connections: dict[type, Any] = {}

    async def connection(self, kind: type) -> Any:
        return self._connections.setdefault(kind, Written(kind, self.written))

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[int]:
        self.enqueued += jobs
        return list(range(200, 200 + len(jobs)))


class Written:
    """Stands for a connection."""

    def __init__(self, kind: type, rows: list[Any]) -> None:
        self.kind = kind
        self._rows = rows

    def write(self, row: Any) -> None:
        self._rows.append(row)


def job(id_: int, topic: str = "t", payload: bytes = b"null", **fields: Any) -> Job:
    return Job(id_, topic, payload, **fields)


async def run(router: Router, *jobs: Job, unit: MemoryUnit | None = None) -> dict[int, Any]:
    """What a call of the router says of its jobs: why each failed, or nothing."""
    return dict(await router.execute(jobs, unit or MemoryUnit()) or {})
