"""One call of the handler, and what it means for each of its jobs."""

import random
import time
from collections.abc import Mapping, Sequence

from pgcdc_outbox.consumer.handler import Handler, was_cancelled
from pgcdc_outbox.consumer.ports import Unit
from pgcdc_outbox.core.call import Call
from pgcdc_outbox.core.once import judge_once
from pgcdc_outbox.core.retry import Policy
from pgcdc_outbox.core.verdict import Failure, Redact, judge, judge_raised, read
from pgcdc_outbox.job import Job


async def call_handler(
    handler: Handler,
    jobs: Sequence[Job],
    unit: Unit | None,
    *,
    policy: Policy,
    redact: Redact | None,
) -> tuple[Call, Sequence[Failure]]:
    """Call the handler with its jobs, and judge what it returned or raised.

    What it did in the transaction of its unit is undone if it raised. Raises
    nothing but our own cancellation.
    """
    began = time.perf_counter()
    errors: Mapping[int, BaseException]
    failures: Sequence[Failure] = []
    try:
        result = await (handler(jobs) if unit is None else handler.execute(jobs, unit))
        errors = read(result, jobs)
    except BaseException as error:
        # SystemExit and its like are failures of a job here: one bad job must
        # not end the consumer. Only our own cancellation goes through.
        if was_cancelled(error):
            raise

        errors = dict.fromkeys((job.id for job in jobs), error)
        failures = judge_raised(jobs, error, policy, jitter=random.uniform, redact=redact)
        if unit is not None and failures:
            await unit.undo()
    else:
        if errors:
            failures = judge(jobs, errors, policy, jitter=random.uniform, redact=redact)

    call = Call(began, time.perf_counter() - began)
    if unit is not None and unit.once:
        failures = judge_once(failures, unit.once, errors)

    return call, failures
