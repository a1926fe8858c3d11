"""Scenes to break things in."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgcdc_outbox.testing import PostgresServer
from tests.conftest import OUTSIDE
from tests.faults.chaos import port
from tests.faults.proxy import Proxy
from tests.faults.scene import Scene

MODES = ("logical", "polling")
"""The ways to read an outbox. Every scenario runs in each, except those that are about a slot."""


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def scene(migrated: str, tmp_path: Path, mode: str) -> Iterator[Scene]:
    """A scene on the run's server, which must be left running."""
    subject = Scene(migrated, tmp_path, mode)
    yield subject
    subject.close()


@pytest.fixture(scope="package")
def own_server() -> Iterator[PostgresServer]:
    """A server that tests of this folder may stop, kill and cut off; each finds it running."""
    if os.environ.get(OUTSIDE):
        pytest.skip(f"restarts servers, and {OUTSIDE} names one that is not ours")

    with PostgresServer.start(tcp=True, in_memory=True) as server:
        yield server


@pytest.fixture
def own_scene(own_server: PostgresServer, tmp_path: Path, mode: str) -> Iterator[Scene]:
    """A scene on a server that may be broken."""
    own_server.resume()
    name = f"own_{secrets.token_hex(4)}"
    subject = Scene(own_server.create_database(name), tmp_path, mode)
    yield subject
    subject.close()
    own_server.resume()
    own_server.drop_database(name)


@pytest.fixture
def network(own_server: PostgresServer) -> Iterator[Proxy]:
    """The network between a consumer and `own_server`."""
    with Proxy("127.0.0.1", port(own_server)) as proxy:
        yield proxy


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave polling for the slow run in modules that say ``POLLS_IN_SLOW_RUN``.

    What they are about differs neither by version nor, much, by how jobs are read.
    """
    for item in items:
        mode = getattr(item, "callspec", None) and item.callspec.params.get("mode")
        slow = getattr(getattr(item, "module", None), "POLLS_IN_SLOW_RUN", False)
        if mode == "polling" and slow:
            item.add_marker("slow")
