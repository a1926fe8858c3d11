"""The tables of the shop, and the way to them."""

import os

import psycopg
from sqlalchemy import ForeignKey, Identity
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class Article(Base):
    __tablename__ = "article"

    sku: Mapped[str] = mapped_column(primary_key=True)
    cents: Mapped[int]
    in_stock: Mapped[int]


class Order(Base):
    __tablename__ = "order"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    customer: Mapped[str]
    sku: Mapped[str] = mapped_column(ForeignKey("article.sku"))
    cents: Mapped[int]
    state: Mapped[str] = mapped_column(default="placed")
    """placed, reserved, sold_out, paid."""


class Mail(Base):
    """What was sent to customers; a real shop would call a provider."""

    __tablename__ = "mail"

    job_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    customer: Mapped[str]
    text: Mapped[str]


def connect() -> AsyncEngine:
    """The database of the shop, which holds its outbox too: ``PGCDC_OUTBOX_DSN``."""

    async def open_connection() -> psycopg.AsyncConnection:
        return await psycopg.AsyncConnection.connect(os.environ["PGCDC_OUTBOX_DSN"])

    return create_async_engine("postgresql+psycopg://", async_creator=open_connection)


engine = connect()
sessions = async_sessionmaker(engine, expire_on_commit=False)
