"""`pgcdc-outbox slot`: what a person does with a slot loses no job either."""

import json
from typing import Any

import anyio
import psycopg
import pytest
from click.testing import CliRunner, Result

from pgcdc_outbox.cli.main import cli
from pgcdc_outbox.errors import CheckpointForeign
from tests.harness import Outbox, Recorder, Watcher, consumer, slot_of, streaming


def slot(outbox: Outbox, *words: str) -> Result:
    return CliRunner().invoke(cli, ["--dsn", outbox.dsn, "slot", *words])


def state(outbox: Outbox) -> tuple[dict[str, Any], int]:
    answer = slot(outbox, "status", "--format", "json")
    return json.loads(answer.stdout), answer.exit_code


async def handled(outbox: Outbox, **options: Any) -> list[int]:
    """Let a consumer settle everything; what it got."""
    recorder = Recorder()
    await consumer(outbox, recorder, **options).run(once=True)
    return recorder.values


def in_thread(outbox: Outbox, *words: str) -> Result:
    """A command runs an event loop of its own, so not on the thread of ours."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(slot, outbox, *words).result(60)


async def test_a_slot_made_beforehand_serves_the_first_start(outbox: Outbox) -> None:
    outbox.put([1])
    made = in_thread(outbox, "create")
    assert made.exit_code == 0, made.stderr
    assert f"created slot {slot_of(outbox)} of consumer default" in made.stdout
    assert "the next start reads the table first" in made.stdout
    before = outbox.slot()
    outbox.put([2])

    recorder, watcher = Recorder(), Watcher()
    async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
        await recorder.got(2)

    assert recorder.values == [1, 2]
    assert outbox.slot()["slot_name"] == before["slot_name"]
    assert "SlotCreated" not in {type(event).__name__ for event in watcher.events}
    assert in_thread(outbox, "create").exit_code == 3


async def test_a_slot_that_was_dropped_keeps_no_log_and_costs_no_job(outbox: Outbox) -> None:
    outbox.put([1])
    await handled(outbox)
    dropped = in_thread(outbox, "drop", "--format", "json")
    assert json.loads(dropped.stdout)["slot"] == slot_of(outbox)
    assert (
        outbox.value(
            "select count(*) from pg_replication_slots where slot_name = %s", [slot_of(outbox)]
        )
        == 0
    )
    outbox.put([2])

    # Not a loss: a person did it.
    assert await handled(outbox, on_slot_loss="stop") == [2]
    assert outbox.value("select cardinality(slots_lost) from consumer") == 0


async def test_a_lost_slot_is_replaced_and_forgiven(outbox: Outbox) -> None:
    outbox.put([1])
    await handled(outbox)
    outbox.rows("select pg_drop_replication_slot(%s)", [slot_of(outbox)])
    outbox.rows("update consumer set slots_lost = array[now(), now(), now()]")
    outbox.put([2])

    replaced = in_thread(outbox, "reconcile")
    assert replaced.exit_code == 0, replaced.stderr
    assert 2 in await handled(outbox)
    assert outbox.value("select cardinality(slots_lost) from consumer") == 0
    # Also where there is a slot.
    outbox.put([3])
    assert in_thread(outbox, "reconcile").exit_code == 0
    assert 3 in await handled(outbox)


@pytest.mark.parametrize("words", [("drop",), ("reconcile",), ("create",)])
async def test_a_running_consumer_is_left_alone(outbox: Outbox, words: tuple[str, ...]) -> None:
    watcher = Watcher()
    async with streaming(consumer(outbox, Recorder(), observers=[watcher]), watcher):
        # Who blocks the loop for long loses the lock.
        refused = await anyio.to_thread.run_sync(in_thread, outbox, *words)
        assert refused.exit_code == 3
        assert "consumer default is held by another instance" in refused.stderr
        assert outbox.slot()["active"]


@pytest.mark.parametrize("words", [("drop",), ("reconcile",)])
async def test_a_consumer_that_there_is_not_is_not_made_up(
    outbox: Outbox, words: tuple[str, ...]
) -> None:
    refused = in_thread(outbox, *words, "--name", "typo")
    assert refused.exit_code == 3
    assert "there is no consumer typo" in refused.stderr
    assert outbox.value("select count(*) from consumer") == 0


async def test_a_slot_that_somebody_else_reads_is_not_dropped(outbox: Outbox) -> None:
    await handled(outbox)
    with psycopg.connect(
        outbox.dsn, application_name="debezium", replication="database", autocommit=True
    ) as connection:
        connection.pgconn.exec_(
            f"START_REPLICATION SLOT {slot_of(outbox)} LOGICAL 0/0 "
            "(proto_version '1', publication_names 'pgcdc_outbox')".encode()
        )
        refused = in_thread(outbox, "drop")
        connection.pgconn.finish()

    assert refused.exit_code == 3
    assert "is read by debezium (pid " in refused.stderr


async def test_after_an_upgrade_what_was_settled_stays_settled(outbox: Outbox) -> None:
    """pg_upgrade gives the cluster another identity, and transaction ids go on."""
    outbox.put([1])
    await handled(outbox)
    outbox.put([2])
    outbox.rows("update checkpoint set system_id = '42'")
    refused = in_thread(outbox, "reconcile")
    assert refused.exit_code == 3
    assert "--accept-new-system" in refused.stderr
    with pytest.raises(CheckpointForeign) as caught, anyio.fail_after(60):
        await consumer(outbox, Recorder()).run()

    assert "slot reconcile --name default --accept-new-system upgraded" in caught.value.hint
    accepted = in_thread(outbox, "reconcile", "--accept-new-system", "upgraded")
    assert accepted.exit_code == 0, accepted.stderr
    assert await handled(outbox) == [2]


async def test_after_a_restore_every_job_comes_again(outbox: Outbox) -> None:
    """Transaction ids of the old cluster are of the future here, or mean another."""
    outbox.put([1])
    await handled(outbox)
    outbox.put([2])
    outbox.rows("update immediate set xid = (xid::text::bigint + 40000000000)::text::xid8")
    outbox.rows("update checkpoint set system_id = '42', snapshot = '40000000000:40000000000:'")
    accepted = in_thread(outbox, "reconcile", "--accept-new-system", "restored")
    assert accepted.exit_code == 0, accepted.stderr
    assert "2 jobs of another cluster will come again" in accepted.stdout
    outbox.put([3])
    assert await handled(outbox) == [1, 2, 3]
    assert await handled(outbox) == []


async def test_a_slot_for_failover(outbox: Outbox) -> None:
    version = outbox.value("select current_setting('server_version_num')::int")
    made = in_thread(outbox, "create", "--failover")
    if version < 170000:
        assert made.exit_code == 3
        assert f"PostgreSQL {version // 10000} has no slots that follow a failover" in made.stderr
        return

    assert outbox.slot()["failover"] is True
    assert in_thread(outbox, "reconcile").exit_code == 0
    assert outbox.slot()["failover"] is True, "as the old one was"
    assert in_thread(outbox, "reconcile", "--no-failover").exit_code == 0
    assert outbox.slot()["failover"] is False


async def test_status_tells_what_is_wrong(outbox: Outbox) -> None:
    missing, code = state(outbox)
    assert (missing["exists"], code) == (False, 2)

    watcher = Watcher()
    async with streaming(consumer(outbox, Recorder(), observers=[watcher]), watcher):
        good, code = state(outbox)
        assert (good["exists"], good["serves"], code) == (True, True, 0)
        assert good["reader"].startswith("pgcdc-outbox/default/")
        shown = slot(outbox, "status")
        assert shown.stdout.startswith(f"OK: slot {slot_of(outbox)} of consumer default: it serves")
        assert "wal status      reserved" in shown.stdout

    outbox.rows("update consumer set slot = null, slots_lost = array[now()]")
    doubtful, code = state(outbox)
    assert (doubtful["serves"], doubtful["lost_within_an_hour"], code) == (False, 1, 2)

    outbox.rows("select pg_drop_replication_slot(%s)", [slot_of(outbox)])
    outbox.rows("select pg_create_physical_replication_slot(%s)", [slot_of(outbox)])
    foreign, code = state(outbox)
    assert (foreign["foreign"], code) == ("a physical slot", 2)
    assert "it is a physical slot" in slot(outbox, "status").stdout
    outbox.rows("select pg_drop_replication_slot(%s)", [slot_of(outbox)])


def test_status_cannot_tell_without_a_server() -> None:
    answer = CliRunner().invoke(cli, ["--dsn", "host=127.0.0.1 port=1", "slot", "status"])
    assert answer.exit_code == 3
