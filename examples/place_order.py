"""A producer: an order and its job in one transaction.

python examples/place_order.py 12.50
"""

import os
import sys

import psycopg

from pgcdc_outbox import Client


def place_order(connection: psycopg.Connection, client: Client, total: float) -> int:
    """Place an order. Both rows are committed, or neither is."""
    with connection.transaction():
        row = connection.execute(
            "insert into placed_order (total) values (%s) returning id", [total]
        ).fetchone()
        assert row is not None
        order = int(row[0])
        client.enqueue({"order": order, "total": total}, topic="order.placed", tx=connection)

    return order


def main() -> None:
    total = float(sys.argv[1]) if len(sys.argv) > 1 else 12.5
    # Without PGCDC_OUTBOX_DSN, libpq's own variables tell where the database is.
    dsn = os.environ.get("PGCDC_OUTBOX_DSN", "")
    with psycopg.connect(dsn, autocommit=True) as connection, Client() as client:
        connection.execute(
            "create table if not exists placed_order "
            "(id bigint generated always as identity primary key, total numeric not null)"
        )
        print(f"placed order {place_order(connection, client, total)}")


if __name__ == "__main__":
    main()
