"""An outbox to measure with."""

from pgcdc_outbox import Maintenance
from pgcdc_outbox.postgres.migrate import migrate


def create(dsn: str) -> None:
    """Create it with its partitions, so that no run has to make them."""
    migrate(dsn)
    Maintenance(dsn).once()
