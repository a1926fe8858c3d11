"""The servers and databases that tests run against.

By default a server of our own is started once for the whole run. The environment variable
``PGCDC_OUTBOX_TEST_DSN`` names another one, where only databases are created and dropped.
"""

import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from pgcdc_outbox.testing import PostgresServer, plugin
from pgcdc_outbox.testing.outside import VARIABLE as OUTSIDE
from pgcdc_outbox.testing.outside import OutsideServer, a_server

NEEDS_SERVER = {"server", "database", "fresh_server", "own_server"}


def pytest_configure(config: pytest.Config) -> None:
    """Offer the fixtures that users get, also where this package is not installed anew."""
    if not config.pluginmanager.is_registered(plugin):
        config.pluginmanager.register(plugin, "pgcdc_outbox")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer | OutsideServer]:
    """The run's server. Leave it running, and its settings as they are."""
    with a_server() as either:
        yield either


@pytest.fixture(scope="session")
def outbox_server(server: PostgresServer | OutsideServer) -> PostgresServer | OutsideServer:
    """The kit's tests need no other server."""
    return server


@pytest.fixture
def database(
    server: PostgresServer | OutsideServer, request: pytest.FixtureRequest
) -> Iterator[str]:
    """The DSN of an empty database for this test alone."""
    # The test's name is for whoever reads the server's log; 63 bytes is the longest name.
    subject = re.sub(r"\W+", "_", request.node.name.lower(), flags=re.ASCII)[:40]
    name = f"{subject}_{secrets.token_hex(4)}"

    yield server.create_database(name)
    server.drop_database(name)


@pytest.fixture
def fresh_server() -> Iterator[Callable[..., PostgresServer]]:
    """A function that starts a server to stop, kill or configure; it takes what `start` takes."""
    if os.environ.get(OUTSIDE):
        pytest.skip(f"restarts servers, and {OUTSIDE} names one that is not ours")

    with ExitStack() as stack:

        def start(*args: Any, **kwargs: Any) -> PostgresServer:
            return stack.enter_context(PostgresServer.start(*args, **kwargs))

        yield start


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a server, so that it is run again on every version."""
    for item in items:
        if NEEDS_SERVER & set(getattr(item, "fixturenames", ())):
            item.add_marker("server")


# Last, when every fixture has had its turn, also those of other files.
@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that leaves a server behind, and end the server."""
    leftover = PostgresServer.still_open()

    for forgotten in leftover:
        print(f"\nleft running by a test: {forgotten}")
        forgotten.close()

    if leftover:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
