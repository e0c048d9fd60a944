"""Bound a host's open connections: which process holds which, and who must give one back."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Holder", "OpenConnections"]

_PATIENCE_S, _TURN_S = 0.1, 1.0
"""Who waits so long takes a connection of one who has more; where there are fewer connections than
holders, they pass on after a turn, for a connection that moves must be opened anew."""


class Holder(Protocol):
    """A process that holds connections."""

    def recall(self, number: int) -> None:
        """Ask for a connection back that is idle; it is closed, and then said to be."""


@dataclass(eq=False)
class _Connection:
    number: int
    holder: Holder | None
    idle_s: float = 0.0  # since when, where it is


@dataclass(eq=False)
class _Waiter:
    holder: Holder | None
    since_s: float
    granted: asyncio.Future[int] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class OpenConnections:
    """One host's connections, lent to their holders until they are wanted by others.

    A connection stays with its holder between requests, as its socket does, and counts until its
    holder has closed it. For one event loop.

    Args:
        limit: how many there may be at once.
        numbers: gives each connection its number.
    """

    def __init__(self, limit: int, numbers: Iterator[int]) -> None:
        self._limit, self._numbers = limit, numbers
        self._open: dict[int, _Connection] = {}
        # Of each holder, the longest idle first.
        self._idle: defaultdict[Holder | None, dict[int, _Connection]] = defaultdict(dict)
        self._held: Counter[Holder | None] = Counter()
        self._recalled: set[int] = set()
        self._waiting: deque[_Waiter] = deque()
        self._later: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many are open, idle ones too."""
        return len(self._open)

    def set_limit(self, limit: int) -> None:
        """Change how many there may be at once; those that are open stay."""
        has_risen, self._limit = limit > self._limit, limit
        if has_risen:
            self._share_out()

    async def take(self, holder: Holder | None) -> int:
        """Wait for a connection for one request; return its number: one that is held, or new."""
        waiter = _Waiter(holder, time.monotonic())
        self._waiting.append(waiter)
        self._share_out()
        try:
            return await waiter.granted
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif not (waiter.granted.cancelled() or waiter.granted.exception()):
                self.give_back(waiter.granted.result())
            raise

    def give_back(self, number: int) -> None:
        """The request is over; its holder keeps the connection until others want it."""
        if number in self._open:
            connection = self._open[number]
            connection.idle_s = time.monotonic()
            self._idle[connection.holder][number] = connection
            self._share_out()

    def close(self, number: int) -> None:
        """The connection is closed."""
        if number in self._open:
            connection = self._open.pop(number)
            self._held[connection.holder] -= 1
            self._idle[connection.holder].pop(number, None)
            self._recalled.discard(number)
            self._share_out()

    def fail(self, error: Exception) -> None:
        """Raise an error for all who wait."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.granted.done():
                waiter.granted.set_exception(error)

    def leave(self, holder: Holder) -> None:
        """Its holder has ended, and with it all of its connections."""
        for connection in [one for one in self._open.values() if one.holder is holder]:
            self.close(connection.number)
        self._held.pop(holder, None)
        self._idle.pop(holder, None)

    def _share_out(self) -> None:
        """Grant what may be granted, and recall for those who have waited long."""
        self._recall()
        # Those with the fewest first, else what one gave back would go to one who has more.
        for waiter in sorted(self._waiting, key=lambda one: self._held[one.holder]):
            if waiter.granted.cancelled():
                self._waiting.remove(waiter)
                continue
            idle = self._idle[waiter.holder]
            if idle:  # the last used: its socket is the most likely to be still open
                _, connection = idle.popitem()
            elif len(self._open) < self._limit:
                connection = _Connection(next(self._numbers), waiter.holder)
                self._open[connection.number] = connection
                self._held[waiter.holder] += 1
            else:
                continue
            self._waiting.remove(waiter)
            waiter.granted.set_result(connection.number)
        if self._waiting and self._later is None and any(self._idle.values()):
            self._later = asyncio.get_running_loop().call_later(_PATIENCE_S, self._look_again)

    def _look_again(self) -> None:
        self._later = None
        self._share_out()

    def _recall(self) -> None:
        now_s = time.monotonic()
        coming = len(self._recalled) + self._limit - len(self._open)
        for waiter in self._waiting:
            if now_s - waiter.since_s < _PATIENCE_S:
                return  # those behind have waited less
            if self._idle[waiter.holder]:
                continue
            coming -= 1
            if coming >= 0:
                continue
            of_others = (
                next(iter(idle.values()))
                for holder, idle in self._idle.items()
                if holder is not waiter.holder and idle
            )
            for connection in sorted(of_others, key=lambda one: one.idle_s):
                if connection.holder is not None and self._may_take(connection, waiter, now_s):
                    del self._idle[connection.holder][connection.number]
                    self._recalled.add(connection.number)
                    connection.holder.recall(connection.number)
                    break

    def _may_take(self, idle: _Connection, waiter: _Waiter, now_s: float) -> bool:
        more = self._held[idle.holder] - self._held[waiter.holder]
        if now_s - idle.idle_s >= _PATIENCE_S or more > 1:
            return True
        return not self._held[waiter.holder] and now_s - waiter.since_s >= _TURN_S
