"""Routes, as a person or a program wants to read them."""

from typing import Any

from msgspec import Struct

from pgcdc_outbox.routing.annotations import NOTHING
from pgcdc_outbox.routing.flow import Flow
from pgcdc_outbox.routing.route import Route
from pgcdc_outbox.routing.router import Router


class Listed(Struct, frozen=True, kw_only=True):
    """One handler of one pattern."""

    pattern: str
    handler: str
    """Module and name of the function."""
    kind: str
    """``async``, ``sync``, ``async batch`` or ``sync batch``."""
    payload: str | None
    """The type of a payload; None if it asks for none."""
    retry: str | None
    """The policy; None for the consumer's."""
    timeout: float | None
    """Seconds; None for no limit."""
    concurrency: int | None
    """Calls at the same time; None for as many as the consumer makes."""
    transactional: bool
    delivery: str


def listed(router: Router, topic: str | None = None) -> list[Listed]:
    """All routes, those of the most specific pattern first; or those that take a topic."""
    if topic is None:
        return [_listed(flow, route) for flow in router.flows for route in flow.routes]

    flow = router.flow_of(topic)
    return [] if flow is None else [_listed(flow, route) for route in flow.routes]


def _listed(flow: Flow, route: Route) -> Listed:
    words = ["async" if route.signature.is_async else "sync"]
    if flow.batch:
        words.append("batch")

    return Listed(
        pattern=flow.pattern.text,
        handler=f"{route.module}:{route.name}",
        kind=" ".join(words),
        payload=_type(route.signature.payload),
        retry=None if flow.retry is None else str(flow.retry),
        timeout=route.options.timeout,
        concurrency=flow.concurrency,
        transactional=flow.transactional,
        delivery=route.options.delivery,
    )


def _type(kind: Any) -> str | None:
    if kind is NOTHING:
        return None

    # A generic has its arguments in its text only, a class its name without the rest.
    return kind.__qualname__ if isinstance(kind, type) and "[" not in str(kind) else str(kind)
