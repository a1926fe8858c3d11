"""A migrated outbox for each test."""

import pytest

from pgcdc_outbox.postgres.migrate import migrate
from tests.harness import Outbox


@pytest.fixture
def outbox(database: str) -> Outbox:
    """An empty outbox in schema ``outbox``."""
    migrate(database)
    return Outbox(database)
