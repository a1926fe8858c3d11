"""The business table of the demo."""

import psycopg

_CREATE = """
create schema if not exists shop;
create table if not exists shop.orders (
    id     bigint generated always as identity primary key,
    run    text not null,
    number bigint not null,
    unique (run, number)
)
"""


def create_shop(dsn: str) -> None:
    """Create the table, unless an earlier run did."""
    with psycopg.connect(dsn) as connection:
        connection.execute(_CREATE)
