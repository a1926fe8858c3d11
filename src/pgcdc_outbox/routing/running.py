"""One batch of jobs, run by the flows of their topics.

Jobs of one key run one after the other, in their order, whatever their topics.
Everything else runs at the same time, as far as the concurrency of the flows
allows. Where no handler waits, no task is made for the jobs of one topic.
"""

import asyncio
import inspect
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import anyio
import anyio.from_thread
from anyio import to_thread
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint as yield_to_others

from pgcdc_outbox.consumer.handler import was_cancelled
from pgcdc_outbox.job import Job
from pgcdc_outbox.outcome import Done
from pgcdc_outbox.routing.flow import Errors, Flow, told
from pgcdc_outbox.routing.route import failure
from pgcdc_outbox.routing.scope import Scope
from pgcdc_outbox.routing.slots import Slots

_TURN_SECONDS = 0.005

Entry = tuple[Flow, Job]
Chain = deque[Entry]
"""Jobs of one key that are still to run, in order."""


class Running:
    """Runs the jobs of one call of the router, and gathers what failed."""

    def __init__(self, scope: Scope, is_last: Callable[[Job], bool]) -> None:
        self.errors: Errors = {}
        self._scope = scope
        self._is_last = is_last
        self._abandoned = False

    async def run(self, entries: Sequence[Entry]) -> None:
        """Run all of them. Raises only our own cancellation."""
        try:
            for segment in _segments(entries):
                await self._run_segment(segment)
        finally:
            # A thread that was left behind does not begin another job.
            self._abandoned = True

    async def _run_segment(self, entries: Sequence[Entry]) -> None:
        if len(entries) == 1:
            # Most jobs come alone: neither a task nor a group for them.
            (flow, job), *_ = entries
            lane = _Lane(flow)
            lane.items.append(job)
            await self._go_on(lane, None, {})
            return

        lanes = _lanes(entries)
        async with anyio.create_task_group() as group:
            first, *others = lanes.values()
            for lane in others:
                lane.runners += 1
                group.start_soon(self._go_on, lane, group, lanes)

            first.runners += 1
            await self._go_on(first, group, lanes)

    async def _go_on(
        self, lane: "_Lane", group: TaskGroup | None, lanes: "dict[Flow, _Lane]"
    ) -> None:
        """Run what is in a lane until it is empty, beside others who do the same."""
        slots = lane.flow.slots
        if slots is not None and not slots.try_take() and not await lane.wait_for(slots):
            lane.runners -= 1
            return

        help_ = None if group is None else self._call_for_help(lane, group, lanes)
        try:
            while lane.items:
                if lane.flow.batch:
                    await self._batch(lane)
                elif lane.flow.is_threaded:
                    await self._in_a_thread(lane, group, lanes)
                else:
                    await self._on_the_loop(lane, group, lanes)

            lane.dismiss()
        finally:
            if help_ is not None:
                help_.cancel()

            lane.runners -= 1
            if slots is not None:
                slots.give()

    def _call_for_help(
        self, lane: "_Lane", group: TaskGroup, lanes: "dict[Flow, _Lane]"
    ) -> asyncio.Handle | None:
        """Have another one run beside, as soon as this one waits for something, and not before.

        So where no handler waits, no task is made: one costs as much as many calls.
        """
        if len(lane.items) > 1 and lane.runners < lane.most:
            return asyncio.get_running_loop().call_soon(self._help, lane, group, lanes)

        return None

    def _help(self, lane: "_Lane", group: TaskGroup, lanes: "dict[Flow, _Lane]") -> None:
        if lane.items and lane.runners < lane.most:
            lane.runners += 1
            group.start_soon(self._go_on, lane, group, lanes)

    def _follow(self, chain: Chain, group: TaskGroup | None, lanes: "dict[Flow, _Lane]") -> None:
        """Put the rest of a chain into the lane of its next job."""
        lane = lanes[chain[0][0]]
        lane.items.append(chain)
        if group is not None and lane.runners < lane.most:
            lane.runners += 1
            group.start_soon(self._go_on, lane, group, lanes)

    async def _on_the_loop(
        self, lane: "_Lane", group: TaskGroup | None, lanes: "dict[Flow, _Lane]"
    ) -> None:
        items, flow, call = lane.items, lane.flow, lane.flow.call
        scope, errors, clock = self._scope, self.errors, time.monotonic
        yielded_at = clock()
        while items:
            job, chain = _first(items.popleft())
            try:
                result = await call(job, scope)
                if result is not None and (failed := failure(result, flow.name)) is not None:
                    errors[job.id] = failed
            except BaseException as error:
                if was_cancelled(error):
                    raise

                if not isinstance(error, Done):
                    errors[job.id] = told(error)

            if chain:
                if chain[0][0] is flow:
                    items.appendleft(chain)
                else:
                    self._follow(chain, group, lanes)

            # A handler that never waits must not keep the reports waiting.
            if clock() - yielded_at > _TURN_SECONDS:
                await yield_to_others()
                yielded_at = clock()

    async def _in_a_thread(
        self, lane: "_Lane", group: TaskGroup | None, lanes: "dict[Flow, _Lane]"
    ) -> None:
        """Let a thread go from job to job: the way there costs more than most calls."""
        limiter = lane.flow.routes[0].limiter()
        await to_thread.run_sync(
            self._thread, lane, group, lanes, abandon_on_cancel=True, limiter=limiter
        )

    def _thread(self, lane: "_Lane", group: TaskGroup | None, lanes: "dict[Flow, _Lane]") -> None:
        # Several threads share the lane: taking from it is one step, looking first is not.
        with suppress(IndexError):
            while not self._abandoned:
                item = lane.items.popleft()
                chain: Chain = item if isinstance(item, deque) else deque([(lane.flow, item)])
                while chain and chain[0][0] is lane.flow and not self._abandoned:
                    _, job = chain.popleft()
                    self._call_now(lane.flow, job)

                if chain and not self._abandoned:
                    anyio.from_thread.run_sync(self._follow, chain, group, lanes)

    def _call_now(self, flow: Flow, job: Job) -> None:
        try:
            result = flow.call(job, self._scope)
            if inspect.isawaitable(result):
                result = anyio.from_thread.run(_awaiting, result)

            failed = failure(result, flow.name)
        except BaseException as error:
            if not isinstance(error, Done):
                self.errors[job.id] = told(error)
        else:
            if failed is not None:
                self.errors[job.id] = failed

    async def _batch(self, lane: "_Lane") -> None:
        jobs = [_first(item)[0] for item in lane.items]
        lane.items.clear()
        for part in self._parts(jobs):
            self.errors |= await lane.flow.perform_batch(part, self._scope)

    def _parts(self, jobs: Sequence[Job]) -> Iterator[list[Job]]:
        """Cut out those at their last attempt, which they make alone; the order stays."""
        part: list[Job] = []
        for job in jobs:
            if not self._is_last(job):
                part.append(job)
                continue

            if part:
                yield part

            yield [job]
            part = []

        if part:
            yield part


