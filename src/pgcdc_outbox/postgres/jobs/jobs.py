"""The jobs of one outbox, for a person who has a question about some of them."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

from pgcdc_outbox.postgres.connection import session
from pgcdc_outbox.postgres.conninfo import of_environment
from pgcdc_outbox.postgres.jobs import listing, replaying
from pgcdc_outbox.postgres.jobs.cancelling import Cancelling, cancel
from pgcdc_outbox.postgres.jobs.listing import Listing
from pgcdc_outbox.postgres.jobs.replaying import Replay, Replayed, TopicSpan
from pgcdc_outbox.postgres.jobs.showing import Shown, show
from pgcdc_outbox.postgres.migrate import check_schema


class Jobs:
    """Looks jobs up, takes them back, and puts them in line again.

    Without ``conninfo`` the environment tells: ``PGCDC_OUTBOX_DSN``, else libpq's own
    variables. The rights of an operator are enough (``sql/roles.sql``). Every method
    raises `OutboxError`.
    """

    def __init__(self, conninfo: str | None = None, *, schema: str = "outbox") -> None:
        check_schema(schema)
        self._conninfo = of_environment() if conninfo is None else conninfo
        self._schema = schema

    def show(
        self,
        id: int,
        *,
        consumer: str | None = None,
        within: timedelta = timedelta(seconds=10),
    ) -> Shown:
        """Everything that is known about one job, for one consumer or for each.

        No index leads from an id to its rows, so partitions are looked through, the
        newest first, for no longer than ``within``.
        """
        with session(self._conninfo, doing="look a job up") as connection:
            return show(connection, self._schema, id, consumer=consumer, within=within)

    def list(
        self,
        *,
        topic: str | None = None,
        key: str | None = None,
        state: str | None = None,
        consumer: str | None = None,
        since: datetime | None = None,
        limit: int = 50,
        looks: int = listing.LOOKS,
    ) -> Listing:
        """Jobs that fit, the newest first.

        Of each table no more than the newest ``looks`` rows are looked at, so that this
        costs the same however large they are; `Listing.stopped` says where that was the
        end of it.
        """
        with session(self._conninfo, doing="list jobs") as connection:
            return listing.list_jobs(
                connection,
                self._schema,
                topic=topic,
                key=key,
                state=state,
                consumer=consumer,
                since=since,
                limit=limit,
                looks=looks,
            )

    def cancel(self, ids: Iterable[int], *, consumer: str | None = None) -> Sequence[Cancelling]:
        """Take jobs back that wait: scheduled ones, failed ones, parked ones.

        One that is cancelled is not executed any more for the consumers that are named;
        for a scheduled one that is every consumer. Each job is a transaction of its own.
        """
        with session(self._conninfo, doing="cancel jobs") as connection:
            return [cancel(connection, self._schema, each, consumer=consumer) for each in ids]

    def preview(self, replay: Replay) -> Sequence[TopicSpan]:
        """What `replay` would put in line now. Raises `ReplayIncomplete` as it does."""
        with session(self._conninfo, doing="look what would be replayed") as connection:
            return replaying.preview(connection, self._schema, replay)

    def replay(
        self, replay: Replay, *, observe: Callable[[Replayed], None] = lambda replayed: None
    ) -> Replayed:
        """Put copies of jobs in line again, in their old order, a batch at a time.

        Each batch is a transaction of its own, and ``observe`` is told after each how far
        it came: `Replayed.after` is where to go on if it is interrupted. Raises
        `ReplayIncomplete` if jobs of that time are gone with their partitions.
        """
        with session(self._conninfo, doing="replay jobs") as connection:
            return replaying.replay(connection, self._schema, replay, observe)
