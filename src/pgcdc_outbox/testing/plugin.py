"""Fixtures for pytest: a server, a database, and a clean outbox for each test.

pytest loads this file in every run, also of tests that have nothing to do with
an outbox. So it imports pytest, and the rest when a fixture is asked for.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgcdc_outbox.testing.outbox import Outbox
    from pgcdc_outbox.testing.outside import OutsideServer
    from pgcdc_outbox.testing.server import PostgresServer


@pytest.fixture(scope="session")
def outbox_server() -> Iterator[PostgresServer | OutsideServer]:
    """A real PostgreSQL, without Docker: the one that PGCDC_OUTBOX_TEST_DSN names, or our own."""
    from pgcdc_outbox.errors import SettingsError
    from pgcdc_outbox.testing.errors import ServerUnavailable
    from pgcdc_outbox.testing.outside import VARIABLE, a_server

    context = a_server()
    try:
        server = context.__enter__()
    except (ServerUnavailable, SettingsError) as error:
        pytest.fail(
            f"The fixture `outbox_server` has no PostgreSQL for the tests: {error}\n"
            f"(Or name a server that there is: {VARIABLE}=postgresql://user@host/database)",
            pytrace=False,
        )

    yield server
    context.__exit__(None, None, None)


@pytest.fixture(scope="session")
def outbox_schema() -> str:
    """The schema of the outbox. Override it if yours is called otherwise."""
    return "outbox"


@pytest.fixture(scope="session")
def outbox_database(outbox_server: PostgresServer | OutsideServer) -> Iterator[str]:
    """The DSN of a database for this run, or for this worker of it. Override it to give yours.

    Whatever it holds besides the outbox is left alone.
    """
    name = f"pgcdc_outbox_test_{secrets.token_hex(6)}"
    yield outbox_server.create_database(name)
    outbox_server.drop_database(name)


@pytest.fixture(scope="session")
def outbox_migrated(outbox_database: str, outbox_schema: str) -> str:
    """The same DSN, once the outbox is there and up to date."""
    from pgcdc_outbox.postgres.migrate import migrate

    migrate(outbox_database, schema=outbox_schema)
    return outbox_database


@pytest.fixture
def outbox(
    outbox_migrated: str, outbox_schema: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Outbox]:
    """An outbox without jobs, and all that a test wants to do with it.

    ``PGCDC_OUTBOX_DSN`` leads to it meanwhile, so that a ``Client()`` in the code
    under test does too.
    """
    from pgcdc_outbox.testing.outbox import Outbox

    with Outbox(outbox_migrated, schema=outbox_schema) as outbox:
        outbox.clean()
        monkeypatch.setenv("PGCDC_OUTBOX_DSN", outbox_migrated)
        yield outbox
