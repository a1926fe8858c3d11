"""Dedup keys: one job of each, whoever enqueues it, and also from two transactions at once."""

import threading
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import errors

from pgcdc_outbox.errors import JobDuplicate, JobInvalid
from pgcdc_outbox.job import NewJob
from pgcdc_outbox.postgres.partition.maintenance import Maintenance
from pgcdc_outbox.postgres.producer.client import AsyncClient, Client
from tests.contract.handles import Handle, Table
from tests.wait import eventually

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version


def alone(outbox: str, payload: Any, **options: Any) -> int:
    """Enqueue a job by a client of its own; its id."""
    with Client(outbox) as client:
        return client.enqueue(payload, **options)


def bodies(table: Table) -> list[Any]:
    return sorted(job["payload"] for name in ("immediate", "scheduled") for job in table.rows(name))


def held(table: Table) -> list[tuple[str, int]]:
    statement = "select dedup_key, id from outbox.dedup order by topic, dedup_key"
    return table.connection.execute(statement).fetchall()


async def test_the_first_is_kept_and_named(handle: Handle, table: Table):
    first = await handle.enqueue("a", dedup_key="k")
    assert await handle.enqueue("b", dedup_key="k") == first
    assert await handle.enqueue("b", dedup_key="k", on_duplicate="ignore", delay=60) == first
    other_key = await handle.enqueue("c", dedup_key="l")
    other_topic = await handle.enqueue("d", dedup_key="k", topic="other")
    await handle.commit()

    assert len({first, other_key, other_topic}) == 3
    assert bodies(table) == [b'"a"', b'"c"', b'"d"']
    assert held(table) == [("k", first), ("l", other_key), ("k", other_topic)]


async def test_a_second_one_is_refused(handle: Handle, table: Table):
    first = await handle.enqueue("a", dedup_key="k")
    with pytest.raises(JobDuplicate, match="dedup_key: 'k' of topic 'default'") as caught:
        await handle.enqueue("b", dedup_key="k", on_duplicate="error")

    assert caught.value.id == first
    assert caught.value.hint
    await handle.enqueue("c")
    await handle.commit()
    assert bodies(table) == [b'"a"', b'"c"']


async def test_one_that_waits_is_replaced_under_its_id(handle: Handle, table: Table):
    first = await handle.enqueue("a", dedup_key="k", delay=60)
    again = await handle.enqueue("b", dedup_key="k", delay=120, on_duplicate="replace", key="x")
    assert again == first
    assert await handle.enqueue("c", dedup_key="k", on_duplicate="replace") == first
    await handle.commit()

    assert table.rows("scheduled") == []
    assert [(row["id"], row["payload"]) for row in table.rows()] == [(first, b'"c"')]
    assert held(table) == [("k", first)]


async def test_one_that_does_not_wait_any_more_is_followed(handle: Handle, table: Table):
    first = await handle.enqueue("a", dedup_key="k")
    second = await handle.enqueue("b", dedup_key="k", on_duplicate="replace", time_to_live=60)
    third = await handle.enqueue("c", dedup_key="k", on_duplicate="ignore")
    await handle.commit()

    assert first < second == third
    assert bodies(table) == [b'"a"', b'"b"']
    assert held(table) == [("k", second)]
    assert table.rows()[1]["expires_at"] is not None


async def test_every_column_arrives_with_a_key(handle: Handle, table: Table):
    await handle.enqueue(
        b"\x00", topic="t", key="k", headers={"a": "ä"}, dedup_key="d", time_to_live=60, delay=5
    )
    await handle.commit()

    (row,) = table.rows("scheduled")
    assert (row["topic"], row["key"], row["headers"]) == ("t", "k", {"a": "ä"})
    assert (row["payload"], row["content_type"]) == (b"\x00", "application/octet-stream")
    assert row["expires_at"] - row["due_at"] == timedelta(minutes=1)


async def test_a_rollback_frees_the_key(handle: Handle, outbox: str, table: Table):
    await handle.enqueue("a", dedup_key="k")
    await handle.rollback()
    assert held(table) == []
    alone(outbox, "b", dedup_key="k", on_duplicate="error")

    assert bodies(table) == [b'"b"']


