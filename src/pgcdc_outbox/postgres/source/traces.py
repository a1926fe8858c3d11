"""Deliveries that are settled although reading may bring them again."""

from collections.abc import Mapping

from pgcdc_outbox.core.deliveries import read, settled
from pgcdc_outbox.postgres.source.leadership import Leadership


async def load_traces(
    leadership: Leadership, *, since: str, remembered: Mapping[int, int]
) -> dict[int, int]:
    """What was recorded after a snapshot, and what this process settled itself.

    The last delivery by the id of its job. Raises `OutboxError`.
    """
    rows = await leadership.rows(
        "load_traces",
        {"consumer": leadership.consumer, "since": since},
        doing="load what is recorded already",
    )
    # What this process settled before it lost its connection is in no table.
    traces = dict(remembered)
    for id_, attempt, parked in rows:
        traces[id_] = max(settled(attempt, parked), traces.get(id_, 0))

    return traces


async def save_traces(leadership: Leadership, deliveries: Mapping[int, int]) -> None:
    """Write down what is settled ahead of the position. Raises `OutboxError`."""
    if deliveries:
        attempts, parked = zip(*map(read, deliveries.values()), strict=True)
        await leadership.fenced(
            "add_traces",
            {"ids": list(deliveries), "attempts": list(attempts), "parked": list(parked)},
            doing="write down what is settled ahead of the position",
        )
