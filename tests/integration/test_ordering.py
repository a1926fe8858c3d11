"""Order per key: jobs of one key start in the order of their commits, and never meet."""

from collections import defaultdict
from collections.abc import Sequence

import anyio
import psycopg
import pytest

from pgcdc_outbox import Job
from pgcdc_outbox.errors import SettingsError
from tests.harness import Outbox, Recorder, Watcher, consumer, running, streaming

IN_BOTH_MODES = True


class Keyed(Recorder):
    """A handler that takes a while, and finds out whether two calls have a key in common."""

    def __init__(self, seconds: float = 0.002) -> None:
        super().__init__()
        self._seconds = seconds
        self._running: set[str] = set()
        self.most = 0
        """Calls that ran at the same time."""
        self.met: list[str] = []
        """Keys of which two jobs ran at the same time."""
        self._calls = 0

    async def __call__(self, jobs: Sequence[Job]) -> None:
        keys = {job.key for job in jobs if job.key is not None}
        self.met += keys & self._running
        self._running |= keys
        self._calls += 1
        self.most = max(self.most, self._calls)
        await super().__call__(jobs)
        await anyio.sleep(self._seconds)
        self._calls -= 1
        self._running -= keys

    @property
    def by_key(self) -> dict[str | None, list[int]]:
        seen = defaultdict(list)
        for job in self.jobs:
            seen[job.key].append(job.id)

        return seen


def commit_keyed(outbox: Outbox, count: int, keys: int) -> dict[str | None, list[int]]:
    """Jobs of a few keys, and some of none, five in a transaction; their ids by key."""
    ids: dict[str | None, list[int]] = defaultdict(list)
    with psycopg.connect(outbox.dsn) as connection:
        for n in range(count):
            key = f"k{n % keys}" if n % 7 else None
            ids[key].append(outbox.client.enqueue(n, key=key, tx=connection))
            if n % 5 == 0:
                connection.commit()

    return ids


@pytest.mark.parametrize("ordering", ["key", "strict_key"])
@pytest.mark.parametrize("batch_size", [1, 10])
async def test_jobs_of_a_key_start_in_order_and_never_meet(
    outbox: Outbox, ordering: str, batch_size: int
) -> None:
    expected = commit_keyed(outbox, 300, keys=5)
    handler = Keyed()
    async with running(
        consumer(outbox, handler, ordering=ordering, concurrency=8, batch_size=batch_size)
    ):
        await handler.got(300)

    assert handler.met == []
    assert handler.most > 1
    for key, ids in expected.items():
        assert handler.by_key[key] == ids or key is None

    assert sorted(handler.by_key[None]) == expected[None]


async def test_without_order_they_do_meet(outbox: Outbox) -> None:
    """Or the test above would show nothing."""
    commit_keyed(outbox, 100, keys=5)
    handler = Keyed(0.005)
    async with running(consumer(outbox, handler, concurrency=8, batch_size=1)):
        await handler.got(100)

    assert handler.met


async def test_a_key_that_does_not_end_holds_up_no_other(outbox: Outbox) -> None:
    """However many of its jobs wait: more than are read ahead, here."""
    go = anyio.Event()

    class Slow(Recorder):
        async def __call__(self, jobs: Sequence[Job]) -> None:
            await super().__call__(jobs)
            if jobs[0].key == "slow":
                await go.wait()

    outbox.put(range(500), key="slow")
    others = outbox.put(range(50), key="quick") + outbox.put(range(50))
    handler = Slow()
    options = {"ordering": "key", "concurrency": 2, "batch_size": 1, "prefetch": 20}
    async with running(consumer(outbox, handler, **options)):
        await handler.until(lambda: set(others) <= set(handler.ids))
        assert sum(job.key == "slow" for job in handler.jobs) == 1
        go.set()
        await handler.got(600)

    slow = [job.id for job in handler.jobs if job.key == "slow"]
    assert slow == sorted(slow)


async def test_under_key_a_retry_comes_later_and_its_followers_go_on(outbox: Outbox) -> None:
    class Failing(Keyed):
        async def __call__(self, jobs: Sequence[Job]) -> None:
            await super().__call__(jobs)
            if jobs[0].json() == 3 and jobs[0].attempt < 3:
                raise ValueError("not yet")

    ids = outbox.put(range(10), key="a")
    handler = Failing()
    options = {"ordering": "key", "concurrency": 4, "batch_size": 1}
    async with running(consumer(outbox, handler, **options)):
        await handler.got(12)

    assert handler.met == []
    assert [job.id for job in handler.jobs if job.attempt == 1] == ids
    assert [job.id for job in handler.jobs if job.attempt > 1] == [ids[3]] * 2


async def test_a_connection_that_is_lost_changes_nothing(outbox: Outbox) -> None:
    expected = commit_keyed(outbox, 300, keys=5)
    handler, watcher = Keyed(), Watcher()
    options = {"ordering": "key", "concurrency": 4, "batch_size": 3, "observers": [watcher]}
    # What a lost connection cuts off comes again, so it has time to end.
    async with streaming(consumer(outbox, handler, drain_timeout=60, **options), watcher):
        await handler.got(100)
        outbox.cut_off_reader()
        await handler.got(300)

    assert handler.met == []
    assert sorted(handler.ids) == sorted(id_ for ids in expected.values() for id_ in ids)
    for key, ids in expected.items():
        assert handler.by_key[key] == ids or key is None


def test_an_order_that_is_not_known_is_refused(outbox: Outbox) -> None:
    with pytest.raises(SettingsError, match="ordering: 'strict' is not known"):
        consumer(outbox, print, ordering="strict")