async def test_a_list_with_keys_keeps_its_order(handle: Handle, table: Table):
    jobs = [
        NewJob(payload="plain 1"),
        NewJob(payload="z", dedup_key="z"),
        NewJob(payload="a", dedup_key="a"),
        NewJob(payload="z again", dedup_key="z"),
        NewJob(payload="plain 2", delay=5),
    ]
    ids = await handle.enqueue_many(jobs)
    await handle.commit()

    by_id = {row["id"]: row["payload"] for row in (*table.rows(), *table.rows("scheduled"))}
    assert [by_id[id_] for id_ in ids] == [b'"plain 1"', b'"z"', b'"a"', b'"z"', b'"plain 2"']
    assert len(by_id) == 4


async def test_a_list_is_enqueued_whole_or_not_at_all(handle: Handle, table: Table):
    await handle.enqueue("first", dedup_key="y")
    jobs = [
        NewJob(payload="plain"),
        NewJob(payload="x", dedup_key="x"),
        NewJob(payload="y", dedup_key="y", on_duplicate="error"),
    ]
    with pytest.raises(JobDuplicate):
        await handle.enqueue_many(jobs)

    await handle.commit()
    assert bodies(table) == [b'"first"']
    assert [key for key, _ in held(table)] == ["y"]


@pytest.mark.parametrize("policy", ["ignore", "replace", "error"])
@pytest.mark.parametrize("ends", ["commit", "rollback"])
@pytest.mark.parametrize("delay", [None, 60], ids=["now", "later"])
def test_two_transactions_at_once(policy, ends, delay, outbox: str, table: Table):
    """The second waits for the first to end, and then knows what became of it."""
    result: list[Any] = []

    def enqueue() -> None:
        try:
            result.append(alone(outbox, "b", dedup_key="k", on_duplicate=policy))
        except JobDuplicate as error:
            result.append(error)

    with psycopg.connect(outbox) as connection:
        first = Client().enqueue("a", dedup_key="k", delay=delay, tx=connection)
        second = threading.Thread(target=enqueue)
        second.start()
        eventually(lambda: waits(table))
        assert result == []
        getattr(connection, ends)()

    second.join(60)
    (told,) = result
    if ends == "rollback":
        assert bodies(table) == [b'"b"']
        assert held(table) == [("k", told)]
        return

    match policy, delay:
        case "ignore", _:
            assert (told, bodies(table)) == (first, [b'"a"'])
        case "error", _:
            assert (told.id, bodies(table)) == (first, [b'"a"'])
        case "replace", None:
            assert (told > first, bodies(table)) == (True, [b'"a"', b'"b"'])
        case "replace", _:
            assert (told, bodies(table)) == (first, [b'"b"'])


def waits(table: Table) -> bool:
    statement = (
        "select count(*) from pg_stat_activity "
        "where wait_event = 'transactionid' and datname = current_database()"
    )
    return bool(table.connection.execute(statement).fetchone()[0])


