"""What may go wrong, one function each, for the chaos run to choose from.

Each takes the whole arrangement, breaks something, and leaves it so that work can go on.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta

import psycopg
from msgspec import Struct

from pgcdc_outbox.errors import OutboxError
from pgcdc_outbox.postgres.partition.maintenance import Maintenance
from pgcdc_outbox.testing import PostgresServer
from tests.faults.crew import PATIENCE, Worker
from tests.faults.proxy import Proxy
from tests.faults.scene import Scene
from tests.wait import eventually

CALL_SECONDS = (0.0, 0.0, 0.005, 0.05)

NOTICED_WITHIN = 2.0
"""Seconds after which an instance has to know that it lost its hold."""

EVENTS = (
    "BatchStarted",
    "BatchHandled",
    "OutcomesRecorded",
    "BatchSettled",
    "CheckpointSaved",
    "Promoted",
)


class Arrangement(Struct):
    """Everything that can be broken, and the chance that decides how."""

    server: PostgresServer
    network: Proxy
    scene: Scene
    chance: random.Random
    instances: int
    concurrency: int

    def fill_up(self) -> None:
        """Start instances until there are as many as there should be."""
        while len(self.scene.crew.alive) < self.instances:
            self.start()

    def start(self, kill_at: tuple[str, int] | None = None) -> Worker:
        return self.scene.crew.start(
            seconds=self.chance.choice(CALL_SECONDS),
            consumer={"concurrency": self.concurrency},
            kill_at=kill_at,
        )

    def victim(self) -> Worker:
        return self.chance.choice(self.scene.crew.alive)

    def rows(self, statement: str) -> None:
        self.scene.outbox.rows(statement)

    def losing_the_hold(self, what: str) -> AbstractContextManager[None]:
        """Break something after which another instance may come first."""
        return self.scene.losing_the_hold(what, unnoticed=NOTICED_WITHIN)

    def forgetting(self, what: str) -> AbstractContextManager[None]:
        """Break something after which, besides, only the saved position counts."""
        return self.scene.forgetting(what, unnoticed=NOTICED_WITHIN)

    @contextmanager
    def server_down(self, what: str) -> Iterator[None]:
        with self.forgetting(what):
            yield
            self.server.resume()


def kill_an_instance(a: Arrangement) -> None:
    a.victim().kill()


def kill_every_instance(a: Arrangement) -> None:
    for worker in a.scene.crew.alive:
        worker.kill()


def kill_at_an_event(a: Arrangement) -> None:
    """Alone, so that it is the one that works."""
    kill_every_instance(a)
    worker = a.start(kill_at=(a.chance.choice(EVENTS), a.chance.randint(1, 20)))
    with suppress(AssertionError):  # it may not come so far
        eventually(lambda: not worker.alive, 5)
        worker.died()

    # Else it would die at any time, also where it is asked to end in good order.
    if worker.alive:
        worker.kill()


def stop_an_instance(a: Arrangement) -> None:
    worker = a.victim()
    worker.at_work()
    assert worker.stop() == 0, worker.log.read_text()


def pause_an_instance(a: Arrangement) -> None:
    worker = a.victim()
    worker.pause()
    time.sleep(a.chance.uniform(0.1, 2))
    worker.resume()


def let_one_sleep_past_its_takeover(a: Arrangement) -> None:
    worker = a.victim()
    with a.losing_the_hold("sleep"):
        worker.pause()
        end_connections(a)
        time.sleep(a.chance.uniform(0.1, 2))
        worker.resume()
        worker.at_work()


def end_connections(a: Arrangement) -> None:
    with a.losing_the_hold("connections"):
        a.scene.end_connections()


def end_the_reader(a: Arrangement) -> None:
    with a.losing_the_hold("reader"):
        a.scene.outbox.end_slot_reader()


def kill_the_reader(a: Arrangement) -> None:
    with a.forgetting("kill the reader"):
        a.scene.kill_the_reader()
        eventually(lambda: answers(a), PATIENCE)


def answers(a: Arrangement) -> bool:
    try:
        a.rows("select 1")
    except psycopg.OperationalError:
        return False

    return True


def restart_the_server(a: Arrangement) -> None:
    with a.server_down("restart"):
        a.server.stop(a.chance.choice(("fast", "immediate")))


def kill_the_server(a: Arrangement) -> None:
    with a.server_down("kill the server"):
        a.server.kill()


def kill_everything(a: Arrangement) -> None:
    with a.server_down("kill everything"):
        a.server.kill()
        kill_every_instance(a)


def cut_the_network(a: Arrangement) -> None:
    with a.losing_the_hold("cut"):
        a.network.cut()


def stall_the_network(a: Arrangement) -> None:
    with a.losing_the_hold("stall"):
        a.network.stall(*a.chance.choice(((), ("up",), ("down",))))
        time.sleep(a.chance.uniform(0.1, 3))
        a.network.heal()


def slow_the_network(a: Arrangement) -> None:
    a.network.slow(latency=a.chance.choice((0.0, 0.03)), bandwidth=a.chance.choice((2e4, 1e5)))
    time.sleep(a.chance.uniform(0.5, 3))
    a.network.heal()


def drop_the_slot(a: Arrangement) -> None:
    with a.forgetting("drop the slot"):
        for (name,) in a.scene.outbox.rows(
            "select slot_name from pg_replication_slots where database = current_database()"
        ):
            eventually(lambda name=name: dropped(a, name), PATIENCE)


def dropped(a: Arrangement, name: str) -> bool:
    a.scene.outbox.end_slot_reader()
    try:
        a.scene.outbox.rows("select pg_drop_replication_slot(%s)", [name])
    except psycopg.errors.ObjectInUse:
        return False

    return True


def lose_the_publication(a: Arrangement) -> None:
    """Instances end, for a person has to mend it, and are started again."""
    with a.forgetting("publication"):
        a.rows("drop publication pgcdc_outbox")
        time.sleep(a.chance.uniform(0, 1))
        a.rows(
            "create publication pgcdc_outbox for table immediate "
            "with (publish = 'insert', publish_via_partition_root = true)"
        )
        time.sleep(a.chance.uniform(0, 1))


def maintain(a: Arrangement) -> None:
    """Make partitions, and drop those that are settled, all of them past their retention."""
    interval = timedelta(minutes=a.chance.choice((15, 60)))
    with suppress(OutboxError):  # a lock that is not to be had is no reason to fail
        Maintenance(a.scene.dsn, interval=interval, retention=timedelta(0)).once()


def fill_the_disk(a: Arrangement) -> None:
    table = a.chance.choice(("failed", "dead_letter", "checkpoint", "consumer", "trace"))
    a.rows(
        "create or replace function full_disk() returns trigger language plpgsql as "
        "$$ begin raise exception 'full' using errcode = 'disk_full'; end $$"
    )
    with a.losing_the_hold(f"no room in {table}"):
        a.rows(
            f"create trigger full_disk before insert or update on {table} "
            "for each statement execute function full_disk()"
        )
        time.sleep(a.chance.uniform(0.1, 2))
        a.rows(f"drop trigger full_disk on {table}")


def lock_a_table(a: Arrangement) -> None:
    table = a.chance.choice(("failed", "dead_letter", "checkpoint", "consumer", "scheduled"))
    with psycopg.connect(a.scene.dsn) as connection:
        connection.execute(f"lock table outbox.{table}".encode())
        time.sleep(a.chance.uniform(0.1, 2))


def keep_a_transaction_open(a: Arrangement) -> None:
    with psycopg.connect(a.scene.dsn) as connection:
        connection.execute("select pg_current_xact_id()")
        time.sleep(a.chance.uniform(0.1, 3))


ALWAYS: tuple[Callable[[Arrangement], None], ...] = (
    kill_an_instance,
    kill_every_instance,
    kill_at_an_event,
    stop_an_instance,
    pause_an_instance,
    let_one_sleep_past_its_takeover,
    end_connections,
    restart_the_server,
    kill_the_server,
    kill_everything,
    cut_the_network,
    stall_the_network,
    slow_the_network,
    maintain,
    fill_the_disk,
    lock_a_table,
    keep_a_transaction_open,
)

WITH_A_SLOT = (end_the_reader, kill_the_reader, drop_the_slot, lose_the_publication)


def troubles(mode: str) -> tuple[Callable[[Arrangement], None], ...]:
    """What may go wrong in this mode."""
    return ALWAYS + WITH_A_SLOT if mode != "polling" else ALWAYS
