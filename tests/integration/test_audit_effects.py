"""The audit of what a handler does in the consumer's transaction, or once."""

from contextlib import suppress
from typing import Any

import pytest

from pgcdc_outbox import Job, RetryPolicy
from pgcdc_outbox.errors import OutboxError
from tests.effects import Effecting, effects, make_ledger, write
from tests.harness import Outbox, consumer

IN_BOTH_MODES = True

LATER = RetryPolicy(first_delay=3600)


@pytest.fixture
def outbox(outbox: Outbox) -> Outbox:
    make_ledger(outbox)
    return outbox


async def test_a_row_is_written_in_the_transaction_of_its_effects(outbox: Outbox) -> None:
    """So one that cannot be written takes the effects with it."""
    ids = outbox.put(range(5))
    outbox.rows("alter table attempt add constraint never check (outcome <> 'done')")
    with suppress(OutboxError):
        await consumer(outbox, Effecting(), audit="all", retry=LATER).run(once=True)

    assert effects(outbox) == []
    outbox.rows("alter table attempt drop constraint never")
    outbox.rows("update failed set due_at = clock_timestamp()")
    await consumer(outbox, Effecting(), audit="all").run(once=True)
    assert [id_ for id_, _ in effects(outbox)] == ids
    rows = outbox.rows("select id from attempt where outcome = 'done' order by id")
    assert [id_ for (id_,) in rows] == ids


async def test_without_audit_all_it_is_not(outbox: Outbox) -> None:
    outbox.put(range(2))
    await consumer(outbox, Effecting()).run(once=True)
    assert outbox.value("select count(*) from attempt") == 0


async def test_what_fails_beside_it_is_kept_too(outbox: Outbox) -> None:
    outbox.put(["good", "bad"])

    async def body(job: Job, connection: Any) -> None:
        await write(job, connection)
        if job.json() == "bad":
            raise ValueError("no")

    await consumer(outbox, Effecting(body), audit="all").run(once=True)
    rows = outbox.rows("select outcome, jobs from attempt where attempt = 1 order by id")
    assert rows == [("done", 2), ("retry", 1)]


class Once:
    """Notes that its jobs run once, and does nothing else."""

    async def execute(self, jobs: Any, unit: Any) -> None:
        await unit.begin_once(jobs)


async def test_what_ran_once_is_kept_once(outbox: Outbox) -> None:
    ids = outbox.put(range(3))
    await consumer(outbox, Once(), audit="all").run(once=True)
    rows = outbox.rows("select id, outcome from attempt order by id")
    assert rows == [(id_, "done") for id_ in ids]