def test_twenty_at_once_make_one(outbox: str, table: Table):
    barrier = threading.Barrier(20)
    ids: list[int] = []

    def enqueue(number: int) -> None:
        with Client(outbox) as client:
            barrier.wait()
            ids.append(client.enqueue(number, dedup_key="k"))

    threads = [threading.Thread(target=enqueue, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()

    for thread in threads:
        thread.join(60)

    assert len(ids) == 20
    assert set(ids) == {row["id"] for row in table.rows()}
    assert len(table.rows()) == 1


def test_a_job_that_is_on_its_way_to_run_is_followed_not_lost(outbox: str, table: Table):
    """Promotion has taken the row, and has not committed: whoever replaces it waits."""
    with psycopg.connect(outbox) as promoting:
        first = alone(outbox, "a", dedup_key="k", delay=60)
        promoting.execute(
            "with taken as (delete from outbox.scheduled returning *) "
            "insert into outbox.immediate (id, topic, payload) select id, topic, payload from taken"
        )
        ids: list[int] = []
        second = threading.Thread(
            target=lambda: ids.append(alone(outbox, "b", dedup_key="k", on_duplicate="replace"))
        )
        second.start()
        eventually(lambda: waits(table))
        promoting.commit()
        second.join(60)

    assert [row["id"] for row in table.rows()] == [first, *ids]
    assert bodies(table) == [b'"a"', b'"b"']


def test_lists_in_another_order_do_not_wait_for_each_other(outbox: str, table: Table):
    """Keys are taken in one order; the other way round two lists would be a deadlock."""
    names = [f"k{number}" for number in range(200)]
    failures: list[Exception] = []

    def enqueue(keys: list[str]) -> None:
        try:
            with Client(outbox) as client:
                client.enqueue_many([NewJob(payload=1, dedup_key=key) for key in keys])
        except errors.DeadlockDetected as error:
            failures.append(error)

    threads = [threading.Thread(target=enqueue, args=(keys,)) for keys in [names, names[::-1]] * 3]
    for thread in threads:
        thread.start()

    for thread in threads:
        thread.join(120)

    assert failures == []
    assert len(table.rows()) == 200


def test_a_key_is_free_again_after_its_time(outbox: str, table: Table):
    first = alone(outbox, "a", dedup_key="k", dedup_for=0.5)
    eventually(lambda: over(table))
    second = alone(outbox, "b", dedup_key="k", dedup_for=3600, on_duplicate="error")
    # Not before: that is asked of an hour, for half a second may be over before one can ask.
    assert alone(outbox, "c", dedup_key="k", dedup_for=0.5) == second
    assert not over(table)

    assert second != first
    assert bodies(table) == [b'"a"', b'"b"']


def over(table: Table) -> bool:
    statement = "select clock_timestamp() > max(until) from outbox.dedup"
    return bool(table.connection.execute(statement).fetchone()[0])


def test_keys_whose_time_is_over_are_forgotten(outbox: str, table: Table):
    alone(outbox, "a", dedup_key="lasting", dedup_for=timedelta(days=1))
    table.connection.execute(
        "insert into outbox.dedup select 't', n::text, n, now() - interval '1 s' "
        "from generate_series(1, 2500) as n"
    )

    assert Maintenance(outbox).once().keys == 2500
    assert [key for key, _ in held(table)] == ["lasting"]
    assert Maintenance(outbox).once().keys == 0


async def test_alone_each_is_committed(outbox: str, table: Table):
    with Client(outbox) as client:
        first = client.enqueue("a", dedup_key="k", delay=60)
        assert client.enqueue("b", dedup_key="k", on_duplicate="replace", delay=60) == first
        with pytest.raises(JobDuplicate):
            client.enqueue_many(
                [NewJob(payload=1), NewJob(payload=2, dedup_key="k", on_duplicate="error")]
            )

    async with AsyncClient(outbox) as own:
        assert await own.enqueue("c", dedup_key="k", on_duplicate="replace") == first
        assert (await own.enqueue_many([NewJob(payload="d", dedup_key="k")])) == [first]

    assert bodies(table) == [b'"c"']


@pytest.mark.any_version
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dedup_key": ""}, "dedup_key: is empty"),
        ({"dedup_key": 5}, "dedup_key: a int is given"),
        ({"dedup_key": "x" * 1025}, "dedup_key: 1025 bytes"),
        ({"dedup_key": "k", "dedup_for": 0}, "dedup_for: is nothing"),
        ({"dedup_key": "k", "dedup_for": -1}, "dedup_for: -1 is not within"),
        ({"dedup_key": "k", "on_duplicate": "drop"}, "on_duplicate: 'drop' is not known"),
        ({"dedup_for": 5}, "dedup_for: is given without dedup_key"),
        ({"on_duplicate": "error"}, "on_duplicate: is given without dedup_key"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(JobInvalid) as caught:
        Client().enqueue(1, tx=object(), **arguments)

    assert str(caught.value).startswith(message)


@pytest.mark.any_version
def test_a_plain_job_asks_nothing_of_keys(outbox: str, table: Table):
    with psycopg.connect(outbox) as connection:
        connection.execute("lock table outbox.dedup in access exclusive mode")
        alone(outbox, 1)
        with Client(outbox) as client:
            client.enqueue_many([NewJob(payload=1)])

    assert len(table.rows()) == 2