class _Lane:
    """What a flow has to do in one segment: jobs, or chains of which it has the first."""

    __slots__ = ("_waiting", "flow", "items", "most", "runners")

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.items: deque[Job | Chain] = deque()
        self.runners = 0
        self.most = 1 if flow.batch else flow.concurrency or 1
        self._waiting: list[anyio.CancelScope] = []

    async def wait_for(self, slots: Slots) -> bool:
        """Wait for a slot; false if the lane is empty before there is one."""
        taken = False
        with anyio.CancelScope() as scope:
            self._waiting.append(scope)
            try:
                await slots.take()
                taken = True
            finally:
                self._waiting.remove(scope)

        return taken

    def dismiss(self) -> None:
        """Nothing is left to do for those who still wait for a slot."""
        for scope in self._waiting:
            scope.cancel()


def _first(item: Job | Chain) -> tuple[Job, Chain | None]:
    """The job that runs now, and the chain that it was taken from."""
    if isinstance(item, Job):
        return item, None

    return item.popleft()[1], item


def _segments(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """Cut where a key goes from single jobs to a batch, or back, or on to another batch.

    Within a segment each key is at home in one place, and order can be kept there.
    """
    if not any(flow.batch and job.key is not None for flow, job in entries):
        yield entries
        return

    segment: list[Entry] = []
    homes: dict[str, Flow | None] = {}
    for flow, job in entries:
        home = flow if flow.batch else None
        if job.key is not None and homes.setdefault(job.key, home) is not home:
            yield segment
            segment, homes = [], {job.key: home}

        segment.append((flow, job))

    yield segment


def _lanes(entries: Sequence[Entry]) -> dict[Flow, _Lane]:
    """The lanes of a segment, filled in order; one for each flow that has a job in it."""
    lanes: dict[Flow, _Lane] = {}
    chains: dict[str, Chain] = {}
    for flow, job in entries:
        lane = lanes.get(flow)
        if lane is None:
            lane = lanes[flow] = _Lane(flow)

        if job.key is None or flow.batch:
            lane.items.append(job)
        elif (chain := chains.get(job.key)) is not None:
            chain.append((flow, job))
        else:
            chains[job.key] = chain = deque([(flow, job)])
            lane.items.append(chain)

    return lanes


async def _awaiting(result: object) -> object:
    return await result  # type: ignore[misc]
