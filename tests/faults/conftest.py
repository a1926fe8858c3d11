"""Scenes to break things in."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pgcdc_outbox.testing import PostgresServer
from tests.faults.scene import Scene

MODES = ("logical",)
"""The ways to read an outbox. Every scenario runs in each, except those that are about a slot."""


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def scene(database: str, tmp_path: Path, mode: str) -> Iterator[Scene]:
    """A scene on the run's server, which must be left running."""
    subject = Scene(database, tmp_path, mode)
    yield subject
    subject.close()


@pytest.fixture(scope="package")
def own_server() -> Iterator[PostgresServer]:
    """A server that tests of this folder may stop, kill and cut off; each finds it running."""
    with PostgresServer.start(tcp=True) as server:
        yield server
