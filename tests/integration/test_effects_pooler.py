"""Effects behind a pooler that gives a session to others after each transaction."""

import psycopg
import pytest
from anyio import to_thread

from tests.effects import Effecting, effects, make_ledger, write
from tests.harness import Outbox, consumer, running
from tests.pooler import Pooler

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version


@pytest.fixture
def mode() -> str:
    return "polling"


async def test_effects_behind_a_transaction_pooler(outbox: Outbox) -> None:
    """With statements that would be prepared otherwise, and a note before each call."""
    make_ledger(outbox)

    class Both(Effecting):
        async def execute(self, jobs, unit):
            self.batches.append(list(jobs))
            self._changed.set()
            await unit.begin_once(jobs[:1])
            for job in jobs:
                async with unit.effects([job]) as part:
                    await write(job, await part.connection(psycopg.AsyncConnection))
                    sync = await part.connection(psycopg.Connection)
                    await to_thread.run_sync(sync.execute, "select %s::int", [job.attempt])

    with Pooler(outbox.dsn, size=6) as pooler:
        handler = Both()
        behind = Outbox(pooler.dsn, mode="polling")
        async with running(consumer(behind, handler, batch_size=4, concurrency=2)):
            ids = outbox.put(range(60))
            await handler.got(60)
            await outbox.settled()

    assert effects(outbox) == [(i, 1) for i in ids]
