"""Attempts that are settled although reading may bring their jobs again."""

from collections.abc import Mapping

from pgcdc_outbox.postgres.source.leadership import Leadership


async def load_traces(
    leadership: Leadership, *, since: str, settled: Mapping[int, int]
) -> dict[int, int]:
    """What was recorded after a snapshot, and what this process settled itself.

    The last attempt by the id of its job. Raises `OutboxError`.
    """
    rows = await leadership.rows(
        "load_traces",
        {"consumer": leadership.consumer, "since": since},
        doing="load what is recorded already",
    )
    # What this process settled before it lost its connection is in no table.
    traces = dict(settled)
    for id_, attempt in rows:
        traces[id_] = max(attempt, traces.get(id_, 0))

    return traces


async def save_traces(leadership: Leadership, attempts: Mapping[int, int]) -> None:
    """Write down attempts that succeeded ahead of the position. Raises `OutboxError`."""
    if attempts:
        await leadership.fenced(
            "add_traces",
            {"ids": list(attempts), "attempts": list(attempts.values())},
            doing="write down what is settled ahead of the position",
        )
