"""Running the real consumer until there is nothing left to do, or as far as a test wants."""

import inspect
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

import anyio

from pgcdc_outbox.app import Consumer
from pgcdc_outbox.outcome import Snooze
from pgcdc_outbox.testing.errors import DrainTimeout
from pgcdc_outbox.testing.report import Execution, FailedJob, Outcome, Report
from pgcdc_outbox.testing.rich_tap import RichTap
from pgcdc_outbox.testing.store import Store
from pgcdc_outbox.testing.tap import Script, Tap

# What suits tests; whatever the caller says comes first.
_SETTINGS: Final[dict[str, Any]] = {
    "mode": "polling",
    "linger": 0,
    # Once for each pass, at its start: what falls due by the real clock waits for `travel`.
    "promote_interval": 1e6,
    # What stops it early was executed, and is to be recorded however slow the machine is.
    "drain_timeout": 60.0,
    "maintenance": False,
    "observers": (),
}


class Drain:
    """One call of ``drain``."""

    def __init__(
        self,
        store: Store,
        handler: Any,
        *,
        name: str,
        script: Script,
        settings: dict[str, Any],
    ) -> None:
        """Raises what `Consumer` raises."""
        chosen = {**_SETTINGS, **settings}
        if script.one_by_one:
            chosen |= {"batch_size": 1, "concurrency": 1}

        rich = not inspect.isclass(handler) and callable(getattr(handler, "execute", None))
        concurrency = chosen.get("concurrency", 1)
        self._tap = (
            RichTap(handler, script) if rich else Tap(handler, script, concurrency=concurrency)
        )
        self._store = store
        self._name = name
        self._script = script
        self._settings = chosen
        self._executions: list[Execution] = []
        self._consumer()  # so that what is wrong is said before anything runs

    async def run(self, *, ahead: timedelta, until_empty: bool, timeout: float) -> Report:
        """Drain, and tell. Raises `DrainTimeout`, or what `Consumer.run` raises."""
        before = {(job.id, job.attempt) for job in self._dead()}
        try:
            with anyio.move_on_after(timeout) as scope:
                await self._pass()
                if until_empty:
                    await self._rest(ahead)
        finally:
            await self._tap.finish()

        if scope.cancelled_caught:
            raise DrainTimeout(
                f"not drained within {timeout:g} s: {self._script.executed} executions came to "
                f"their end, and {self._store.pending(self._name)} jobs are ready to run"
            )

        dead = [job for job in self._dead() if (job.id, job.attempt) not in before]
        return Report(executions=self._executions, dead=dead)

    async def _rest(self, ahead: timedelta) -> None:
        """What the first pass left or brought about, and what falls due in the time to come."""
        while not self._script.finished:
            if not self._store.pending(self._name):
                wait = self._store.next_due(self._name)
                if wait is None or wait > ahead:
                    self._store.travel(ahead)
                    return

                wait = max(wait, timedelta(0))
                self._store.travel(wait)
                ahead -= wait

            await self._pass()

    async def _pass(self) -> None:
        """What a process of its own does from its start to its end."""
        consumer = self._consumer()
        self._script.stop = consumer.stop
        first = len(self._script.calls)
        with self._store.standing_still():
            await consumer.run(once=True)

        self._judge(first)

    def _judge(self, first: int) -> None:
        """Look up what became of the calls from this one on."""
        dead = {(job.id, job.attempt) for job in self._dead()}
        for call in self._script.calls[first:]:
            for job in call.jobs:
                error = call.errors.get(job.id)
                died = (job.id, job.attempt) in dead
                outcome: Outcome = "interrupted" if call.interrupted else _outcome(error, died=died)
                self._executions.append(Execution(job, outcome, error))

    def _consumer(self) -> Consumer:
        # The tap has no `close`: after this pass there may be another.
        return Consumer(
            self._store.dsn,
            self._tap,
            name=self._name,
            schema=self._store.schema,
            **self._settings,
        )

    def _dead(self) -> Sequence[FailedJob]:
        return [job for job in self._store.failed(self._name) if job.reason is not None]


def _outcome(error: BaseException | None, *, died: bool) -> Outcome:
    if error is None:
        return "done"

    if died:
        return "dead"

    return "snooze" if isinstance(error, Snooze) else "retry"
