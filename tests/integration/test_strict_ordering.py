"""Strict order: what is behind a job that failed waits until that is done or dead."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import anyio
import psycopg
import pytest

from pgcdc_outbox import Consumer, Dead, Job, RetryPolicy
from pgcdc_outbox.events import JobsParked, JobsReleased, OrderGivenUp, StandingBy
from tests.harness import QUICK, READING, Outbox, Recorder, Watcher, consumer, running, streaming
from tests.wait import eventually_async

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version

IN_BOTH_MODES = True

SLOW = RetryPolicy(max_attempts=3, first_delay=3600, max_delay=3600, jitter=0)
"""A retry that does not come by itself while a test lasts."""


def strict(outbox: Outbox, handler: Any, **options: Any) -> Consumer:
    defaults = {"ordering": "strict_key", "concurrency": 4, "batch_size": 10}
    return consumer(outbox, handler, **{**defaults, **options})


class Failing(Recorder):
    """Fails the jobs of some values until a given attempt."""

    def __init__(self, fails: dict[Any, int], error: Exception | None = None) -> None:
        super().__init__()
        self._fails = fails
        self._error = error or ValueError("not yet")

    async def __call__(self, jobs: Sequence[Job]) -> dict[int, Any]:
        await super().__call__(jobs)
        await anyio.sleep(0)
        return {
            job.id: self._error for job in jobs if job.attempt <= self._fails.get(job.json(), 0)
        }

    @property
    def by_key(self) -> dict[str | None, list[tuple[Any, int]]]:
        seen = defaultdict(list)
        for job in self.jobs:
            seen[job.key].append((job.json(), job.attempt))

        return seen


def parked(outbox: Outbox) -> list[Any]:
    rows = outbox.rows("select convert_from(payload, 'utf8')::int from parked order by position")
    return [value for (value,) in rows]


def make_due(outbox: Outbox) -> None:
    outbox.rows("update failed set due_at = now()")


def nothing_is_left(outbox: Outbox) -> bool:
    return all(not outbox.value(f"select count(*) from {t}") for t in ("parked", "held_key"))


async def test_followers_wait_until_the_failed_job_is_done(outbox: Outbox) -> None:
    outbox.put(range(20), key="a")
    others = outbox.put(range(100, 120), key="b") + outbox.put(range(200, 210))
    handler = Failing({5: 2})
    async with running(strict(outbox, handler)):
        await handler.got(52)
        await eventually_async(lambda: settled(outbox))

    expected = [(n, 1) for n in range(5)] + [(5, 1), (5, 2), (5, 3)]
    assert handler.by_key["a"] == expected + [(n, 1) for n in range(6, 20)]
    assert set(others) <= set(handler.ids)
    assert len(handler.jobs) == 52
    assert outbox.rows("select id from dead_letter") == []


async def settled(outbox: Outbox) -> bool:
    return nothing_is_left(outbox) and not outbox.unsettled()


async def test_or_until_it_is_dead(outbox: Outbox) -> None:
    outbox.put(range(10), key="a")
    handler = Failing({5: 99})
    async with running(strict(outbox, handler)):
        await handler.got(12)
        await eventually_async(lambda: settled(outbox))

    attempts = [(5, n) for n in range(1, QUICK.max_attempts + 1)]
    assert handler.by_key["a"] == [(n, 1) for n in range(5)] + attempts + [
        (n, 1) for n in range(6, 10)
    ]
    assert outbox.value("select attempt from dead_letter") == QUICK.max_attempts


async def test_one_that_is_dead_at_once_holds_up_nobody(outbox: Outbox) -> None:
    outbox.put(range(10), key="a")
    handler = Failing({5: 1}, Dead("never"))
    watcher = Watcher()
    async with running(strict(outbox, handler, observers=[watcher])):
        await handler.got(10)

    assert handler.by_key["a"] == [(n, 1) for n in range(10)]
    assert watcher.of(JobsParked) == []


async def test_the_log_is_not_held_and_others_go_on_while_a_key_waits(outbox: Outbox) -> None:
    outbox.put(range(50), key="a")
    handler = Failing({0: 1})
    async with running(strict(outbox, handler, retry=SLOW)):
        await eventually_async(lambda: count_parked(outbox, 49))
        others = outbox.put(range(100, 150), key="b") + outbox.put(range(200, 210))
        await handler.until(lambda: set(others) <= set(handler.ids))
        more = outbox.put(range(50, 60), key="a")
        await eventually_async(lambda: count_parked(outbox, 59))
        await outbox.settled()
        assert parked(outbox) == list(range(1, 60))
        assert not set(more) & set(handler.ids)
        make_due(outbox)
        await handler.until(lambda: set(more) <= set(handler.ids))
        await eventually_async(lambda: settled(outbox))

    assert handler.by_key["a"] == [(0, 1), (0, 2)] + [(n, 1) for n in range(1, 60)]


async def count_parked(outbox: Outbox, count: int) -> bool:
    return bool(outbox.value("select count(*) = %s from parked", [count]))


async def test_several_of_a_key_may_fail_one_after_the_other(outbox: Outbox) -> None:
    """Those that were let go with one that fails are parked again, at their old places."""
    outbox.put(range(250), key="a")
    outbox.put(range(1000, 1250), key="b")
    fails = {0: 2, 3: 1, 4: 99, 120: 2, 249: 1}
    handler = Failing(fails | {1000 + n: attempt for n, attempt in fails.items()})
    async with running(strict(outbox, handler)):
        await handler.got(2 * (250 + 2 + 1 + 2 + 2 + 1), timeout=300)
        await eventually_async(lambda: settled(outbox))

    for key, first in (("a", 0), ("b", 1000)):
        expected = [
            (first + n, attempt)
            for n in range(250)
            for attempt in range(1, min(fails.get(n, 0) + 1, QUICK.max_attempts) + 1)
        ]
        assert handler.by_key[key] == expected


async def test_two_thousand_followers_behind_one(outbox: Outbox) -> None:
    outbox.put(range(2001), key="a")
    handler = Failing({0: 1})
    watcher = Watcher()
    async with running(strict(outbox, handler, retry=SLOW, observers=[watcher])):
        await eventually_async(lambda: count_parked(outbox, 2000), timeout=300)
        assert len(watcher.of(JobsParked)) < 1000, "each was parked for itself"
        make_due(outbox)
        await handler.got(2002, timeout=600)
        await eventually_async(lambda: settled(outbox))

    assert handler.by_key["a"] == [(0, 1), (0, 2)] + [(n, 1) for n in range(1, 2001)]
    assert 20 <= len(watcher.of(JobsReleased)) < 60


async def test_a_restart_while_jobs_are_parked_changes_nothing(outbox: Outbox) -> None:
    outbox.put(range(10), key="a")
    first, second, third = Failing({2: 1, 5: 1}), Failing({2: 1, 5: 1}), Failing({5: 1})
    async with running(strict(outbox, first, retry=SLOW)):
        await eventually_async(lambda: count_parked(outbox, 7))

    outbox.put(range(10, 15), key="a")
    async with running(strict(outbox, second, retry=SLOW)):
        await eventually_async(lambda: count_parked(outbox, 12))
        assert second.jobs == []
        make_due(outbox)
        await eventually_async(lambda: count_parked(outbox, 9))
        await second.until(lambda: (5, 1) in second.by_key["a"])

    assert parked(outbox) == list(range(6, 15))
    make_due(outbox)
    async with running(strict(outbox, third)):
        await third.got(10)
        await eventually_async(lambda: settled(outbox))

    assert first.by_key["a"] == [(0, 1), (1, 1), (2, 1)]
    assert second.by_key["a"] == [(2, 2), (3, 1), (4, 1), (5, 1)]
    assert third.by_key["a"] == [(5, 2)] + [(n, 1) for n in range(6, 15)]


async def test_another_instance_takes_over_while_jobs_are_parked(outbox: Outbox) -> None:
    outbox.put(range(10), key="a")
    order: list[tuple[Any, int]] = []

    class Noting(Failing):
        async def __call__(self, jobs: Sequence[Job]) -> dict[int, Any]:
            order.extend((job.json(), job.attempt) for job in jobs)
            return await super().__call__(jobs)

    first, second = Noting({2: 1}), Noting({2: 1})
    one, other = Watcher(), Watcher()
    async with streaming(strict(outbox, first, retry=SLOW, observers=[one]), one):
        await eventually_async(lambda: count_parked(outbox, 7))
        # What the table knows to be done is not done again by who takes over.
        await outbox.settled()
        async with running(strict(outbox, second, retry=SLOW, observers=[other])):
            await other.saw(StandingBy)
            before = len(one.of(READING)) + len(other.of(READING))
            # Its lock is lost; whoever comes first goes on, and the order is the same.
            outbox.rows(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and application_name like 'pgcdc-outbox/%%'"
            )
            # Not before the old hold is over, which would begin the job and not end it.
            await eventually_async(lambda: reading_again(one, other, before), timeout=60)
            make_due(outbox)
            await eventually_async(lambda: done(first, second, 11), timeout=60)
            await eventually_async(lambda: settled(outbox))

    expected = [(0, 1), (1, 1), (2, 1), (2, 2)] + [(n, 1) for n in range(3, 10)]
    assert order == expected


async def reading_again(one: Watcher, other: Watcher, before: int) -> bool:
    return len(one.of(READING)) + len(other.of(READING)) > before


async def done(first: Failing, second: Failing, count: int) -> bool:
    return len(first.jobs) + len(second.jobs) == count


@pytest.mark.parametrize("to", ["key", "none"])
async def test_without_strict_order_everything_that_is_parked_goes_on(
    outbox: Outbox, to: str
) -> None:
    outbox.put(range(250), key="a")
    outbox.put(range(1000, 1010), key="b")
    first, second = Failing({0: 1, 1000: 1}), Failing({})
    async with running(strict(outbox, first, retry=SLOW)):
        await eventually_async(lambda: count_parked(outbox, 249 + 9))

    watcher = Watcher()
    async with running(consumer(outbox, second, ordering=to, observers=[watcher])):
        await second.got(249 + 9)
        await eventually_async(lambda: settled(outbox))

    assert [event.keys for event in watcher.of(OrderGivenUp)] == [2]
    assert second.by_key["a"] == [(n, 1) for n in range(1, 250)]
    assert second.by_key["b"] == [(n, 1) for n in range(1001, 1010)]


async def test_a_holder_that_somebody_takes_away_is_waited_for_no_more(outbox: Outbox) -> None:
    outbox.put(range(10), key="a")
    outbox.put(range(100, 110), key="b")
    handler = Failing({2: 1, 102: 1})
    async with running(strict(outbox, handler, retry=SLOW)):
        await eventually_async(lambda: count_parked(outbox, 14))
        # As a cancellation does, and as somebody does who knows of nothing.
        outbox.rows("update held_key set id = null where key = 'a'")
        outbox.rows("delete from failed where key = 'a'")
        outbox.rows("delete from failed where key = 'b'")
        await handler.got(20)
        await eventually_async(lambda: settled(outbox))

    assert handler.by_key["a"] == [(n, 1) for n in range(10)]
    assert handler.by_key["b"] == [(n, 1) for n in range(100, 110)]


async def test_nobody_waits_for_a_job_that_died_just_before_a_crash(outbox: Outbox) -> None:
    """Dead is recorded, and nobody came to let its followers go."""
    outbox.put(range(5), key="a")
    first, second = Failing({0: 1}), Failing({})
    async with running(strict(outbox, first, retry=SLOW)):
        await eventually_async(lambda: count_parked(outbox, 4))

    outbox.rows(
        "with dead as (delete from failed returning *) "
        "insert into dead_letter (consumer, id, reason, attempt, created_at, topic, payload, "
        "key, errors) select consumer, id, 'exhausted', attempt + 1, created_at, topic, payload, "
        "key, errors from dead"
    )
    outbox.rows("insert into trace (consumer, id, attempt) select consumer, id, 1 from dead_letter")
    async with running(strict(outbox, second)):
        await second.got(4)
        await eventually_async(lambda: settled(outbox))

    assert second.by_key["a"] == [(n, 1) for n in range(1, 5)]


async def test_keys_that_lost_their_holder_s_row_go_on_at_the_next_start(outbox: Outbox) -> None:
    outbox.put(range(5), key="a")
    first, second = Failing({0: 1}), Failing({})
    async with running(strict(outbox, first, retry=SLOW)):
        await eventually_async(lambda: count_parked(outbox, 4))

    outbox.rows("delete from held_key")
    async with running(strict(outbox, second)):
        await second.got(4)
        await eventually_async(lambda: settled(outbox))

    assert second.by_key["a"] == [(n, 1) for n in range(1, 5)]


async def test_what_one_consumer_waits_for_is_nothing_to_another(outbox: Outbox) -> None:
    outbox.put(range(10), key="a")
    here, there = Failing({2: 1}), Failing({})
    async with (
        running(strict(outbox, here, retry=SLOW)),
        running(strict(outbox, there, name="other")),
    ):
        await there.got(10)
        await eventually_async(lambda: count_parked(outbox, 7))

    assert there.by_key["a"] == [(n, 1) for n in range(10)]
    assert outbox.value("select count(*) from parked where consumer = 'other'") == 0


async def test_a_parked_job_is_whole_when_it_comes(outbox: Outbox) -> None:
    outbox.put([0], key="a")
    outbox.put([1], key="a", topic="other", headers={"h": "1"})
    with psycopg.connect(outbox.dsn) as connection:
        connection.execute(
            "insert into outbox.immediate (topic, payload, key, content_type) "
            "values ('raw', '2', 'a', 'text/plain')"
        )

    before = outbox.rows("select id, created_at from immediate order by id")
    handler = Failing({0: 1})
    async with running(strict(outbox, handler)):
        await handler.got(4)

    jobs = handler.jobs[2:]
    assert [(job.topic, dict(job.headers), job.content_type, job.attempt) for job in jobs] == [
        ("other", {"h": "1"}, "application/json", 1),
        ("raw", {}, "text/plain", 1),
    ]
    assert [(job.id, job.created_at) for job in jobs] == before[1:]
    assert all(job.errors == () for job in jobs)


async def test_partitions_of_parked_jobs_may_go(outbox: Outbox) -> None:
    """Parked rows are copies: the checkpoint passes the rows that they came from."""
    outbox.put(range(10), key="a")
    first, second = Failing({0: 1}), Failing({})
    async with running(strict(outbox, first, retry=SLOW)):
        await eventually_async(lambda: count_parked(outbox, 9))
        await outbox.settled()

    outbox.rows("truncate immediate")
    make_due(outbox)
    async with running(strict(outbox, second)):
        await second.got(10)

    assert second.by_key["a"] == [(0, 2)] + [(n, 1) for n in range(1, 10)]


async def test_a_job_that_was_noted_but_had_to_wait_is_not_blamed_for_a_crash(
    outbox: Outbox,
) -> None:
    """A careful consumer died between its note and the look at the key: nothing was executed."""
    outbox.put(range(3), key="a")
    first, second, third = Failing({0: 1}), Failing({}), Failing({})
    async with running(strict(outbox, first, retry=SLOW)):
        await eventually_async(lambda: count_parked(outbox, 2))

    (late,) = outbox.put([3], key="a")
    outbox.rows(
        "insert into started (consumer, id, attempt, instance) values ('default', %s, 1, 'dead')",
        [late],
    )
    async with running(strict(outbox, second, retry=SLOW)):
        await eventually_async(lambda: count_parked(outbox, 3))

    assert outbox.value("select id from held_key") == outbox.value("select id from failed")
    assert outbox.value("select count(*) from started") == 0
    make_due(outbox)
    async with running(strict(outbox, third)):
        await third.got(4)

    assert third.by_key["a"] == [(0, 2), (1, 1), (2, 1), (3, 1)]


async def test_nobody_waits_for_a_job_that_was_done_just_before_a_crash(outbox: Outbox) -> None:
    """Done was recorded, in the transaction of its effects; its followers were not let go."""
    outbox.put(range(5), key="a")
    first, second = Failing({0: 1}), Failing({})
    async with running(strict(outbox, first, retry=SLOW)):
        await eventually_async(lambda: count_parked(outbox, 4))

    outbox.rows(
        "with done as (delete from failed returning consumer, id) "
        "insert into trace (consumer, id, attempt) select consumer, id, 2 from done"
    )
    async with running(strict(outbox, second)):
        outbox.put([100], key="b")
        await second.got(5)
        await eventually_async(lambda: settled(outbox))

    assert second.by_key["a"] == [(n, 1) for n in range(1, 5)]


async def test_what_expires_while_it_waits_lets_the_next_go(outbox: Outbox) -> None:
    outbox.put([0], key="a")
    outbox.put([1], key="a", time_to_live=0.5)
    outbox.put([2], key="a")
    handler = Failing({0: 1})
    async with running(strict(outbox, handler, retry=SLOW)):
        await eventually_async(lambda: count_parked(outbox, 2))
        outbox.rows("update parked set expires_at = now() where expires_at is not null")
        make_due(outbox)
        await handler.got(3)
        await eventually_async(lambda: settled(outbox))

    assert handler.by_key["a"] == [(0, 1), (0, 2), (2, 1)]
    assert outbox.rows("select reason from dead_letter") == [("expired",)]
