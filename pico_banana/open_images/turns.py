"""Let the readers of one file take turns, in the order of what they read."""

from __future__ import annotations

import asyncio
import bisect
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["Turns"]


class Turns:
    """Gives turns to one reader at a time: who is next behind the last one, then from the first on.

    So a file is read forwards, in whatever order its readers come: a disk need not go back and
    forth, and what is packed is unpacked once. Nobody waits longer than two ways through the file.
    Used in one event loop.
    """

    def __init__(self) -> None:
        self._is_taken = False
        self._position = 0
        self._numbers = itertools.count()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def at(self, offset: int) -> AsyncIterator[None]:
        """Wait for a turn at an offset; it ends with the block."""
        if self._is_taken:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            bisect.insort(self._waiting, (offset, next(self._numbers), turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._pass_on()  # it came with the cancellation
                raise
        self._is_taken = True
        self._position = offset
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        self._waiting = [entry for entry in self._waiting if not entry[2].done()]
        self._is_taken = bool(self._waiting)
        if self._waiting:
            place = bisect.bisect_left(self._waiting, (self._position,))
            *_, turn = self._waiting.pop(place if place < len(self._waiting) else 0)
            turn.set_result(None)
