"""Keep one host's pace: halved when it asks for less, paused when it asks to, broken off when down.

`Rate` and `Breaker` are pure: they are told the time. `Pace` waits, in one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import itertools
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from pico_banana.missing import GivenUpError, MissingReason
from pico_banana.settings import FetchPolicy, HostBudget

__all__ = ["Answer", "Breaker", "Denials", "Lease", "Outcome", "Pace", "Rate"]


class Outcome(str, enum.Enum):
    """How a request went, as far as its host is concerned."""

    OK = "ok"  # an answer of a host that is well; 404 is one
    THROTTLED = "throttled"
    DENIED = "denied"  # 403: alone the image's own matter, in a burst the host's
    FAILED = "failed"
    UNKNOWN = "unknown"  # broken off by ourselves: nothing is known


class Answer(NamedTuple):
    """What a request came to.

    Attributes:
        outcome: see `Outcome`.
        reason: why it failed, None where it did not.
        pause_s: how long the host asked to be left alone.
        duration_s: from the request to the last byte.
        size_bytes: the body's size.
        hint: what a person should know of the host, once.
    """

    outcome: Outcome
    reason: MissingReason | None = None
    pause_s: float = 0.0
    duration_s: float = 0.0
    size_bytes: int = 0
    hint: str = ""


class Lease(NamedTuple):
    """The right to make one request to a host, and since when."""

    host: str
    number: int
    granted_s: float


_CATCH_UP_S = 0.05
"""A pace that fell behind because a timer was late may catch up by so much, and no more."""
_SLOWEST_PER_S, _SLOWEST_SHARE = 0.2, 1 / 16
_MEASURED, _MEASURED_S = 1024, 10.0
_LONGEST_STEP_S = 10.0


class Rate:
    """Requests a second: halved when the host asks for less, raised slowly while it answers well.

    Args:
        budget: what the host may be asked at most.
        recovery_s: the time in which a halved rate is back where it was, if all goes well.

    Attributes:
        per_s: the rate now; None is no limit.
        slowed: how often it was halved.
    """

    def __init__(self, budget: HostBudget, recovery_s: float) -> None:
        self._budget, self._recovery_s = budget, recovery_s
        self._grants: deque[float] = deque(maxlen=_MEASURED)
        self._before = 0.0
        self._changed_s = 0.0
        self._slowed_s = float("-inf")
        self.per_s = budget.requests_per_second
        self.slowed = 0

    @property
    def interval_s(self) -> float:
        """The time between two requests."""
        return 1 / self.per_s if self.per_s else 0.0

    def granted(self, now_s: float) -> None:
        """Note that a request begins."""
        self._grants.append(now_s)

    def slow_down(self, granted_s: float, now_s: float) -> bool:
        """Halve what the host was asked, once for all requests that were under way together.

        Return whether it was whole before.
        """
        if granted_s <= self._slowed_s:
            return False
        budget = self._budget.requests_per_second or float("inf")
        was_whole = self.per_s in (None, budget)
        allowed = self.per_s or budget
        asked = min(self._asked(now_s) or allowed, allowed)
        if asked == float("inf"):
            asked = float(self._budget.connections)
        self._before = max(asked, 0.0 if was_whole else self._before)
        self.per_s = max(asked / 2, min(_SLOWEST_PER_S, budget * _SLOWEST_SHARE))
        self._slowed_s = self._changed_s = now_s
        self.slowed += 1
        return was_whole

    def recover(self, now_s: float) -> None:
        """Raise the rate by what the time since the last change allows, up to the budget."""
        budget = self._budget.requests_per_second
        if self.per_s is None or self.per_s == budget:
            return
        # By equal steps: so it is soon back from far below, and slow where it was too much.
        step_s = min(now_s - self._changed_s, _LONGEST_STEP_S)
        self.per_s += self._before / 2 * step_s / self._recovery_s
        self._changed_s = now_s
        if budget is not None:
            self.per_s = min(self.per_s, budget)
        elif self.per_s > 2 * self._before:  # twice what was too much: no limit holds it back
            self.per_s = None

    def _asked(self, now_s: float) -> float | None:
        """What the host was asked a second lately; often less than it might be.

        None where a run has just begun, which is no measure.
        """
        lately = [at for at in self._grants if now_s - at < _MEASURED_S]
        passed_s = now_s - lately[0] if lately else 0.0
        return len(lately) / passed_s if passed_s >= 1 else None


class Breaker:
    """Breaks off asking a host that fails all it is asked: for a while, longer, then for good.

    Attributes:
        opens_s: when it may be asked again.
        is_open: whether one request must first show that the host is well.
        reason: why the last request failed, once it is given up for good; else None.
    """

    def __init__(self, policy: FetchPolicy) -> None:
        self._policy = policy
        self._failures = self._pauses = 0
        self._first_s = float("-inf")
        self.opens_s = float("-inf")
        self.is_open = False
        self.reason: MissingReason | None = None

    def well(self) -> bool:
        """Note a good answer; return whether it ends a break."""
        was_open, self.is_open = self.is_open, False
        self._failures = self._pauses = 0
        return was_open

    def failed(
        self, reason: MissingReason, granted_s: float, now_s: float, *, is_probe: bool
    ) -> str | None:
        """Note a failure; return in words what changes by it, None where nothing does."""
        if self.is_open and not is_probe:
            return None  # it was under way when the break began
        if not self._failures:
            self._first_s = now_s
        elif granted_s <= self._first_s:
            return None  # what was under way together fails together: that may be a moment's fault
        self._failures += 1
        if not self.is_open and self._failures < self._policy.breaker_failures:
            return None
        failed = f"failed all of the last {self._failures} requests ({reason.value})"
        if self._pauses == self._policy.breaker_pauses:
            self.reason = reason
            return (
                f"{failed}, through {self._pauses} pauses: given up for this run; its images count "
                "as missing"
            )
        pause_s = self._policy.breaker_pause_s * 2**self._pauses
        self._pauses += 1
        self.is_open, self.opens_s = True, now_s + pause_s
        return f"{failed}: not asked for {pause_s:,.0f} s"


_BURST, _BURST_OF, _BURST_S = 5, 20, 60.0
_TOLD_PAUSE_S = 5.0


class Denials:
    """Tells a burst of 403, by which a host throttles, from a lone one: an image's own matter.

    Attributes:
        answers: how many were noted.
    """

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._lately: deque[tuple[float, bool]] = deque(maxlen=_BURST_OF)
        self._burst_s = float("-inf")
        self.answers = 0

    def note(self, now_s: float, *, is_denied: bool) -> None:
        """Note an answer of the host."""
        self._lately.append((now_s, is_denied))
        self.answers += 1
        within_s = self._within_s()
        if sum(denied and now_s - at < within_s for at, denied in self._lately) >= _BURST:
            self._burst_s = now_s

    def is_burst(self, now_s: float) -> bool:
        """Whether a 403 that comes now is one of a burst."""
        # For a while after: the next ones are no longer many, since the pace is slower.
        return now_s - self._burst_s < self._within_s()

    def _within_s(self) -> float:
        """A minute, or as long as these answers take at a slow host's pace, and as long again."""
        return max(_BURST_S, 2 * _BURST_OF * self._rate.interval_s)


