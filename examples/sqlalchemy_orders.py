"""A producer with SQLAlchemy: the job joins the session's transaction.

python examples/sqlalchemy_orders.py 12.50
"""

import os
import sys

import psycopg
from sqlalchemy import Identity, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from pgcdc_outbox import Client


class Base(DeclarativeBase):
    pass


class PlacedOrder(Base):
    __tablename__ = "placed_order"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    total: Mapped[float]


def place_order(session: Session, client: Client, total: float) -> int:
    """Place an order in the session's transaction, which is the caller's to commit."""
    order = PlacedOrder(total=total)
    session.add(order)
    session.flush()  # gives it its id
    client.enqueue({"order": order.id, "total": total}, topic="order.placed", tx=session)
    return order.id


def main() -> None:
    total = float(sys.argv[1]) if len(sys.argv) > 1 else 12.5
    dsn = os.environ.get("PGCDC_OUTBOX_DSN", "")
    # `creator`, because SQLAlchemy reads only URLs, and libpq more than that.
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
    Base.metadata.create_all(engine)
    with Client() as client, Session(engine) as session, session.begin():
        order = place_order(session, client, total)

    print(f"placed order {order}")
    engine.dispose()


if __name__ == "__main__":
    main()
