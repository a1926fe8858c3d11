"""The jobs of the shop, by topic.

pgcdc-outbox consume --handler examples.shop.jobs:router --ordering strict_key
"""

import os

import httpx
from examples.shop.messages import OrderPaid, OrderPlaced, PaymentDue, Reminder
from examples.shop.tables import Article, Mail, Order
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from pgcdc_outbox import Context, Dead, Job, Router

router = Router()
orders = Router(prefix="order")


@orders.on("placed", transactional=True)
async def reserve(placed: OrderPlaced, session: AsyncSession, context: Context) -> None:
    """Take one from stock. The job is done in the same transaction, so it is taken once."""
    taken = await session.execute(
        update(Article)
        .where(Article.sku == placed.sku, Article.in_stock > 0)
        .values(in_stock=Article.in_stock - 1)
        .returning(Article.sku)
    )
    order = await session.get_one(Order, placed.order)
    if taken.first() is None:
        order.state = "sold_out"
        return

    order.state = "reserved"
    await context.enqueue(
        PaymentDue(placed.order, placed.cents), topic="payment.due", key=context.key
    )


@router.on("payment.due", delivery="at_most_once", timeout=60)
async def charge(due: PaymentDue, job: Job, context: Context) -> None:
    """Charge the card. Nobody can take that back, so it is never tried twice by itself.

    If this process dies after the call and before it is noted, the job is in doubt: it
    waits among the dead letters until a person has looked at the bank's records.
    """
    # The job itself says for how long it may take.
    async with httpx.AsyncClient(base_url=os.environ["BANK_URL"], timeout=None) as bank:
        answer = await bank.post(
            "/charges",
            json={"order": due.order, "cents": due.cents},
            headers={"Idempotency-Key": str(job.id)},
        )

    if answer.status_code == 402:
        raise Dead("card refused")

    answer.raise_for_status()
    await context.enqueue(
        OrderPaid(due.order, answer.json()["receipt"]), topic="order.paid", key=context.key
    )


@orders.on("paid", transactional=True)
async def confirm(paid: OrderPaid, session: AsyncSession, job: Job) -> None:
    order = await session.get_one(Order, paid.order)
    order.state = "paid"
    session.add(
        Mail(job_id=job.id, customer=order.customer, text=f"Thank you. Receipt: {paid.receipt}")
    )


@orders.on("remind", transactional=True)
async def remind(reminder: Reminder, session: AsyncSession, job: Job) -> None:
    """Scheduled when the order was placed; there may be nothing left to say."""
    order = await session.get_one(Order, reminder.order)
    if order.state != "paid":
        session.add(
            Mail(job_id=job.id, customer=order.customer, text="Do you still want your order?")
        )


router.include_router(orders)
