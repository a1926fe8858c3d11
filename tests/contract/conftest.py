"""An outbox to enqueue into, and every handle to do it with."""

from collections.abc import AsyncIterator

import psycopg
import pytest

from tests.contract.handles import HANDLES, Handle, Table


@pytest.fixture
def outbox(migrated: str) -> str:
    """The DSN of a database with an outbox, and the business table ``sale``."""
    with psycopg.connect(migrated) as connection:
        connection.execute("create table sale (id integer primary key, note text not null)")

    return migrated


@pytest.fixture
def table(outbox: str) -> AsyncIterator[Table]:
    """What is committed, seen from beside."""
    with psycopg.connect(outbox, autocommit=True) as connection:
        yield Table(connection)


@pytest.fixture(params=HANDLES)
async def handle(request: pytest.FixtureRequest, outbox: str) -> AsyncIterator[Handle]:
    """Each kind of ``tx`` in turn, with a transaction that may begin."""
    async with HANDLES[request.param](outbox) as opened:
        yield opened
