"""What a person may do with the slot of a consumer that nobody runs."""

import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from msgspec import Struct

from pgcdc_outbox.errors import CheckpointForeign, SettingsError, SlotExists, SlotInUse
from pgcdc_outbox.postgres.names import INSTANCE_PREFIX, slot_name
from pgcdc_outbox.postgres.queries import query
from pgcdc_outbox.postgres.session import Session
from pgcdc_outbox.postgres.source.checkpoint import NOTHING_SEEN, Checkpoint, load
from pgcdc_outbox.postgres.source.leadership import Leadership, lead
from pgcdc_outbox.postgres.source.lock import Lock
from pgcdc_outbox.postgres.source.making import make_slot, require_log
from pgcdc_outbox.postgres.source.publication import require_publication
from pgcdc_outbox.postgres.source.slots import Slot, look_up
from pgcdc_outbox.postgres.source.stream import ReplicationStream

NewSystem = Literal["upgraded", "restored"]
"""What became of a cluster that has another identity: pg_upgrade, or dump and restore."""


class Kept(Struct, frozen=True, kw_only=True):
    """What was done."""

    consumer: str
    slot: str
    position: str | None = None
    """Where the new slot begins; None if there is none."""
    adopted: int = 0
    """Jobs of another cluster that were taken over."""


class SlotKeeper:
    """Makes, drops and replaces the slot of one consumer, as the consumer itself would.

    Holds the consumer's lock meanwhile, so that it never does so under a running
    one: that raises `SlotInUse`.
    """

    def __init__(self, conninfo: str, *, consumer: str = "default", schema: str = "outbox") -> None:
        self._conninfo = conninfo
        self._consumer = consumer
        self._schema = schema
        mark = f"{os.getpid()}-{secrets.token_hex(2)}"
        self._instance = f"{INSTANCE_PREFIX}slot/{socket.gethostname()[:20]}-{mark}"[:63]

    async def create(self, *, failover: bool = False) -> Kept:
        """Make the slot, and plan that the next start reads the table first."""
        async with self._held() as leadership:
            slot = self._slot(leadership)
            if await self._unread(leadership, slot):
                raise SlotExists(f"slot {slot} exists already")

            return await self._make(leadership, slot, failover=failover)

    async def drop(self) -> Kept:
        """Drop the slot. The checkpoint stays, so the next start loses nothing."""
        async with self._held(known=True) as leadership:
            slot = self._slot(leadership)
            if await self._unread(leadership, slot):
                await leadership.fenced("forget_slot", {}, doing="prepare to drop the slot")
                await leadership.rows("drop_slot", {"slot": slot}, doing=f"drop slot {slot}")

            return Kept(consumer=self._consumer, slot=slot)

    async def reconcile(
        self, *, failover: bool | None = None, new_system: NewSystem | None = None
    ) -> Kept:
        """Put a new slot in the place of whatever is there; the next start re-reads the table.

        ``new_system`` says what became of a cluster with another identity. After
        "upgraded", transaction ids go on and the checkpoint holds. After
        "restored" they mean nothing: every job in the table comes again. With
        ``failover`` None the new slot is as the old one was.
        """
        async with self._held(known=True) as leadership:
            slot = self._slot(leadership)
            found = await self._unread(leadership, slot)
            if failover is None:
                failover = found is not None and found.failover

            return await self._make(leadership, slot, failover=failover, new_system=new_system)

    @asynccontextmanager
    async def _held(self, *, known: bool = False) -> AsyncIterator[Leadership]:
        control = Session(self._conninfo, name=self._instance, reconnects=False)
        try:
            if known:
                await self._require_known(control)

            leadership = await lead(
                control,
                Lock(control, in_transaction=False),
                consumer=self._consumer,
                schema=self._schema,
                instance=self._instance,
            )
            yield leadership
            await leadership.fenced("hand_back", {"forgive": True}, doing="let go of the consumer")
        finally:
            control.close()

    async def _require_known(self, control: Session) -> None:
        (known,) = await control.row(
            query("consumer_known", self._schema),
            {"consumer": self._consumer},
            doing="look for the consumer",
        )
        if not known:
            raise SettingsError(
                f"name: there is no consumer {self._consumer}",
                hint="`pgcdc-outbox status` lists those that there are.",
            )

    async def _make(
        self,
        leadership: Leadership,
        slot: str,
        *,
        failover: bool,
        new_system: NewSystem | None = None,
    ) -> Kept:
        require_log(leadership)
        stream = await ReplicationStream.open(self._conninfo, name=self._instance)
        try:
            if new_system is None:
                self._refuse_foreign(leadership, await load(leadership))

            adopted = await self._adopt(leadership) if new_system == "restored" else 0
            publication = await require_publication(leadership, since=NOTHING_SEEN)
            # It may have to wait long.
            made = await leadership.lock.during(
                lambda: make_slot(
                    stream,
                    leadership,
                    slot,
                    publication=publication,
                    failover=failover,
                    lost=False,
                )
            )
        finally:
            stream.close()

        return Kept(
            consumer=self._consumer, slot=slot, position=str(made.position), adopted=adopted
        )

    def _refuse_foreign(self, leadership: Leadership, checkpoint: Checkpoint | None) -> None:
        system_id = leadership.system.system_id
        if checkpoint is not None and checkpoint.system.system_id != system_id:
            raise CheckpointForeign(
                f"the checkpoint of consumer {self._consumer} was saved in cluster "
                f"{checkpoint.system.system_id}, this is {system_id}",
                hint="Say what happened: --accept-new-system upgraded (pg_upgrade), or restored "
                "(dump and restore).",
            )

    async def _adopt(self, leadership: Leadership) -> int:
        """Forget what is settled, and make the jobs of another cluster this one's."""
        await leadership.fenced("forget_settled", {}, doing="forget the checkpoint")
        ((adopted,),) = await leadership.rows("adopt_rows", {}, doing="take over the jobs")
        return int(adopted)

    async def _unread(self, leadership: Leadership, slot: str) -> Slot | None:
        """The slot, if there is one. Raises `SlotInUse` while somebody reads it."""
        found = await look_up(leadership, slot)
        if found is not None and found.active_pid is not None:
            raise SlotInUse(
                f"slot {slot} is read by {found.described_reader}",
                hint="Stop that process first.",
            )

        return found

    def _slot(self, leadership: Leadership) -> str:
        return slot_name(self._schema, self._consumer, leadership.database_oid)
