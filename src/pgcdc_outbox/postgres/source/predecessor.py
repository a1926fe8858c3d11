"""A slot that somebody still reads, although the consumer is ours.

The lock went with its connection, but the other connection of the one who had it
may be half open: its machine vanished, and the server has not noticed.
"""

import time

import anyio

from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.errors import PermissionMissing, SlotInUse
from pgcdc_outbox.events import PredecessorEnded
from pgcdc_outbox.postgres.names import INSTANCE_PREFIX
from pgcdc_outbox.postgres.source.leadership import Leadership
from pgcdc_outbox.postgres.source.slots import Slot, look_up

_LOOK_SECONDS = 0.1
# What a process may take to end after it was told to.
_END_SECONDS = 5.0


async def take_over(
    leadership: Leadership, slot: str, *, grace: float, notice: Notice
) -> Slot | None:
    """The slot, when nobody reads it; None if there is none.

    A reader of this consumer gets ``grace`` seconds from when we first saw it,
    with the lock in our hands, and is then ended. Raises `SlotInUse` at once for
    a reader that is something else, and if ours does not end.
    """
    first_seen: dict[int, float] = {}
    ended: set[int] = set()
    while True:
        found = await look_up(leadership, slot)
        if found is None or found.active_pid is None:
            return found

        pid, reader = found.active_pid, found.reader
        if not reader.startswith(INSTANCE_PREFIX):
            raise SlotInUse(
                f"slot {slot} is read by {found.described_reader}",
                hint="It is no consumer of this outbox: stop it, or give this consumer "
                "another name.",
            )

        now = time.monotonic()
        waited = now - first_seen.setdefault(pid, now)
        if waited >= grace and pid not in ended:
            await _end(leadership, slot, found)
            ended.add(pid)
            notice(
                PredecessorEnded(
                    consumer=leadership.consumer,
                    slot=slot,
                    reader=found.described_reader,
                    waited_seconds=waited,
                )
            )
        elif waited >= grace + _END_SECONDS:
            raise SlotInUse(f"slot {slot} is read by {found.described_reader}, which does not end")

        await anyio.sleep(min(_LOOK_SECONDS, max(grace - waited, 0.01)))


async def _end(leadership: Leadership, slot: str, found: Slot) -> None:
    try:
        await leadership.rows(
            "end_reader",
            {"slot": slot, "pid": found.active_pid},
            doing="end the predecessor",
        )
    except PermissionMissing as error:
        raise SlotInUse(
            f"slot {slot} is read by {found.described_reader}, which this role may not end",
            hint=f"Run `select pg_terminate_backend({found.active_pid});` as the role that it "
            "runs as, or grant pg_signal_backend.",
        ) from error
