"""How many calls of a handler may run at the same time, in all batches together."""

from collections import deque

import anyio


class Slots:
    """A number of slots, given to whoever came first. Belongs to one event loop at a time."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[anyio.Event] = deque()

    def try_take(self) -> bool:
        """Take a slot if there is one that nobody waits for."""
        if not self._free or self._waiting:
            return False

        self._free -= 1
        return True

    async def take(self) -> None:
        """Wait for a slot and take it."""
        if self.try_take():
            return

        mine = anyio.Event()
        self._waiting.append(mine)
        try:
            await mine.wait()
        except BaseException:
            if mine.is_set():
                self.give()  # it was handed over, and nobody will use it
            else:
                self._waiting.remove(mine)

            raise

    def give(self) -> None:
        """Give a slot back: to the next who waits."""
        if self._waiting:
            self._waiting.popleft().set()
        else:
            self._free += 1
