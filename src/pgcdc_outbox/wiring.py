"""Composition: the one place where ports meet their adapters."""

import os
import secrets
import socket
from collections.abc import Sequence

from msgspec import Struct

from pgcdc_outbox.consumer.attempt import Attempt
from pgcdc_outbox.consumer.auditing import Auditing
from pgcdc_outbox.consumer.consumer import Limits, Orchestrator
from pgcdc_outbox.consumer.expiry import Expiry
from pgcdc_outbox.consumer.handler import Handler
from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.consumer.parking import Clearing, Parking
from pgcdc_outbox.consumer.ports import Chore
from pgcdc_outbox.consumer.settlement import Settlement
from pgcdc_outbox.core.retry import Policy
from pgcdc_outbox.core.verdict import Redact
from pgcdc_outbox.parameters import Audit
from pgcdc_outbox.postgres.clock import SessionClock
from pgcdc_outbox.postgres.effects.desk import Desk
from pgcdc_outbox.postgres.effects.units import PostgresUnits
from pgcdc_outbox.postgres.ledger.ledger import PostgresLedger
from pgcdc_outbox.postgres.ledger.parking import PostgresParkingLot
from pgcdc_outbox.postgres.ledger.promote import Promotion
from pgcdc_outbox.postgres.ledger.register import PostgresRegister
from pgcdc_outbox.postgres.ledger.trail import PostgresTrail
from pgcdc_outbox.postgres.names import INSTANCE_PREFIX
from pgcdc_outbox.postgres.partition.maintenance import Maintenance
from pgcdc_outbox.postgres.partition.upkeep import Upkeep
from pgcdc_outbox.postgres.producer.schedules.firing import Firing
from pgcdc_outbox.postgres.producer.schedules.schedule import Schedule
from pgcdc_outbox.postgres.session import Session
from pgcdc_outbox.postgres.source.reading import Reading
from pgcdc_outbox.postgres.source.source import PostgresSource

_PROMOTE_LIMIT = 1000
_UPKEEP_SECONDS = 3600.0


class Plan(Struct, frozen=True, kw_only=True):
    """What a consumer was told, checked. Times are seconds."""

    conninfo: str
    consumer: str
    schema: str
    handler: Handler
    policy: Policy
    notice: Notice
    limits: Limits
    promote_interval: float
    reading: Reading
    maintenance: Maintenance | None
    audit: Audit
    schedules: Sequence[Schedule]
    redact: Redact | None

    @property
    def is_strict(self) -> bool:
        """Whether jobs of a key wait for one that failed."""
        return self.limits.ordering == "strict_key"

    @property
    def prepares(self) -> bool:
        """Whether statements are prepared.

        Who polls may be behind a pooler, where a prepared statement stays with a stranger.
        """
        return self.reading.mode != "polling"


class Wiring:
    """The parts of one run, put together. Nothing is connected until it is used."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._instance = _instance(plan.consumer)
        self._writing = self._session()
        self._trail = self._session()
        self._clock = SessionClock(self._writing)
        self._register = PostgresRegister(
            self._writing, consumer=plan.consumer, schema=plan.schema, instance=self._instance
        )
        self._desk = self._make_desk()
        self._promotion = self._make_promotion()
        self._firing = self._make_firing()
        self._keys = self._make_keys()
        self.orchestrator = self._orchestrator()

    async def put_in_line(self) -> None:
        """Put in line everything that is due by now. Raises `OutboxError`."""
        await self._firing.all()
        await self._promotion.all()

    async def close(self) -> None:
        """Close every connection."""
        self._writing.close()
        self._trail.close()
        await self._desk.close()

    def _session(self) -> Session:
        plan = self._plan
        return Session(plan.conninfo, name=self._instance, prepares=plan.prepares)

    def _make_desk(self) -> Desk:
        plan = self._plan
        return Desk(
            plan.conninfo,
            consumer=plan.consumer,
            schema=plan.schema,
            instance=self._instance,
            prepares=plan.prepares,
            beside=self._writing,
            register=self._register,
            notice=plan.notice,
            holds_keys=plan.is_strict,
        )

    def _make_promotion(self) -> Promotion:
        plan = self._plan
        return Promotion(
            self._clock,
            consumer=plan.consumer,
            schema=plan.schema,
            interval=plan.promote_interval,
            limit=_PROMOTE_LIMIT,
            notice=plan.notice,
        )

    def _make_firing(self) -> Firing:
        plan = self._plan
        return Firing(
            self._writing,
            consumer=plan.consumer,
            schema=plan.schema,
            declared=plan.schedules,
            notice=plan.notice,
        )

    def _make_keys(self) -> Parking | Clearing:
        plan = self._plan
        kind = Parking if plan.is_strict else Clearing
        lot = PostgresParkingLot(self._writing, consumer=plan.consumer, schema=plan.schema)
        return kind(lot, consumer=plan.consumer, notice=plan.notice)

    def _auditing(self) -> Auditing | None:
        plan = self._plan
        if plan.audit != "all":
            return None

        trail = PostgresTrail(
            self._trail,
            clock=self._clock,
            consumer=plan.consumer,
            schema=plan.schema,
            instance=self._instance,
        )
        return Auditing(trail, consumer=plan.consumer, notice=plan.notice)

    def _orchestrator(self) -> Orchestrator:
        plan = self._plan
        source = PostgresSource(
            plan.conninfo,
            consumer=plan.consumer,
            schema=plan.schema,
            instance=self._instance,
            reading=plan.reading,
            beside=self._writing,
            notice=plan.notice,
        )
        return Orchestrator(
            source,
            self._attempt(),
            self._register,
            limits=plan.limits,
            chores=self._chores(),
            notice=plan.notice,
            keys=self._keys,
        )

    def _attempt(self) -> Attempt:
        plan = self._plan
        ledger = PostgresLedger(
            self._writing,
            consumer=plan.consumer,
            schema=plan.schema,
            instance=self._instance,
            holds_keys=plan.is_strict,
        )
        settlement = Settlement(
            consumer=plan.consumer,
            policy=plan.policy,
            ledger=ledger,
            notice=plan.notice,
            redact=plan.redact,
        )
        return Attempt(
            consumer=plan.consumer,
            handler=plan.handler,
            policy=plan.policy,
            ledger=ledger,
            units=PostgresUnits(self._desk),
            settlement=settlement,
            parking=self._keys if isinstance(self._keys, Parking) else None,
            expiry=Expiry(consumer=plan.consumer, clock=self._clock, notice=plan.notice),
            notice=plan.notice,
            redact=plan.redact,
            audits_failures=plan.audit != "none",
            auditing=self._auditing(),
        )

    def _chores(self) -> Sequence[Chore]:
        plan = self._plan
        chores: list[Chore] = [self._promotion, self._firing]
        if plan.maintenance is not None:
            chores.append(
                Upkeep(
                    plan.maintenance,
                    consumer=plan.consumer,
                    interval=_UPKEEP_SECONDS,
                    notice=plan.notice,
                )
            )

        if isinstance(self._keys, Parking):
            chores.append(self._keys)

        return chores


def _instance(name: str) -> str:
    """Names this process in pg_stat_activity; cut to what the server keeps."""
    mark = f"{os.getpid()}-{secrets.token_hex(2)}"
    return f"{INSTANCE_PREFIX}{name[:16]}/{socket.gethostname()[:20]}-{mark}"[:63]
