"""A job that is put off: it comes again, and nothing counts against it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from pgcdc_outbox import Job, RetryPolicy, Snooze
from tests.harness import Outbox, Recorder, Watcher, consumer, streaming
from tests.wait import eventually_async

IN_BOTH_MODES = True


async def test_it_uses_up_no_attempt_and_leaves_no_error(outbox: Outbox) -> None:
    """Put off oftener than it may fail, it still has all its attempts."""
    snoozes = 4

    def then(jobs: Sequence[Job]) -> object:
        (job,) = jobs
        return {job.id: Snooze(after=0.01)} if job.attempt <= snoozes else [job.id]

    recorder, watcher = Recorder(then), Watcher()
    policy = RetryPolicy(max_attempts=2, first_delay=0.01)
    async with streaming(consumer(outbox, recorder, retry=policy, observers=[watcher]), watcher):
        (id_,) = outbox.put(["x"])
        await recorder.got(snoozes + 2)
        await eventually_async(lambda: died(outbox))

    assert recorder.ids == [id_] * (snoozes + 2)
    assert [job.attempt for job in recorder.jobs] == [1, 2, 3, 4, 5, 6]
    assert [job.prior_attempts for job in recorder.jobs] == [0, 1, 2, 3, 4, 4]
    assert [len(job.errors) for job in recorder.jobs] == [0, 0, 0, 0, 0, 1]
    assert outbox.rows("select reason, attempt, jsonb_array_length(errors) from dead_letter") == [
        ("exhausted", 6, 2)
    ]


async def died(outbox: Outbox) -> bool:
    return bool(outbox.value("select count(*) from dead_letter"))


async def test_it_comes_again_at_the_moment_given(outbox: Outbox) -> None:
    again: list[datetime] = []

    def then(jobs: Sequence[Job]) -> None:
        (job,) = jobs
        if job.attempt == 1:
            raise Snooze(until=moments[job.json()])

        again.append(outbox.value("select clock_timestamp()"))

    # The one comes while the test waits, the other stays to be looked at.
    now = outbox.value("select clock_timestamp()").astimezone(UTC)
    soon, late = now + timedelta(seconds=1), now + timedelta(hours=1)
    moments = {"soon": soon, "late": late}
    recorder, watcher = Recorder(then), Watcher()
    options = {"batch_size": 1, "observers": [watcher]}
    async with streaming(consumer(outbox, recorder, **options), watcher):
        outbox.put(["late", "soon"])
        await recorder.got(3)
        await eventually_async(lambda: put_off(outbox, late))

    assert again[0] >= soon
    assert [job.json() for job in recorder.jobs] == ["late", "soon", "soon"]
    assert recorder.jobs[2].errors == ()


async def put_off(outbox: Outbox, at: datetime) -> bool:
    return outbox.rows("select due_at from failed") == [(at,)]


async def test_raised_for_several_jobs_each_comes_back_alone(outbox: Outbox) -> None:
    def then(jobs: Sequence[Job]) -> None:
        if len(jobs) > 1:
            raise Snooze(after=3600)

    recorder, watcher = Recorder(then), Watcher()
    # Before the start: from the log they may come one after the other.
    ids = outbox.put(range(3))
    async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
        await recorder.got(6)

    assert [len(batch) for batch in recorder.batches] == [3, 1, 1, 1]
    assert sorted(recorder.ids[3:]) == ids


async def test_a_moment_that_has_passed_is_at_once(outbox: Outbox) -> None:
    past = datetime(2001, 1, 1, tzinfo=UTC)
    recorder = Recorder(lambda jobs: {job.id: Snooze(past) for job in jobs if job.attempt < 3})
    watcher = Watcher()
    async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
        outbox.put(["x"])
        await recorder.got(3)

    assert [job.attempt for job in recorder.jobs] == [1, 2, 3]
