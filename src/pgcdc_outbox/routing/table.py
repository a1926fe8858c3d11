"""Which flow takes a topic."""

from collections.abc import Iterator
from typing import Final

from pgcdc_outbox.routing.flow import Flow
from pgcdc_outbox.routing.pattern import Pattern

# Topics are made by producers, perhaps one for each customer: what is kept is bounded.
_REMEMBERED: Final = 10_000


class Table:
    """Flows by pattern. A lookup is remembered, so that it costs a dictionary's."""

    def __init__(self) -> None:
        self._flows: dict[str, Flow] = {}
        self._wild: list[tuple[Pattern, Flow]] = []
        self._known: dict[str, Flow | None] = {}

    def put(self, flow: Flow) -> None:
        """Have a flow take the topics of its pattern, in place of an earlier one."""
        self._flows[flow.pattern.text] = flow
        self._wild = sorted(
            ((each.pattern, each) for each in self._flows.values() if not each.pattern.is_exact),
            key=lambda entry: entry[0].rank,
        )
        self._known = {}

    def get(self, pattern: str) -> Flow | None:
        """The flow of exactly this pattern."""
        return self._flows.get(pattern)

    def find(self, topic: str) -> Flow | None:
        """The flow of the most specific pattern that fits."""
        try:
            return self._known[topic]
        except KeyError:
            return self._learn(topic)

    def _learn(self, topic: str) -> Flow | None:
        flow = self._flows.get(topic)
        if flow is None or not flow.pattern.is_exact:
            flow = next((each for pattern, each in self._wild if pattern.fits(topic)), None)

        if len(self._known) >= _REMEMBERED:
            self._known.clear()

        self._known[topic] = flow
        return flow

    def __iter__(self) -> Iterator[Flow]:
        return iter(self._flows.values())

    def __len__(self) -> int:
        return len(self._flows)
