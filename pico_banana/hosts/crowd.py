"""Find how many connections a host takes at once, where it refuses some beside good answers."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from pico_banana.hosts.answers import Lease

__all__ = ["Crowd", "Refusal"]

_LATELY_S, _ROUNDS = 10.0, 256
_BY_CHANCE, _SEEN_LATE = 8, 8


class _UnderWay(NamedTuple):
    granted_s: float
    is_first: bool  # of its connection


@dataclass(eq=False)
class Refusal:
    """A fresh connection that never answered, and what came of the requests beside it.

    Attributes:
        granted_s: when its request began.
        beside: connections of requests that were under way with it and have not ended.
        is_beside_good: whether one of them was answered well, or another lately.
        has_lowered: whether the limit came down by it.
    """

    granted_s: float
    beside: set[int]
    is_beside_good: bool
    has_lowered: bool

    def ended(self, number: int, *, is_good: bool) -> None:
        """Note the end of a request that was under way beside it."""
        self.is_beside_good |= is_good and number in self.beside
        self.beside.discard(number)

    @property
    def is_of_crowd(self) -> bool | None:
        """Whether there were too many at once; None while that is not known."""
        if not self.has_lowered or self.is_beside_good:
            return self.has_lowered
        return None if self.beside else False


class Crowd:
    """How many connections a host takes at once: fewer where it refuses some beside good answers.

    A server with a limit refuses, or resets, each connection beyond it, and answers the others. So
    the limit comes down to what is open beside one that was refused. Not where so many were all
    answered lately: that is a network that resets at random, which must not drive it down to one.
    It rises by one a round of answers until one more is refused, then after a time that doubles.
    It is pure: it is told the time.

    Args:
        most: the budget.
        recovery_s: the longest time until one more is tried again.

    Attributes:
        limit: how many connections there may be now.
    """

    def __init__(self, most: int, recovery_s: float) -> None:
        self._most, self._recovery_s = most, recovery_s
        self._first_step_s, self._step_s = recovery_s / most, 0.0
        self._under_way: dict[int, _UnderWay] = {}
        self._newest = -1
        self._good_s = float("-inf")
        self._undecided: list[Refusal] = []
        # Of the round since the last change or refusal: good answers, and requests at once.
        self._answers = self._at_once = 0
        self._refusals = self._goods = 0  # since the last round without a refusal
        self._whole: deque[tuple[float, int]] = deque(maxlen=_ROUNDS)
        self._changed_s = float("-inf")
        self._has_risen = self._is_said = False
        self._before: int | None = None
        self.limit = most

    def began(self, lease: Lease) -> None:
        """Note that a request begins; numbers of connections ascend."""
        self._under_way[lease.number] = _UnderWay(lease.granted_s, lease.number > self._newest)
        self._newest = max(self._newest, lease.number)

    def ended(self, lease: Lease, now_s: float, *, is_good: bool) -> str | None:
        """Note the end of a request; return in words what is known by it, None where nothing is."""
        self._end(lease, is_good=is_good)
        self._settle()
        if not is_good:
            return None
        self._good_s = now_s
        if self._before is not None and not self._undecided:
            # It was down when it refused all, and is well again.
            self.limit, self._before = self._before, None
        self._answers += 1
        self._goods += 1
        self._at_once = max(self._at_once, len(self._under_way) + 1)
        return self._round(now_s) if self._answers >= self.limit else None

    def has_older(self, at_s: float) -> bool:
        """Whether a request is under way that began before a time."""
        return any(request.granted_s < at_s for request in self._under_way.values())

    def refused(self, lease: Lease, others: int, now_s: float) -> Refusal:
        """Note that a fresh connection never answered.

        Args:
            lease: its lease; the request has not ended yet.
            others: connections that are open beside it.
            now_s: the time.
        """
        request = self._end(lease, is_good=False)
        self._answers = self._at_once = 0
        were_fine = max((most for at, most in self._whole if now_s - at < _LATELY_S), default=1)
        self._refusals += 1
        if self._refusals >= _BY_CHANCE and self._refusals > self._goods:
            # Not by chance any more: an answer's end is seen here later than there, so some fewer
            # were really at once.
            were_fine = max(were_fine - max(were_fine // _SEEN_LATE, 1), 1)
            self._refusals = self._goods = 0
            self._whole = deque([(now_s, were_fine)], maxlen=_ROUNDS)
        is_beside_good = now_s - self._good_s < _LATELY_S
        has_lowered = were_fine <= others < self.limit
        if has_lowered:
            if not is_beside_good and self._before is None:
                self._before = self.limit
            self._lower(others, now_s, has_tried=self._has_risen and request.is_first)
        refusal = Refusal(lease.granted_s, {*self._under_way}, is_beside_good, has_lowered)
        self._undecided.append(refusal)
        self._settle()
        return refusal

    def _lower(self, limit: int, now_s: float, *, has_tried: bool) -> None:
        if has_tried:
            longer_s = max(2 * self._step_s, self._first_step_s)
            self._step_s = min(longer_s, self._recovery_s)
        self._has_risen = False
        self._change(limit, now_s)

    def _end(self, lease: Lease, *, is_good: bool) -> _UnderWay:
        for refusal in self._undecided:
            refusal.ended(lease.number, is_good=is_good)
        return self._under_way.pop(lease.number)

    def _settle(self) -> None:
        if any(refusal.is_of_crowd for refusal in self._undecided):
            self._before = None
        self._undecided = [refusal for refusal in self._undecided if refusal.is_of_crowd is None]

    def _round(self, now_s: float) -> str | None:
        """Note a round in which nothing was refused, and allow one more where it is time."""
        self._whole.append((now_s, min(self._at_once, self.limit)))
        self._answers = self._at_once = self._refusals = self._goods = 0
        if self.limit == self._most or now_s - self._changed_s < self._step_s:
            return None
        said = None
        if self._has_risen:
            self._step_s = 0.0  # the one before was taken
        elif self._step_s > self._first_step_s and not self._is_said:  # refused twice
            self._is_said = True
            said = f"takes about {self.limit} connections at once: no more are opened"
        self._change(self.limit + 1, now_s)
        self._has_risen = True
        return said

    def _change(self, limit: int, now_s: float) -> None:
        self.limit, self._changed_s = limit, now_s
        self._answers = self._at_once = 0