class Pace:
    """One host's connections, rate, pauses and breaker; for one event loop.

    Args:
        host: as `host_of` names it.
        budget: what it may be asked at most.
        policy: how it slows down, breaks off and recovers.
        say: told what a person should know of the host.
    """

    def __init__(
        self, host: str, budget: HostBudget, policy: FetchPolicy, say: Callable[[str], None]
    ) -> None:
        self._host, self._policy, self._say = host, policy, say
        self._numbers = itertools.count()
        self._connections = asyncio.Semaphore(budget.connections)
        self._turn = asyncio.Lock()
        self._next_s = 0.0
        self._probe: int | None = None
        self._told: set[str] = set()
        self._answered = asyncio.Event()
        self.rate = Rate(budget, policy.recovery_s)
        self._denials, self._breaker = Denials(self.rate), Breaker(policy)

    def begin(self) -> None:
        """Ask again what was given up: a new run begins."""
        if self._breaker.reason is not None:
            self._breaker = Breaker(self._policy)

    async def acquire(self) -> Lease:
        """Wait until one more request may begin; `GivenUpError` where none may any more."""
        await self._connections.acquire()
        try:
            async with self._turn:
                await self._wait()
        except BaseException:
            self._connections.release()
            raise
        lease = Lease(self._host, next(self._numbers), time.monotonic())
        if self._breaker.is_open:
            self._probe = lease.number
        self.rate.granted(lease.granted_s)
        return lease

    async def _wait(self) -> None:
        catch_up_s = 0.0
        # Looked at again after each wait: meanwhile the host may have asked for a pause.
        while True:
            if self._breaker.reason is not None:
                raise GivenUpError(self._breaker.reason, f"{self._host} is given up for this run")
            wait_s = max(self._next_s, self._breaker.opens_s) - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
                catch_up_s = min(self.rate.interval_s, _CATCH_UP_S)
            elif self._breaker.is_open and self._probe is not None:
                await self._next_answer()
            else:
                break
        earliest_s = time.monotonic() - catch_up_s
        self._next_s = max(self._next_s, earliest_s) + self.rate.interval_s

    async def _next_answer(self) -> None:
        self._answered.clear()
        await self._answered.wait()

    def release(self, lease: Lease, answer: Answer) -> None:
        """Give a request's place back, and draw from its answer what the next ones may do."""
        self._connections.release()
        now_s = time.monotonic()
        is_probe = lease.number == self._probe
        if is_probe:
            self._probe = None
        outcome = answer.outcome
        if outcome is not Outcome.UNKNOWN:
            is_denied = outcome is Outcome.DENIED
            self._denials.note(now_s, is_denied=is_denied)
            if is_denied and (is_probe or self._denials.is_burst(now_s)):
                outcome = Outcome.THROTTLED
        if outcome is Outcome.THROTTLED:
            if self.rate.slow_down(lease.granted_s, now_s):
                self._say(
                    f"{self._host} asks for less: now {self.rate.per_s:,.3g} requests a second"
                )
            self._next_s = max(self._next_s, now_s + self.rate.interval_s)
        if now_s + answer.pause_s > self._next_s + _TOLD_PAUSE_S:
            self._say(f"{self._host} asks to be left alone for {answer.pause_s:,.0f} s")
        self._next_s = max(self._next_s, now_s + answer.pause_s)
        if outcome is Outcome.OK:
            self.rate.recover(now_s)
            if self._breaker.well():
                self._say(f"{self._host} answers again")
        elif outcome in (Outcome.THROTTLED, Outcome.FAILED):
            reason = answer.reason or MissingReason.THROTTLED
            if not reason.is_transient:  # a 403 that is one of a burst
                reason = MissingReason.THROTTLED
            if said := self._breaker.failed(reason, lease.granted_s, now_s, is_probe=is_probe):
                self._say(f"{self._host} {said}")
        if answer.hint and answer.hint not in self._told:
            self._told.add(answer.hint)
            self._say(f"{self._host}: {answer.hint}")
        self._answered.set()

    async def is_burst(self) -> bool:
        """Return whether the 403 that just came is one of a burst.

        Waits for some more answers of the host, a moment at most: at a burst's first 403 nobody
        can know.
        """
        # As long as a new request would wait, and some; where the pace is slow, answers are rare.
        patience_s = 4 * self._policy.backoff_s + _BURST * self.rate.interval_s
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._enough_answers(), patience_s)
        return self._denials.is_burst(time.monotonic())

    async def _enough_answers(self) -> None:
        enough = self._denials.answers + _BURST_OF
        while self._denials.answers < enough and not self._denials.is_burst(time.monotonic()):
            await self._next_answer()
