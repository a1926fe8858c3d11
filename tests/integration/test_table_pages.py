"""Reading the table a page at a time: what a page holds, and that one is read ahead, not more."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from pgcdc_outbox import Job
from pgcdc_outbox.postgres.source import span
from pgcdc_outbox.postgres.source.page import Page, Part
from tests.harness import Outbox, Recorder, consumer, running
from tests.wait import eventually_async

SMALL = span.PAGE_BYTES // span.PAGE_ROWS


@pytest.fixture
def mode() -> str:
    return "polling"


class Pages:
    """Notes how many rows each page had that was read, and which statements read them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.rows: list[int] = []
        self.statements: list[str] = []
        self.largest = 0
        read = span.Pages.next

        async def next_(pages: span.Pages) -> list[Part]:
            parts = await read(pages)
            self.rows.append(sum(len(part.fresh) for part in parts))
            self.largest = max(self.largest, sum(part.size for part in parts))
            return parts

        run = span.Pages._read

        async def run_(pages: span.Pages, name: str, **parameters: object) -> Page:
            self.statements.append(name)
            return await run(pages, name, **parameters)

        patch.setattr(span.Pages, "next", next_)
        patch.setattr(span.Pages, "_read", run_)


async def test_small_and_large_payloads_in_any_order(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(span, "PAGE_ROWS", 20)
    monkeypatch.setattr(span, "PAGE_BYTES", 20 * SMALL)
    pages, recorder = Pages(monkeypatch), Recorder()
    sizes = [
        *[1] * 30,  # a page and a half of small ones, and then
        *[SMALL, SMALL + 1] * 10,  # the largest small one beside the smallest that is not,
        *[15 * SMALL] * 5,  # ones of which two do not fit,
        50 * SMALL,  # one that is more than a page,
        *[1] * 50,  # and small ones once more.
    ]
    ids = outbox.put([b"x" * size for size in sizes])
    await consumer(outbox, recorder).run(once=True)

    assert recorder.ids == ids
    assert [len(job.payload) for job in recorder.jobs] == sizes
    # The row that exceeds the bytes is the last one.
    assert pages.largest <= (20 + 50) * SMALL
    assert all(rows <= 20 for rows in pages.rows)
    # Bytes are added up only where they have to be.
    assert pages.statements[:2] == ["read_small"] * 2
    assert "read_later" in pages.statements
    assert pages.statements[-2:] == ["read_small"] * 2


async def test_a_page_is_read_while_another_is_handled_and_not_more(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(span, "PAGE_ROWS", 10)
    pages, recorder = Pages(monkeypatch), Recorder()
    ahead = []

    async def handle(jobs: Sequence[Job]) -> None:
        await recorder(jobs)
        if len(recorder.batches) == 1:
            # With the first one here, the second in the intake, the third waiting for room.
            await eventually_async(fourth_is_read)

        ahead.append(sum(pages.rows) - len(recorder.jobs))

    async def fourth_is_read() -> bool:
        return len(pages.rows) >= 4

    ids = outbox.put(range(200))
    await consumer(outbox, handle, batch_size=10, prefetch=10).run(once=True)

    assert recorder.ids == ids
    assert max(ahead) <= 40


async def test_a_stop_while_a_page_is_read_ahead_repeats_nothing(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(span, "PAGE_ROWS", 10)
    recorder = Recorder()
    ids = outbox.put(range(200))
    while len(recorder.ids) < len(ids):
        before = len(recorder.ids)
        async with running(consumer(outbox, recorder, batch_size=7, prefetch=7)):
            await recorder.got(before + 1)

    assert recorder.ids == ids


async def test_rows_that_are_not_fresh_between_those_that_are(outbox: Outbox) -> None:
    recorder = Recorder()
    expires = datetime(2999, 1, 1, 2, 3, 4, 567891, tzinfo=UTC)
    ids = [
        *outbox.put([0, 1]),
        *outbox.put([2], headers={"a": "b"}),
        *outbox.put([3], key="k", topic="t"),
        *outbox.put([4], expires_at=expires),
        *outbox.put([b"5"]),
    ]
    created = outbox.rows("select id, created_at from immediate order by id")
    await consumer(outbox, recorder).run(once=True)

    jobs = recorder.jobs
    assert [job.id for job in jobs] == ids
    assert [(job.id, job.created_at) for job in jobs] == created
    assert [job.headers for job in jobs] == [{}, {}, {"a": "b"}, {}, {}, {}]
    assert (jobs[3].key, jobs[3].topic) == ("k", "t")
    assert [job.expires_at for job in jobs] == [None] * 4 + [expires, None]
    assert {job.attempt for job in jobs} == {1}
    assert jobs[0].headers is not jobs[1].headers
