"""Being the one instance that runs a consumer: the lock, and the epoch."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Literal

from msgspec import Struct

from pgcdc_outbox.errors import (
    Fenced,
    OutboxError,
    PermissionMissing,
    SchemaAhead,
    SchemaBehind,
    SlotInUse,
    SourceUnavailable,
)
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.postgres.queries import query
from pgcdc_outbox.postgres.session import STATEMENT_SECONDS, Session
from pgcdc_outbox.postgres.source.lock import Lock
from pgcdc_outbox.postgres.statements import Params, Row

Before = Literal["none", "released", "ours", "crashed"]
"""There was none; in good order; this process lost it; its process died, or was cut off."""

Mode = Literal["logical", "polling"]

# Migrations that this version of the library was written for.
SCHEMA_NUMBER = 3


class System(Struct, frozen=True):
    """Which cluster, and which of its histories."""

    system_id: str
    timeline: int


class Leadership(Struct, frozen=True, kw_only=True):
    """A consumer that is held: by a lock, under an epoch."""

    session: Session
    lock: Lock
    consumer: str
    schema: str
    instance: str
    epoch: int
    before: Before
    """How the hold before this one ended."""
    crashes: int
    """Holds in a row that ended with their process and without progress."""
    slot: str | None
    """The slot that continues the checkpoint, if there is one."""
    database_oid: int
    database: str
    system: System
    wal_level: str
    flushed: LSN
    """How far the server had written its log when the hold began."""
    snapshot: str
    """What was committed when the hold began."""
    inserted: LSN
    """Taken after `snapshot`: everything committed before the hold began lies before it."""

    async def fenced(self, name: str, params: dict[str, object], *, doing: str) -> None:
        """Run a statement that gives 1 under our epoch, and raise `Fenced` if it is over."""
        (done,) = await self.held(name, params, doing=doing)
        if not done:
            raise self._over(doing)

    async def held(
        self, name: str, params: Mapping[str, object] | None = None, *, doing: str
    ) -> Row:
        """The row that a statement gives under our epoch. Raises `Fenced` if there is none."""
        rows = await self.session.rows(
            query(name, self.schema),
            {"consumer": self.consumer, "epoch": self.epoch, **(params or {})},
            doing=doing,
        )
        if not rows:
            raise self._over(doing)

        return rows[0]

    def _over(self, doing: str) -> Fenced:
        return Fenced(f"{doing}: epoch {self.epoch} of consumer {self.consumer} is over")

    async def note_mode(self, mode: Mode) -> None:
        """Note how this hold reads, for people who look."""
        await self.fenced("note_mode", {"mode": mode}, doing="note the mode")

    async def release(self) -> None:
        """Note that the hold ends in good order, with its last position saved."""
        await self.fenced("release", {}, doing="let go of the consumer")

    async def hand_back(self) -> None:
        """Note that nothing was done: the next start knows where the slot has to be."""
        if self.before == "released":
            with suppress(OutboxError):
                await self.fenced("hand_back", {"forgive": False}, doing="let go again")

    async def why_no_replication(self) -> PermissionMissing | None:
        """The error of a role that may not replicate; None if it may."""
        ((role, allowed),) = await self.rows("may_replicate", doing="look at the role")
        if allowed:
            return None

        return PermissionMissing(
            f"role {role} may not replicate", hint=f"alter role {role} replication;"
        )

    async def rows(
        self,
        name: str,
        params: Params = None,
        *,
        doing: str,
        within: float = STATEMENT_SECONDS,
    ) -> list[Row]:
        """Run a query on the connection that holds the consumer."""
        return await self.session.rows(query(name, self.schema), params, doing=doing, within=within)

    async def load_by_index(
        self,
        name: str,
        params: Params,
        *,
        load: Callable[[list[Row]], None],
        doing: str,
        within: float,
    ) -> None:
        """Load the rows of a query of the jobs by an index, whatever the statistics say.

        It misses no row that maintenance moves to another partition meanwhile.
        ``load`` is given them a few at a time.
        """
        await self.session.load_by_index(
            query(name, self.schema),
            params,
            locking=query("stay_in_partitions", self.schema),
            load=load,
            doing=doing,
            within=within,
        )


async def lead(
    session: Session, lock: Lock, *, consumer: str, schema: str, instance: str
) -> Leadership:
    """Take the lock and raise the epoch.

    Raises `SlotInUse` while another instance has the lock, and errors that say
    what is wrong with the server or the schema.
    """
    doing = f"take hold of consumer {consumer}"
    oid, database, recovering, _, wal_level, flushed, system_id, timeline = await session.row(
        query("whereabouts", schema), doing=doing
    )
    if recovering:
        raise SourceUnavailable(
            f"{doing}: the server is a standby",
            hint="Connect to the primary, or add target_session_attrs=read-write.",
        )

    await _require_schema(session, schema, doing)
    if not await lock.take(consumer=consumer, schema=schema, doing=doing):
        raise SlotInUse(f"consumer {consumer} is held by another instance")

    # Before the take-over: its commit makes sure that all of this reaches the disk.
    snapshot, inserted = await session.row(query("take_position", schema), doing=doing)
    epoch, slot, crashes, before = await session.row(
        query("take_over", schema), {"consumer": consumer, "instance": instance}, doing=doing
    )
    return Leadership(
        session=session,
        lock=lock,
        consumer=consumer,
        schema=schema,
        instance=instance,
        epoch=epoch,
        before=before,
        crashes=crashes,
        slot=slot,
        database_oid=oid,
        database=database,
        system=System(system_id, timeline),
        wal_level=wal_level,
        flushed=LSN.parse(flushed),
        snapshot=snapshot,
        inserted=LSN.parse(inserted),
    )


async def _require_schema(session: Session, schema: str, doing: str) -> None:
    (number,) = await session.row(query("schema_number", schema), doing=doing)
    if number is None or number < SCHEMA_NUMBER:
        raise SchemaBehind(f"schema {schema} is at migration {number or 0} of {SCHEMA_NUMBER}")

    if number > SCHEMA_NUMBER:
        raise SchemaAhead(f"schema {schema} is at migration {number}, we know {SCHEMA_NUMBER}")
