"""The tables of an outbox that are kept in partitions."""

from typing import Any, Final

from msgspec import Struct
from psycopg import Connection, Cursor

from pgcdc_outbox.postgres.blocking import Patience
from pgcdc_outbox.postgres.connection import Row, run
from pgcdc_outbox.postgres.partition.partitions import Bounds


class Table(Struct, frozen=True):
    """A table that is partitioned by the time of its rows."""

    name: str
    moment: str
    """The column that decides the partition."""
    is_published: bool
    """Whether the log of it is read."""
    is_settled: bool
    """Whether its rows may go only when every consumer has settled them."""

    def partition(self, bounds: Bounds) -> str:
        """What the partition of these bounds is called."""
        return f"{self.name}_{bounds.lower:%Y%m%dt%H%Mz}"

    def run(
        self, connection: Connection[Row], name: str, schema: str, /, **parameters: Any
    ) -> Cursor[Row]:
        """Execute a statement about this table."""
        return run(connection, name, schema, parent=self.name, moment=self.moment, **parameters)

    def patiently(self, patience: Patience, name: str, /, **parameters: Any) -> Cursor[Row]:
        """The same in what is left of the time."""
        return patience.run(name, parent=self.name, moment=self.moment, **parameters)


JOBS: Final = Table("immediate", "created_at", is_published=True, is_settled=True)
ATTEMPTS: Final = Table("attempt", "started_at", is_published=False, is_settled=False)
