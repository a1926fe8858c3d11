"""Clients without a server."""

import inspect
from datetime import UTC, datetime

import pytest

from pgcdc_outbox import AsyncClient, Client, Dead, Done, NewJob, Retry, RetryPolicy
from pgcdc_outbox.errors import HandlerInvalid, JobInvalid
from pgcdc_outbox.outcome import Snooze
from pgcdc_outbox.testing import AsyncInlineClient, InlineClient

pytestmark = pytest.mark.any_version


class Recorder:
    def __init__(self, then=lambda jobs: None) -> None:
        self.batches: list[list] = []
        self._then = then

    def handle(self, jobs):
        self.batches.append([job.json() for job in jobs])
        return self._then(jobs)


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psycopg.Connection.connect", lambda *_, **__: pytest.fail("connects"))
    monkeypatch.setattr("psycopg.AsyncConnection.connect", lambda *_, **__: pytest.fail("connects"))


def test_a_job_is_handled_before_enqueue_returns() -> None:
    recorder = Recorder()
    client = InlineClient(recorder)
    assert isinstance(client, Client)
    assert client.enqueue({"a": 1}, topic="t", key="k", headers={"h": "v"}) == 1
    assert client.enqueue_many([NewJob(payload=2), NewJob(payload=3)]) == [2, 3]
    assert recorder.batches == [[{"a": 1}], [2, 3]]
    (job, *_) = client.jobs
    assert (job.topic, job.key, job.headers, job.run_at) == ("t", "k", {"h": "v"}, None)
    client.assert_enqueued(topic="t", payload={"a": 1})
    with pytest.raises(AssertionError, match="expected none"):
        client.assert_not_enqueued(topic="t")


def test_with_a_tx_it_waits_for_the_flush() -> None:
    recorder = Recorder()
    client = InlineClient(recorder)
    client.enqueue(1, tx=object())
    assert (recorder.batches, [job.json() for job in client.waiting]) == ([], [1])
    client.flush()
    assert (recorder.batches, client.waiting) == ([[1]], [])

    client.enqueue(2, tx=object())
    client.discard()
    client.flush()
    assert (recorder.batches, len(client.jobs)) == ([[1]], 1)


def test_jobs_for_later_run_when_the_test_says_so() -> None:
    recorder = Recorder()
    client = InlineClient(recorder)
    client.enqueue("b", delay=60)
    client.enqueue("c", run_at=datetime(2100, 1, 1, tzinfo=UTC))
    client.enqueue("a", delay=30)
    client.flush()
    client.discard()
    assert recorder.batches == []
    client.flush(later=True)
    assert recorder.batches == [["a", "b", "c"]]


def test_what_cannot_be_enqueued_is_refused_as_by_the_real_client() -> None:
    client = InlineClient(max_payload_bytes=10)
    for wrong, text in (
        ({"payload": float("nan")}, "payload: nan"),
        ({"payload": 1, "topic": ""}, "topic: is empty"),
        ({"payload": 1, "run_at": datetime(2026, 1, 1)}, "has no time zone"),
        ({"payload": "x" * 100}, "the limit is 10"),
    ):
        with pytest.raises(JobInvalid, match=text):
            client.enqueue(**wrong)

    assert client.jobs == []


@pytest.mark.parametrize("name", ["enqueue", "enqueue_many"])
def test_the_same_parameters_as_the_real_ones(name: str) -> None:
    for double, real in ((InlineClient, Client), (AsyncInlineClient, AsyncClient)):
        assert inspect.signature(getattr(double, name)) == inspect.signature(getattr(real, name))


def test_what_the_handler_raises_or_returns_is_raised() -> None:
    def raising(jobs):
        raise ValueError("odd")

    with pytest.raises(ValueError, match="odd"):
        InlineClient(raising).enqueue(1)

    with pytest.raises(Dead, match="no such order"):
        InlineClient(lambda jobs: {1: Dead("no such order")}).enqueue(1)

    with pytest.raises(Exception, match="the handler returned its id"):
        InlineClient(lambda jobs: [job.id for job in jobs]).enqueue(1)

    InlineClient(lambda jobs: {1: Done()}).enqueue(1)


def test_retries_if_they_are_asked_for() -> None:
    def handle(jobs):
        for job in jobs:
            if job.json() == "bad" or job.attempt < 3:
                raise ValueError(f"attempt {job.attempt}")

    recorder = Recorder(handle)
    client = InlineClient(recorder, retry=RetryPolicy(max_attempts=4))
    client.enqueue_many([NewJob(payload="good"), NewJob(payload="bad")])
    assert recorder.batches.count(["good"]) == 2
    assert recorder.batches.count(["bad"]) == 3
    ((dead),) = client.dead
    assert (dead.job.json(), dead.reason, dead.error) == ("bad", "exhausted", "ValueError")
    assert [error.text for error in dead.job.errors] == [f"attempt {n}" for n in (1, 2, 3)]


def test_retries_end_with_the_outcome() -> None:
    client = InlineClient(
        lambda jobs: {job.id: Retry() if job.attempt == 1 else Dead("no") for job in jobs},
        retry=RetryPolicy(),
    )
    client.enqueue(1)
    assert [(dead.job.attempt, dead.reason) for dead in client.dead] == [(2, "no")]


def test_a_job_that_is_put_off_uses_up_no_attempt() -> None:
    attempts = []

    def handle(jobs):
        attempts.append((jobs[0].attempt, jobs[0].prior_attempts, jobs[0].errors))
        if len(attempts) < 3:
            raise Snooze(after=60)

    client = InlineClient(handle, retry=RetryPolicy(max_attempts=1))
    client.enqueue(1)
    assert attempts == [(1, 0, ()), (2, 1, ()), (3, 2, ())]
    assert client.dead == []


def test_an_async_handler_gets_a_loop_of_its_own() -> None:
    seen = []

    async def handle(jobs):
        seen.extend(job.json() for job in jobs)

    InlineClient(handle).enqueue(1)
    assert seen == [1]


async def test_inside_a_loop_it_says_what_to_use() -> None:
    async def handle(jobs):
        raise AssertionError("called")

    with pytest.raises(RuntimeError, match="use AsyncInlineClient"):
        InlineClient(handle).enqueue(1)


async def test_the_async_one() -> None:
    seen = []

    async def handle(jobs):
        seen.extend(job.json() for job in jobs)
        if len(seen) < 3:
            await client.enqueue(seen[-1] + 1)

    client = AsyncInlineClient(handle)
    assert isinstance(client, AsyncClient)
    assert await client.enqueue(1) == 1
    assert seen == [1, 2, 3]
    assert await client.enqueue_many([NewJob(payload=4)], tx=object()) == [4]
    await client.flush()
    assert seen == [1, 2, 3, 4]
    await client.enqueue(5, delay=1)
    await client.flush(later=True)
    assert seen[-1] == 5


def test_a_handler_that_a_consumer_would_refuse() -> None:
    with pytest.raises(HandlerInvalid, match="neither a function"):
        InlineClient(7)


class Rich:
    """A handler with a unit of work."""

    async def execute(self, jobs, unit):
        for job in jobs:
            if job.topic == "order":
                await unit.begin_once([job])
                await unit.enqueue([NewJob(payload=1, topic="mail")])
            else:
                async with unit.effects([job]):
                    raise AssertionError("there is no transaction")


def test_a_handler_with_a_unit_of_work() -> None:
    client = InlineClient(Rich())
    client.enqueue(1, topic="order")
    client.assert_enqueued(topic="mail")
    with pytest.raises(HandlerInvalid, match="transactional handler cannot run"):
        client.flush()
