"""Replaying: copies of jobs, marked, in their old order, and never copies of copies."""

from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from pgcdc_outbox import Jobs, Maintenance, Replay, Retry
from pgcdc_outbox.errors import ReplayIncomplete, SettingsError
from pgcdc_outbox.postgres.jobs.replaying import Replayed
from tests.harness import Outbox, Recorder, consumer
from tests.maintained import PATIENT

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version

IN_BOTH_MODES = True

LONG = 3600.0


def hour_ago() -> datetime:
    return datetime.now(UTC) - timedelta(hours=1)


def replay(outbox: Outbox, **options: Any) -> Replayed:
    return Jobs(outbox.dsn).replay(Replay(**{"since": hour_ago(), "partial": True, **options}))


async def once(outbox: Outbox, handler: Any, **options: Any) -> None:
    with anyio.fail_after(120):
        await consumer(outbox, handler, **options).run(once=True)


async def test_copies_come_in_the_old_order_with_ids_of_their_own_and_say_what_they_are(
    outbox: Outbox,
) -> None:
    ids = [*outbox.put(range(5), topic="a", key="k", headers={"h": "1"}), *outbox.put(range(5, 25))]
    await once(outbox, Recorder())
    done = replay(outbox, batch_size=4)
    assert done.jobs == 25
    recorder = Recorder()
    await once(outbox, recorder)
    assert recorder.values == list(range(25))
    assert [int(job.headers["pgcdc-replay-of"]) for job in recorder.jobs] == ids
    assert set(recorder.ids) & set(ids) == set()
    first = recorder.jobs[0]
    assert (first.topic, first.key, first.headers["h"], first.attempt) == ("a", "k", "1", 1)
    moment = datetime.fromisoformat(first.headers["pgcdc-replayed-at"])
    assert abs(datetime.now(UTC) - moment) < timedelta(minutes=5)


async def test_retries_and_copies_are_not_copied(outbox: Outbox) -> None:
    (id_,) = outbox.put(["x"])
    recorder = Recorder(lambda jobs: {j.id: Retry(after=0) for j in jobs if j.attempt == 1})
    await once(outbox, recorder)
    # When it is due was reckoned, and may be ahead by as long as asking the server took.
    outbox.rows("update failed set due_at = clock_timestamp()")
    await once(outbox, recorder)
    assert outbox.value("select count(*) from immediate") == 2
    assert replay(outbox).jobs == 1
    assert replay(outbox).jobs == 1
    copies = outbox.rows(
        "select headers ->> 'pgcdc-replay-of' from immediate where headers is not null"
    )
    assert copies == [(str(id_),)] * 2


async def test_filters_and_a_span(outbox: Outbox) -> None:
    outbox.put([1], topic="a", key="k")
    outbox.put([2], topic="a")
    outbox.put([3], topic="b", key="k")
    middle = datetime.now(UTC)
    outbox.put([4], topic="a", key="k")
    jobs = Jobs(outbox.dsn)

    def counted(**options: Any) -> dict[str, int]:
        spans = jobs.preview(Replay(since=hour_ago(), partial=True, **options))
        return {each.topic: each.jobs for each in spans}

    assert counted() == {"a": 3, "b": 1}
    assert counted(topic="a") == {"a": 3}
    assert counted(key="k") == {"a": 2, "b": 1}
    assert counted(topic="a", key="k") == {"a": 2}
    assert counted(until=middle) == {"a": 2, "b": 1}
    assert outbox.value("select count(*) from immediate") == 4
    assert replay(outbox, topic="a", key="k", until=middle).jobs == 1


async def test_for_one_consumer(outbox: Outbox) -> None:
    outbox.put([1])
    for name in ("a", "b"):
        await once(outbox, Recorder(), name=name)

    replay(outbox, consumer="a")
    got = {}
    for name in ("a", "b"):
        recorder = Recorder()
        await once(outbox, recorder, name=name)
        got[name] = recorder.values

    assert got == {"a": [1], "b": []}


async def test_what_was_interrupted_goes_on_where_it_ended(outbox: Outbox) -> None:
    ids = outbox.put(range(10))
    seen: list[Replayed] = []

    def interrupt(replayed: Replayed) -> None:
        seen.append(replayed)
        if len(seen) == 2:
            raise KeyboardInterrupt

    wanted = Replay(since=hour_ago(), until=datetime.now(UTC), batch_size=3, partial=True)
    with pytest.raises(KeyboardInterrupt):
        Jobs(outbox.dsn).replay(wanted, observe=interrupt)

    after = seen[-1].after
    assert seen[-1].jobs == 6
    assert after is not None
    assert replay(outbox, after=after).jobs == 4
    copies = outbox.rows(
        "select headers ->> 'pgcdc-replay-of' from immediate where headers is not null order by id"
    )
    assert [int(row[0]) for row in copies] == ids


@pytest.mark.logical_only
def test_behind_what_the_partitions_hold_it_is_refused(outbox: Outbox) -> None:
    """A span whose partitions are gone; but not one before the outbox was made."""
    jobs = Jobs(outbox.dsn)
    since = datetime.now(UTC) - timedelta(days=30)
    assert jobs.preview(Replay(since=since)) == ()
    Maintenance(outbox.dsn, lock_timeout=PATIENT).once()
    outbox.put([1])
    assert len(jobs.preview(Replay(since=since))) == 1

    outbox.rows("update migration set applied_at = applied_at - interval '20 days'")
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    with pytest.raises(ReplayIncomplete, match=f"{today:%Y-%m-%d}T00:00:00Z") as caught:
        jobs.replay(Replay(since=since))

    assert "--partial" in caught.value.hint
    assert outbox.value("select count(*) from immediate") == 1
    assert len(jobs.preview(Replay(since=today))) == 1
    assert len(jobs.preview(Replay(since=since, partial=True))) == 1


@pytest.mark.logical_only
def test_a_gap_and_an_emptied_partition_are_where_it_ends(outbox: Outbox) -> None:
    for days in (5, 3, 2, 1):
        outbox.rows(
            "insert into immediate (payload, created_at) "
            "values ('1', clock_timestamp() - %s * interval '1 day')",
            [days],
        )

    Maintenance(outbox.dsn, lock_timeout=PATIENT).once()
    outbox.rows("update migration set applied_at = applied_at - interval '20 days'")
    jobs, now = Jobs(outbox.dsn), datetime.now(UTC)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    assert jobs.preview(Replay(since=today - timedelta(days=3)))[0].jobs == 3
    with pytest.raises(ReplayIncomplete):
        jobs.preview(Replay(since=today - timedelta(days=4)))

    emptied = f"immediate_{today - timedelta(days=3):%Y%m%dt%H%Mz}"
    outbox.rows(f"truncate {emptied}")
    with pytest.raises(ReplayIncomplete):
        jobs.preview(Replay(since=today - timedelta(days=3)))

    assert jobs.preview(Replay(since=today - timedelta(days=2)))[0].jobs == 2


@pytest.mark.logical_only
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"since": datetime(2026, 1, 1)}, "since: it has no time zone"),
        ({"until": hour_ago() - timedelta(days=1)}, "until: it is not after since"),
        ({"batch_size": 0}, "batch_size: 0"),
    ],
)
def test_what_makes_no_sense_is_refused(
    outbox: Outbox, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        replay(outbox, **options)
