"""Judging failures by topic."""

from msgspec import Struct

from pgcdc_outbox.core.retry import Jitter, Policy
from pgcdc_outbox.job import Job
from pgcdc_outbox.outcome import Dead, Retry
from pgcdc_outbox.routing.table import Table


class ByTopic(Struct, frozen=True):
    """The policy of a job's route where it has one; the default elsewhere."""

    table: Table
    default: Policy

    def judge(self, job: Job, error: BaseException, *, jitter: Jitter) -> Retry | Dead:
        """Ask the policy of the topic. A job without a handler is dead if the router says so."""
        flow = self.table.find(job.topic)
        if flow is None and isinstance(error, Dead):
            return error

        policy = self.default if flow is None or flow.retry is None else flow.retry
        return policy.judge(job, error, jitter=jitter)

    def is_last(self, job: Job) -> bool:
        """Ask the policy of the topic."""
        flow = self.table.find(job.topic)
        policy = self.default if flow is None or flow.retry is None else flow.retry
        return policy.is_last(job)
