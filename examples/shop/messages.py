"""What the jobs of the shop carry. Producer and handler share these types."""

from msgspec import Struct


class OrderPlaced(Struct, frozen=True):
    """A customer placed an order."""

    order: int
    sku: str
    cents: int


class PaymentDue(Struct, frozen=True):
    """Stock is reserved, and the customer's card is to be charged."""

    order: int
    cents: int


class OrderPaid(Struct, frozen=True):
    """The bank has taken the money."""

    order: int
    receipt: str


class Reminder(Struct, frozen=True):
    """It is time to ask whether the customer still wants the order."""

    order: int
