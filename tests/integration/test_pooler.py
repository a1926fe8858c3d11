"""Polling behind a pooler that gives a session to others after each transaction."""

from collections.abc import Sequence

import pytest

from pgcdc_outbox import Job
from pgcdc_outbox.events import Polling, StandingBy
from tests.harness import Outbox, Recorder, Watcher, consumer, running, streaming
from tests.pooler import Pooler

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version


@pytest.fixture
def mode() -> str:
    return "polling"


async def test_a_consumer_that_polls_works_behind_a_transaction_pooler(outbox: Outbox) -> None:
    """Retries, schedules and dead letters included, and with another one standing by."""

    def fail(jobs: Sequence[Job]) -> list[int]:
        return [job.id for job in jobs if job.topic == "bad"]

    first, second = Recorder(fail), Recorder(fail)
    watchers = Watcher(), Watcher()
    with Pooler(outbox.dsn, size=6) as pooler:
        behind = Outbox(pooler.dsn, mode="polling")
        one = consumer(behind, first, observers=[watchers[0]], drain_timeout=60)
        other = consumer(behind, second, observers=[watchers[1]])
        async with streaming(one, watchers[0]), running(other):
            await watchers[1].saw(StandingBy)
            good = outbox.put(range(200))
            outbox.put(["x"], topic="bad")
            later = outbox.put(["later"], delay=0.1)
            await first.until(lambda: len(first.ids) == 200 + 3 + 1)
            one.stop()
            await watchers[1].saw(Polling)
            last = outbox.put(["last"])
            await second.got(1)

    assert sorted(set(first.ids)) == sorted({*first.ids, *good, *later})
    assert first.ids.count(good[0]) == 1
    assert second.ids == last
    assert outbox.rows("select reason from dead_letter") == [("exhausted",)]
    # Nothing of it stays behind in a session that somebody else gets.
    assert not outbox.rows(
        "select from pg_locks where locktype = 'advisory' and database = "
        "(select oid from pg_database where datname = current_database())"
    )
