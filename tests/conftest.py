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
from hypothesis import HealthCheck, settings

from pgcdc_outbox.postgres.migrate import migrate
from pgcdc_outbox.testing import PostgresServer, plugin
from pgcdc_outbox.testing.outside import VARIABLE as OUTSIDE
from pgcdc_outbox.testing.outside import OutsideServer, a_server

# How long an example takes, or the making of one, is about the machine. Nothing here is slow
# by itself, and a limit that is passed once in a thousand times fails the run as "flaky".
settings.register_profile(
    "patient", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("patient")

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
    name = _name(request.node.name)
    yield server.create_database(name)
    server.drop_database(name)


@pytest.fixture(scope="session")
def template(server: PostgresServer | OutsideServer) -> Iterator[str]:
    """The name of a database with an outbox in schema ``outbox``, of which copies are made."""
    name = _name("template")
    migrate(server.create_database(name))
    yield name
    server.drop_database(name)


@pytest.fixture
def migrated(
    server: PostgresServer | OutsideServer, template: str, request: pytest.FixtureRequest
) -> Iterator[str]:
    """The DSN of a database with an outbox in schema ``outbox``, for this test alone."""
    name = _name(request.node.name)
    yield server.create_database(name, template=template)
    server.drop_database(name)


@pytest.fixture
def fresh_server() -> Iterator[Callable[..., PostgresServer]]:
    """A function that starts a server to stop, kill or configure; it takes what `start` takes."""
    if os.environ.get(OUTSIDE):
        pytest.skip(f"restarts servers, and {OUTSIDE} names one that is not ours")

    with ExitStack() as stack:

        def start(*args: Any, **kwargs: Any) -> PostgresServer:
            kwargs.setdefault("in_memory", True)
            return stack.enter_context(PostgresServer.start(*args, **kwargs))

        yield start


def _name(subject: str) -> str:
    """A name that no other database has, and says to readers of the log whose it is."""
    # 63 bytes is the longest.
    subject = re.sub(r"\W+", "_", subject.lower(), flags=re.ASCII)[:40]
    return f"{subject}_{secrets.token_hex(4)}"


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
