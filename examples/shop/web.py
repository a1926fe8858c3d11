"""The web service: it enqueues in the transaction of the request.

uvicorn examples.shop.web:app
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Annotated

from examples.shop.messages import OrderPlaced, Reminder
from examples.shop.tables import Article, Base, Order, engine, sessions
from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from pgcdc_outbox import AsyncClient

REMIND_AFTER = timedelta(hours=24)

outbox = AsyncClient()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

    yield
    await outbox.aclose()
    await engine.dispose()


app = FastAPI(title="Shop", lifespan=lifespan)


async def session() -> AsyncIterator[AsyncSession]:
    """A transaction for one request: what it wrote and enqueued is committed with it, or not."""
    async with sessions() as session, session.begin():
        yield session


Transaction = Annotated[AsyncSession, Depends(session, scope="function")]


class NewOrder(BaseModel):
    customer: str
    sku: str


class OrderView(BaseModel):
    id: int
    state: str


@app.post("/orders", status_code=201)
async def place_order(new: NewOrder, session: Transaction) -> OrderView:
    article = await session.get(Article, new.sku)
    if article is None:
        raise HTTPException(404, f"there is no article {new.sku}")

    order = Order(customer=new.customer, sku=new.sku, cents=article.cents, state="placed")
    session.add(order)
    await session.flush()  # gives it its id
    await outbox.enqueue(
        OrderPlaced(order.id, new.sku, article.cents),
        topic="order.placed",
        key=f"order-{order.id}",
        tx=session,
    )
    await outbox.enqueue(Reminder(order.id), topic="order.remind", delay=REMIND_AFTER, tx=session)
    return OrderView(id=order.id, state=order.state)


@app.get("/orders/{number}")
async def show_order(number: int, session: Transaction) -> OrderView:
    order = await session.get(Order, number)
    if order is None:
        raise HTTPException(404, f"there is no order {number}")

    return OrderView(id=order.id, state=order.state)
