"""Bound the memory of what is fetched and not yet handed over, without locking the reader out."""

from __future__ import annotations

import asyncio

__all__ = ["Room", "Ticket"]

_FIRST_GUESS_BYTES = 3 * 1024 * 1024


class Room:
    """Bounds the bytes that are fetched and not yet handed over, in one event loop.

    What the reader waits for is always let in, so that images behind it, which fill the room,
    can never lock it out.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._waiting: list[asyncio.Future[None]] = []
        self._mean = float(_FIRST_GUESS_BYTES)
        self.taken = 0
        self.head = -1

    def guess(self) -> int:
        """What to set aside for an image whose size is not known yet."""
        return min(int(2 * self._mean), self._limit // 8)

    def learn(self, size: int) -> None:
        """Let an image's size weigh in the next guess."""
        self._mean += (size - self._mean) / 16

    def admits(self, size: int, order: int) -> bool:
        """Whether so many bytes more may be taken now."""
        return order <= self.head or self.taken + size <= self._limit

    async def wait(self, size: int, order: int) -> None:
        """Wait until so many bytes more may be taken."""
        while not self.admits(size, order):
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            await waiting

    def give(self, size: int) -> None:
        """Give bytes back."""
        self.taken -= size
        self._wake()

    def advance(self, head: int) -> None:
        """Let in what the reader now waits for: everything up to this order."""
        self.head = max(self.head, head)
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


class Ticket:
    """One image's share of the room."""

    def __init__(self, room: Room, order: int) -> None:
        self._room, self._order, self.taken = room, order, 0

    async def take(self, size: int) -> None:
        """Wait for room of so many bytes in all."""
        self.give()
        await self._room.wait(size, self._order)
        self._set(size)

    def grow(self, size: int) -> bool:
        """Take more without waiting, or say no."""
        if size > self.taken:
            if not self._room.admits(size - self.taken, self._order):
                return False
            self._set(size)
        return True

    def settle(self, size: int) -> None:
        """Keep exactly so many bytes."""
        self._room.learn(size)
        self._set(size)
        self._room.give(0)

    def give(self) -> None:
        """Give everything back; once is enough, twice does no harm."""
        self._room.give(self.taken)
        self.taken = 0

    def _set(self, size: int) -> None:
        self._room.taken += size - self.taken
        self.taken = size
