"""A network that fails, in whichever way, costs no job, and repeats none that was finished."""

from collections.abc import Callable

import pytest

from pgcdc_outbox.testing import PostgresServer
from tests.faults.crew import PATIENCE
from tests.faults.proxy import Proxy
from tests.faults.scene import Scene
from tests.wait import eventually

pytestmark = pytest.mark.any_version
POLLS_IN_SLOW_RUN = True

BACK_WITHIN = 45.0
"""Seconds after which a consumer has to be at work again: less than the server's patience."""


@pytest.fixture
def remote(own_server: PostgresServer, own_scene: Scene, network: Proxy) -> Scene:
    """A scene whose consumers are behind a network; producers and the test are not."""
    database = own_scene.outbox.value("select current_database()")
    own_scene.crew.dsn = own_server.tcp_dsn(database, port=network.port)
    return own_scene


def test_cut(remote: Scene, network: Proxy) -> None:
    worker = remote.crew.start()
    with remote.busy():
        for _ in range(3):
            remote.executed(50)
            with remote.truth.breaking("cut"):
                network.cut()

        remote.executed(50, timeout=BACK_WITHIN)

    assert worker.alive
    remote.conclude()


@pytest.mark.parametrize("directions", [(), ("up",), ("down",)], ids=["both", "up", "down"])
def test_stalled_for_a_while(remote: Scene, network: Proxy, directions: tuple[str, ...]) -> None:
    worker = remote.crew.start()
    with remote.busy():
        remote.executed(50)
        with remote.truth.breaking("stall"):
            network.stall(*directions)
            committed = len(remote.truth.jobs("committed"))
            eventually(lambda: len(remote.truth.jobs("committed")) > committed + 100, PATIENCE)
            network.heal()

        remote.executed(50, timeout=BACK_WITHIN)

    assert worker.alive
    remote.conclude()


@pytest.mark.parametrize(
    "slow",
    [
        pytest.param(lambda network: network.slow(latency=0.02), marks=pytest.mark.slow),
        lambda network: network.slow(bandwidth=50_000),
    ],
    ids=["latency", "bandwidth"],
)
def test_slow(remote: Scene, network: Proxy, slow: Callable[[Proxy], None]) -> None:
    slow(network)
    remote.crew.start()
    with remote.busy():
        remote.executed(100, timeout=PATIENCE)

    remote.handled(list(remote.truth.jobs("committed").values()), timeout=PATIENCE)
    network.heal()
    remote.conclude()
    assert not remote.crew.told("Disconnected")


@pytest.mark.slow
def test_stranded(remote: Scene, network: Proxy) -> None:
    """Old connections are dead without a word; new ones pass.

    A server that is silent for longer than its own patience is gone.
    """
    name = remote.outbox.value("select quote_ident(current_database())")
    remote.outbox.rows(f"alter database {name} set wal_sender_timeout = '2s'")
    worker = remote.crew.start()
    with remote.busy():
        remote.executed(50)
        network.strand()
        remote.executed(50, timeout=PATIENCE)

    assert worker.alive
    remote.conclude()
