"""The user's code, made uniform: checked when it is given, called off the loop if it is sync."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import anyio
from anyio import CapacityLimiter, to_thread

from pgcdc_outbox.consumer.ports import UnitOfWork
from pgcdc_outbox.core.retry import Policy
from pgcdc_outbox.errors import HandlerInvalid
from pgcdc_outbox.job import Job


class Handler:
    """A handler of batches, sync or async, function or object.

    Raises `HandlerInvalid` at once for what cannot be called with one batch.
    """

    def __init__(self, target: Any, *, concurrency: int) -> None:
        self._target = target
        self.executes = _executes(target)
        """Whether a call gets a `UnitOfWork` beside its jobs."""
        self._call = target.execute if self.executes else _callable(target)
        self._is_async = _is_async(self._call)
        self._limiter: CapacityLimiter | None = None
        self._concurrency = concurrency
        self.threads = 0
        self.calls = 0
        """How many calls have not ended, of those that somebody waits for."""

    async def __call__(self, jobs: Sequence[Job]) -> Any:
        """Call it. Raises whatever it raises, `BaseException` included."""
        self.calls += 1
        try:
            return await self._result(jobs)
        finally:
            self.calls -= 1

    async def execute(self, jobs: Sequence[Job], unit: UnitOfWork) -> Any:
        """Call it with its unit, if it `executes`. Raises whatever it raises."""
        self.calls += 1
        try:
            return await self._call(jobs, unit)
        finally:
            self.calls -= 1

    def policy(self, default: Policy) -> Policy:
        """What judges its failures: one that it chooses itself, if it `executes`, else this one."""
        choose = getattr(self._target, "policy", None) if self.executes else None
        chosen: Policy = default if choose is None else choose(default)
        return chosen

    async def close(self) -> None:
        """Call its ``close`` (or ``aclose``), if it has one."""
        close = getattr(self._target, "aclose", None) or getattr(self._target, "close", None)
        if close is None or inspect.isfunction(self._target):
            return

        result = close()
        if inspect.isawaitable(result):
            await result

    async def _result(self, jobs: Sequence[Job]) -> Any:
        if self._is_async:
            return await self._call(jobs)

        # In a thread: a handler that blocks must not stop the reports.
        error, result = await self._in_thread(lambda: self._call(jobs))
        if error is not None:
            raise error

        if inspect.isawaitable(result):
            return await result

        return result

    async def _in_thread(self, call: Callable[[], Any]) -> tuple[BaseException | None, Any]:
        if self._limiter is None:
            self._limiter = CapacityLimiter(self._concurrency)

        def run() -> tuple[BaseException | None, Any]:
            # Carried over as a value: a future does not take every BaseException.
            self.threads += 1
            try:
                return None, call()
            except BaseException as error:
                return error, None
            finally:
                self.threads -= 1

        # Abandoned on cancellation, because a thread cannot be stopped. The stop
        # is bounded all the same; the job stays in the log.
        return await to_thread.run_sync(run, abandon_on_cancel=True, limiter=self._limiter)


def was_cancelled(error: BaseException) -> bool:
    """Whether the error is our own cancellation, and not a handler's invention."""
    if not isinstance(error, anyio.get_cancelled_exc_class()):
        return False

    return anyio.current_effective_deadline() == float("-inf")


def _executes(target: Any) -> bool:
    """Whether it is a handler of the richer kind. Raises `HandlerInvalid` for half of one."""
    execute = getattr(target, "execute", None)
    if inspect.isclass(target) or inspect.isfunction(target) or not callable(execute):
        return False

    if not inspect.iscoroutinefunction(execute):
        raise HandlerInvalid(
            f"handler: {_name(execute)} is not a coroutine function",
            hint="`async def execute(self, jobs, unit): ...`, or a method `handle(self, jobs)`.",
        )

    try:
        inspect.signature(execute).bind((), None)
    except TypeError as error:
        raise HandlerInvalid(
            f"handler: {_name(execute)} cannot be called with the jobs and a unit: {error}",
            hint="`async def execute(self, jobs, unit): ...`.",
        ) from None

    return True


def _callable(target: Any) -> Callable[..., Any]:
    if inspect.isclass(target):
        raise HandlerInvalid(f"handler: {_name(target)} is a class; give an instance of it")

    handle = getattr(target, "handle", None)
    call: object = handle if callable(handle) and not inspect.isfunction(target) else target
    if not callable(call):
        raise HandlerInvalid(
            f"handler: {_name(target)} is neither a function of a batch of jobs "
            "nor an object with a method `handle`"
        )

    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError):
        return call  # a builtin without a signature: believed

    try:
        signature.bind(())
    except TypeError as error:
        raise HandlerInvalid(
            f"handler: {_name(call)}{signature} cannot be called with one argument: {error}"
        ) from None

    if inspect.isasyncgenfunction(call):
        raise HandlerInvalid(f"handler: {_name(call)} is an async generator; it must not yield")

    return call


def _is_async(call: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(
        getattr(call, "__call__", None)  # noqa: B004 -- an object with an async __call__
    )


def _name(target: Any) -> str:
    return getattr(target, "__qualname__", None) or type(target).__qualname__
