"""Being the one instance that runs a consumer: the lock, and the epoch."""

from typing import Literal

from msgspec import Struct

from pgcdc_outbox.errors import (
    Fenced,
    PermissionMissing,
    SchemaAhead,
    SchemaBehind,
    SlotInUse,
    SourceUnavailable,
    WalLevelTooLow,
)
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.postgres.names import lock_key
from pgcdc_outbox.postgres.queries import query
from pgcdc_outbox.postgres.session import Params, Row, Session

Before = Literal["none", "released", "ours", "crashed"]
"""There was none; in good order; this process lost it; its process died, or was cut off."""

Mode = Literal["logical", "polling"]

# Migrations that this version of the library was written for.
SCHEMA_NUMBER = 2


class Leadership(Struct, frozen=True, kw_only=True):
    """A consumer that is held: by a session-level lock, under an epoch."""

    session: Session
    consumer: str
    schema: str
    epoch: int
    before: Before
    """How the hold before this one ended."""
    crashes: int
    """Holds in a row that ended with their process and without progress."""
    slot: str | None
    """The slot that continues the checkpoint, if there is one."""
    database_oid: int
    database: str
    flushed: LSN
    """How far the server had written its log when the hold began."""
    snapshot: str
    """What was committed when the hold began."""
    inserted: LSN
    """Taken after `snapshot`: everything committed before the hold began lies before it."""

    async def fenced(self, name: str, params: dict[str, object], *, doing: str) -> None:
        """Run a statement that gives 1 under our epoch, and raise `Fenced` if it is over."""
        rows = await self.session.rows(
            query(name, self.schema),
            {"consumer": self.consumer, "epoch": self.epoch, **params},
            doing=doing,
        )
        if not rows or not rows[0][0]:
            raise Fenced(f"{doing}: epoch {self.epoch} of consumer {self.consumer} is over")

    async def release(self) -> None:
        """Note that the hold ends in good order, with its last position saved."""
        await self.fenced("release", {}, doing="let go of the consumer")

    async def why_no_replication(self) -> PermissionMissing | None:
        """The error of a role that may not replicate; None if it may."""
        ((role, allowed),) = await self.rows("may_replicate", doing="look at the role")
        if allowed:
            return None

        return PermissionMissing(
            f"role {role} may not replicate", hint=f"alter role {role} replication;"
        )

    async def rows(self, name: str, params: Params = None, *, doing: str) -> list[Row]:
        """Run a query on the connection that holds the lock."""
        return await self.session.rows(query(name, self.schema), params, doing=doing)


async def lead(
    session: Session, *, consumer: str, schema: str, instance: str, mode: Mode
) -> Leadership:
    """Take the lock and raise the epoch.

    Raises `SlotInUse` while another instance has the lock, and errors that say
    what is wrong with the server or the schema.
    """
    doing = f"take hold of consumer {consumer}"
    oid, database, recovering, _, wal_level, flushed = await session.row(
        query("whereabouts", schema), doing=doing
    )
    if recovering:
        raise SourceUnavailable(
            f"{doing}: the server is a standby",
            hint="Connect to the primary, or add target_session_attrs=read-write.",
        )

    if mode == "logical" and wal_level != "logical":
        raise WalLevelTooLow(f"{doing}: wal_level is {wal_level}")

    await _require_schema(session, schema, doing)
    (locked,) = await session.row(
        query("try_lock", schema), {"key": lock_key(schema, f"consumer {consumer}")}, doing=doing
    )
    if not locked:
        raise SlotInUse(f"consumer {consumer} is held by another instance")

    # Before the take-over: its commit makes sure that all of this reaches the disk.
    snapshot, inserted = await session.row(query("take_position", schema), doing=doing)
    epoch, slot, crashes, before = await session.row(
        query("take_over", schema),
        {"consumer": consumer, "instance": instance, "mode": mode},
        doing=doing,
    )
    return Leadership(
        session=session,
        consumer=consumer,
        schema=schema,
        epoch=epoch,
        before=before,
        crashes=crashes,
        slot=slot,
        database_oid=oid,
        database=database,
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
