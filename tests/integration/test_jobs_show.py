"""One job on one screen: where it is, and every attempt that is known."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import anyio
import pytest

from pgcdc_outbox import Dead, Job, Jobs, Maintenance, Retry
from pgcdc_outbox.postgres.jobs.showing import Shown
from pgcdc_outbox.postgres.jobs.standing import Standing
from tests.harness import Outbox, Recorder, Watcher, consumer, running, streaming
from tests.maintained import PATIENT
from tests.wait import eventually

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version

IN_BOTH_MODES = True

LONG = 3600.0


def show(outbox: Outbox, id_: int, **options: Any) -> Shown:
    return Jobs(outbox.dsn).show(id_, **options)


def only(shown: Shown) -> Standing:
    (standing,) = shown.consumers
    return standing


async def once(outbox: Outbox, handler: Any, **options: Any) -> None:
    with anyio.fail_after(120):
        await consumer(outbox, handler, **options).run(once=True)


async def settled(outbox: Outbox, handler: Any, **options: Any) -> None:
    """Handle what there is, until a checkpoint has seen it."""
    async with running(consumer(outbox, handler, **options)):
        await outbox.settled()


async def test_scheduled(outbox: Outbox) -> None:
    await once(outbox, Recorder())
    (id_,) = outbox.put([{"a": 1}], topic="t", key="k", headers={"h": "1"}, delay=LONG)
    shown = show(outbox, id_)
    assert (shown.topic, shown.key, shown.headers, shown.body) == ("t", "k", {"h": "1"}, '{"a":1}')
    assert only(shown).state == "scheduled"
    assert only(shown).due_at is not None
    assert only(shown).passed is None


async def test_in_line(outbox: Outbox) -> None:
    await once(outbox, Recorder())
    (id_,) = outbox.put([1])
    shown = show(outbox, id_)
    assert (only(shown).state, only(shown).attempt, only(shown).passed) == ("in_line", 1, False)
    assert [row.partition for row in shown.rows] == ["immediate_default"]
    assert "the consumer does not run" in only(shown).about


async def test_in_line_while_it_is_executed(outbox: Outbox) -> None:
    release, watcher = anyio.Event(), Watcher()
    started = anyio.Event()

    async def handle(jobs: Sequence[Job]) -> None:
        started.set()
        await release.wait()

    async with streaming(consumer(outbox, handle, observers=[watcher]), watcher):
        (id_,) = outbox.put([1])
        await started.wait()
        standing = only(await anyio.to_thread.run_sync(show, outbox, id_))
        assert standing.state == "in_line"
        assert standing.instance == outbox.value("select instance from consumer")
        release.set()


async def test_failed_tells_every_attempt(outbox: Outbox) -> None:
    (id_,) = outbox.put([1])
    recorder = Recorder(
        lambda jobs: {jobs[0].id: Retry(after=0 if jobs[0].attempt == 1 else LONG, error="busy")}
    )
    async with running(consumer(outbox, recorder)):
        await recorder.got(2, 60)

    standing = only(show(outbox, id_))
    assert (standing.state, standing.attempt, standing.passed) == ("failed", 2, True)
    assert [(each.attempt, each.outcome, each.text) for each in standing.attempts] == [
        (1, "retry", "busy"),
        (2, "retry", "busy"),
    ]
    assert all(
        each.started_at and each.seconds is not None and each.instance for each in standing.attempts
    )


async def test_failed_without_an_audit_tells_what_is_kept_with_the_job(outbox: Outbox) -> None:
    (id_,) = outbox.put([1])
    await once(
        outbox, Recorder(lambda jobs: {jobs[0].id: Retry(after=LONG, error="busy")}), audit="none"
    )
    (attempt,) = only(show(outbox, id_)).attempts
    assert (attempt.attempt, attempt.outcome, attempt.text, attempt.instance) == (
        1,
        "failed",
        "busy",
        None,
    )
    assert attempt.recorded_at is not None


async def test_parked_names_the_job_it_waits_for(outbox: Outbox) -> None:
    await once(outbox, Recorder())
    first, second = outbox.put([1, 2], key="k", delay=LONG)
    outbox.rows(
        "with gone as (delete from scheduled where id = %s returning *) "
        "insert into parked (consumer, key, id, attempt, times, created_at, topic, payload, errors)"
        " select 'default', key, id, 1, 1, created_at, topic, payload, '[]' from gone",
        [second],
    )
    outbox.rows("insert into held_key (consumer, key, id) values ('default', 'k', %s)", [first])
    standing = only(show(outbox, second))
    assert (standing.state, standing.behind, standing.attempt) == ("parked", first, 1)


async def test_dead_and_what_is_left_when_its_letter_is_discarded(outbox: Outbox) -> None:
    (id_,) = outbox.put([1])
    await once(outbox, Recorder(lambda jobs: {jobs[0].id: Dead("no use")}))
    standing = only(show(outbox, id_))
    assert (standing.state, standing.reason, standing.attempt) == ("dead", "no use", 1)

    outbox.rows("delete from dead_letter")
    standing = only(show(outbox, id_))
    assert standing.state == "settled"
    assert "discarded" in standing.about


async def test_done_if_all_is_kept_and_settled_if_not(outbox: Outbox) -> None:
    (kept,) = outbox.put([1])
    await settled(outbox, Recorder(), audit="all")
    (forgotten,) = outbox.put([2])
    await settled(outbox, Recorder())
    done, past = only(show(outbox, kept)), only(show(outbox, forgotten))
    assert (done.state, done.passed, [each.outcome for each in done.attempts]) == (
        "done",
        True,
        ["done"],
    )
    assert (past.state, past.passed, past.attempts) == ("settled", True, ())


async def test_gone_with_its_partition(outbox: Outbox) -> None:
    (id_,) = outbox.put([1])
    await settled(outbox, Recorder(), audit="all")
    (other,) = outbox.put([1])
    await settled(outbox, Recorder())
    outbox.rows("truncate immediate")
    assert only(show(outbox, id_)).state == "done"
    shown = show(outbox, other)
    assert not shown.known
    assert "With audit=all" in only(shown).about


async def test_one_that_never_was(outbox: Outbox) -> None:
    (id_,) = outbox.put([1])
    shown = show(outbox, id_ + 1)
    assert not shown.known
    assert shown.about == f"there is no such job: the highest id given out is {id_}"


async def test_each_consumer_has_its_own_story(outbox: Outbox) -> None:
    (id_,) = outbox.put([1])
    await settled(outbox, Recorder(), name="a", audit="all")
    await once(outbox, Recorder(lambda jobs: {jobs[0].id: Retry(after=LONG)}), name="b")
    states = {each.consumer: each.state for each in show(outbox, id_).consumers}
    assert states == {"a": "done", "b": "failed"}
    assert only(show(outbox, id_, consumer="b")).state == "failed"


@pytest.mark.logical_only
async def test_partitions_are_looked_through_back_to_the_first_row(outbox: Outbox) -> None:
    outbox.rows(
        "insert into immediate (payload, created_at) "
        "values ('1', clock_timestamp() - interval '3 days')"
    )
    Maintenance(outbox.dsn, lock_timeout=PATIENT).once()
    id_ = outbox.value("select id from immediate")
    (new,) = outbox.put([1])
    assert [row.partition[:10] for row in show(outbox, id_).rows] == ["immediate_"]
    assert only_partition(show(outbox, id_)) < only_partition(show(outbox, new))

    shown = show(outbox, id_, within=timedelta(0))
    assert shown.looked_back_to is not None
    assert "for lack of time" in shown.about


def only_partition(shown: Shown) -> str:
    (row,) = shown.rows
    return row.partition


@pytest.mark.logical_only
async def test_one_that_runs_and_was_noted(outbox: Outbox) -> None:
    await once(outbox, Recorder())
    (id_,) = outbox.put([1])
    outbox.rows(
        "insert into started (consumer, id, attempt, instance) values ('default', %s, 1, 'me')",
        [id_],
    )
    standing = only(show(outbox, id_))
    assert (standing.state, standing.instance, standing.attempt) == ("running", "me", 1)


async def test_settled_ahead_of_a_job_that_still_runs(outbox: Outbox) -> None:
    """Its row is not passed; a stop has left a trace that says so."""
    ran = anyio.Event()

    async def handle(jobs: Sequence[Job]) -> None:
        if jobs[0].json() == "slow":
            await anyio.sleep_forever()

        ran.set()

    subject = consumer(outbox, handle, batch_size=1, concurrency=2, drain_timeout=0.1)
    async with running(subject):
        slow, quick = outbox.put(["slow", "quick"])
        await ran.wait()

    assert only(show(outbox, slow)).state == "in_line"
    eventually(lambda: only(show(outbox, quick)).state == "settled", timeout=60)
