"""How often to look for more while far behind: seldom enough to find much at a time."""

import time
from typing import Final

import anyio

# Who is behind by less is as good as caught up, and reads whatever comes at once.
_FAR_SECONDS: Final = 0.1

# A server that sends over TCP wakes its reader for each message, unless that is not
# waiting for it: then many fit into one packet. Two and a half times as long gains no more.
_TCP_SECONDS: Final = 0.002

# A Unix socket holds a few hundred messages, so its reader may only nap. Too short for
# the timers of an event loop; and not again and again, for it stands still meanwhile.
_NAP_SECONDS: Final = 0.000_05
_NAPS: Final = 4


class Pacing:
    """Says after each look at the stream whether to let messages gather before the next one.

    Nothing is delayed but what is late already. ``benchmarks/cases/drain.py`` shows what
    it is worth.
    """

    def __init__(self, *, local: bool) -> None:
        """``local`` is whether the server is reached by a Unix socket."""
        self._local = local
        self._naps = 0

    @staticmethod
    def is_near(late: float) -> bool:
        """Whether nothing is gained by waiting: messages are so many seconds old."""
        return late < _FAR_SECONDS

    def gathers(self, *, got: int, late: float) -> bool:
        """Whether to gather now: so many messages came, and were so many seconds old."""
        if got:
            self._naps = 0

        if self.is_near(late):
            return False

        return not got and self._naps < _NAPS if self._local else got > 0

    async def gather(self) -> None:
        """Let messages gather."""
        if self._local:
            self._naps += 1
            time.sleep(_NAP_SECONDS)  # noqa: ASYNC251 -- far shorter than a turn of the loop
        else:
            await anyio.sleep(_TCP_SECONDS)
