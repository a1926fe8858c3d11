"""The same around a handler that wants more than its jobs: a unit of work, policies of its own."""

import inspect
from collections.abc import Sequence
from typing import Any

from pgcdc_outbox.consumer.ports import UnitOfWork
from pgcdc_outbox.core.retry import Policy
from pgcdc_outbox.job import Job
from pgcdc_outbox.testing.tap import Script, observed


class RichTap:
    """A handler with ``execute`` that hands on its jobs, with the unit of work."""

    def __init__(self, target: Any, script: Script) -> None:
        self._target = target
        self._script = script

    async def execute(self, jobs: Sequence[Job], unit: UnitOfWork) -> Any:
        """Call the handler; note what it says; come to no end if that is to be lost."""
        return await observed(self._script, jobs, lambda: self._target.execute(jobs, unit))

    def policy(self, default: Policy) -> Policy:
        """What judges failures: the handler's policies, if it has any."""
        own = getattr(self._target, "policy", None)
        policy: Policy = default if own is None else own(default)
        return policy

    async def finish(self) -> None:
        """Close the handler, as a consumer does when it ends."""
        close = getattr(self._target, "aclose", None) or getattr(self._target, "close", None)
        closing = None if close is None else close()
        if inspect.isawaitable(closing):
            await closing
