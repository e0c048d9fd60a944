"""Keep one host's pace: connections, rate, pauses and breaks, as its answers ask for."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator

from pico_banana.hosts.answers import Answer, Doubt, Lease, Outcome
from pico_banana.hosts.bound import Holder, OpenConnections
from pico_banana.hosts.breaker import Breaker, Denials, Oddities, OddRun
from pico_banana.hosts.crowd import Crowd, Refusal
from pico_banana.hosts.rate import Rate
from pico_banana.missing import GivenUpError, MissingReason
from pico_banana.settings import FetchPolicy, HostBudget

__all__ = ["Pace"]

_CATCH_UP_S = 0.05
"""A pace that fell behind because a timer was late may catch up by so much, and no more."""
_TOLD_PAUSE_S = 5.0
_MOMENT_S = 0.25
"""Who asks a host for many images asks for the next one within this time."""


class Pace:
    """One host's connections, rate, pauses and breaker; for one event loop.

    Args:
        host: as `host_of` names it.
        budget: what it may be asked at most.
        policy: how it slows down, breaks off and recovers.
        say: told what a person should know of the host.
        numbers: gives each connection its number.
    """

    def __init__(
        self,
        host: str,
        budget: HostBudget,
        policy: FetchPolicy,
        say: Callable[[str], None],
        numbers: Iterator[int],
    ) -> None:
        self._host, self._policy, self._say = host, policy, say
        self._crowd = Crowd(budget.connections, policy.recovery_s)
        self._connections = OpenConnections(self._crowd.limit, numbers)
        self._refusals: dict[int, Refusal] = {}
        self._turn = asyncio.Lock()
        self._asked = 0
        self._next_s = 0.0
        self._probe: int | None = None
        self._told: set[str] = set()
        self._changed = asyncio.Event()
        self.rate = Rate(budget, policy.recovery_s)
        self._denials, self._oddities = Denials(self.rate), Oddities()
        self._breaker = Breaker(policy)

    def begin(self) -> None:
        """Ask again what was given up: a new run begins."""
        if self._breaker.reason is not None:
            self._breaker, self._oddities = Breaker(self._policy), Oddities()

    async def acquire(self, holder: Holder | None = None) -> Lease:
        """Wait until one more request may begin; `GivenUpError` where none may any more."""
        if error := self._given_up():
            raise error
        self._asked += 1
        try:
            number = await self._connections.take(holder)
            try:
                async with self._turn:
                    await self._wait()
            except BaseException:
                self._connections.give_back(number)
                raise
        except BaseException:
            self._asked -= 1
            self._changed.set()
            raise
        lease = Lease(self._host, number, time.monotonic())
        if self._breaker.is_open:
            self._probe = lease.number
        self.rate.granted(lease.granted_s)
        self._crowd.began(lease)
        return lease

    def _given_up(self) -> GivenUpError | None:
        if self._breaker.reason is None:
            return None
        detail = f"{self._host} is given up for this run: it {self._breaker.over}"
        return GivenUpError(self._breaker.reason, detail)

    async def _wait(self) -> None:
        catch_up_s = 0.0
        # Looked at again after each wait: meanwhile the host may have asked for a pause.
        while True:
            if error := self._given_up():
                raise error
            wait_s = max(self._next_s, self._breaker.opens_s) - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
                catch_up_s = min(self.rate.interval_s, _CATCH_UP_S)
            elif self._breaker.is_open and self._probe is not None:
                await self._change()
            else:
                break
        earliest_s = time.monotonic() - catch_up_s
        self._next_s = max(self._next_s, earliest_s) + self.rate.interval_s

    async def _change(self) -> None:
        """Wait until the host has answered once more, in whatever way."""
        self._changed.clear()
        await self._changed.wait()

    def release(self, lease: Lease, answer: Answer) -> None:
        """Note that a request is over, and draw from its answer what the next ones may do."""
        self._asked -= 1
        now_s = time.monotonic()
        is_probe = lease.number == self._probe
        if is_probe:
            self._probe = None
        outcome = self._judged(answer.outcome, now_s, is_probe=is_probe)
        if outcome is Outcome.REFUSED:
            outcome = self._refused(lease, now_s)
        else:
            self._tell(self._crowd.ended(lease, now_s, is_good=outcome is Outcome.OK))
            self._connections.set_limit(self._crowd.limit)
            self._connections.give_back(lease.number)
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
            self._well(is_sure=False)
        elif outcome in (Outcome.THROTTLED, Outcome.FAILED):
            reason = answer.reason or MissingReason.THROTTLED
            if not reason.is_transient:  # a 403 that is one of a burst
                reason = MissingReason.THROTTLED
            self._failed(reason, lease.granted_s, is_probe=is_probe)
        if answer.hint and answer.hint not in self._told:
            self._told.add(answer.hint)
            self._say(f"{self._host}: {answer.hint}")
        self._changed.set()

    def closed(self, number: int) -> None:
        """Note that a connection is closed."""
        self._connections.close(number)

    def leave(self, holder: Holder) -> None:
        """Note that a holder has ended, and with it its connections."""
        self._connections.leave(holder)

    def _refused(self, lease: Lease, now_s: float) -> Outcome:
        """What a connection that never answered says: the host is down, or it is not known yet."""
        refusal = self._crowd.refused(lease, len(self._connections) - 1, now_s)
        self._refusals[lease.number] = refusal
        # The limit first: else what is closed would be opened again.
        self._connections.set_limit(self._crowd.limit)
        self._connections.close(lease.number)
        # The breaker is for hosts that answer nothing.
        is_down = refusal.is_of_crowd is False and not refusal.is_beside_good
        return Outcome.FAILED if is_down else Outcome.UNKNOWN

    def _failed(self, reason: MissingReason, granted_s: float, *, is_probe: bool) -> None:
        now_s = time.monotonic()
        self._broken_off(self._breaker.failed(reason, granted_s, now_s, is_probe=is_probe))

    def _broken_off(self, said: str | None) -> None:
        self._tell(said)
        if error := self._given_up():
            self._connections.fail(error)

    def _judged(self, outcome: Outcome, now_s: float, *, is_probe: bool) -> Outcome:
        """The outcome, with a burst of 403 as what it is."""
        is_denied = outcome is Outcome.DENIED
        if outcome is not Outcome.UNKNOWN:
            self._denials.note(now_s, is_denied=is_denied)
        if is_denied and (is_probe or self._denials.is_burst(now_s)):
            return Outcome.THROTTLED
        return outcome

    def _well(self, *, is_sure: bool) -> None:
        if self._breaker.well(is_sure=is_sure):
            self._say(f"{self._host} answers again")

    def _tell(self, said: str | None) -> None:
        if said is not None:
            self._say(f"{self._host} {said}")

    def note_good(self, ago_s: float) -> None:
        """Note an answer as it should be, an image or that there is none, asked for so long ago."""
        now_s = time.monotonic()
        self._oddities.note_good(now_s - ago_s, now_s)
        self._well(is_sure=True)
        self._changed.set()

    async def is_hosts_fault(self, doubt: Doubt, answer: str) -> bool:
        """Return whether what failed is the host's matter, and no reason to do without the image.

        Waits for other answers of the host where they decide. `answer` says what came, in words.
        """
        if doubt is Doubt.DENIED:
            return await self._is_burst()
        return await self._is_odd(answer, again=doubt is Doubt.ODD_AGAIN)

    async def is_crowded(self, number: int) -> bool:
        """Return whether a connection was refused since there were too many at once.

        Waits for the requests beside it, which decide.
        """
        refusal = self._refusals.pop(number)
        was_known = refusal.is_of_crowd is not None
        while refusal.is_of_crowd is None:
            await self._change()
        if not (was_known or refusal.is_of_crowd or refusal.is_beside_good):
            self._failed(MissingReason.CONNECTION, refusal.granted_s, is_probe=False)
        return refusal.is_of_crowd

    async def _is_burst(self) -> bool:
        """Wait for some more answers, a moment at most: at its first 403 nobody can know."""
        # As long as a new request would wait, and some; where the pace is slow, answers are rare.
        patience_s = 4 * self._policy.backoff_s + self._denials.patience_s
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._enough_answers(), patience_s)
        return self._denials.is_burst(time.monotonic())

    async def _enough_answers(self) -> None:
        enough = self._denials.enough
        while self._denials.answers < enough and not self._denials.is_burst(time.monotonic()):
            await self._change()

    async def _is_odd(self, answer: str, *, again: bool) -> bool:
        """Wait until the host answers as it should, or is seen not to."""
        at_s = time.monotonic()
        run = self._oddities.note_odd(answer, at_s)
        if self._is_broken_off():
            return self._break_off(answer, run)
        while not self._oddities.was_well(at_s):
            if self._is_broken_off():
                return True
            if run.is_over and (again or not run.are_all):
                return False
            is_known = run.is_over or run.are_many
            since_s = at_s if run.is_over else run.began_s
            if is_known and (run.are_enough or not self._crowd.has_older(since_s)):
                await asyncio.sleep(_MOMENT_S)  # what has just come is still looked at
                if self._oddities.was_well(at_s):
                    return False
                if self._is_broken_off():
                    return True
                # If it seems to be well since, it is worth another try.
                return not again if run.is_over else self._break_off(answer, run)
            if is_known:
                await self._change()
            elif not await self._is_asked_more():
                return run.are_all and self._break_off(answer, run)
        return False

    def _is_broken_off(self) -> bool:
        return self._breaker.is_odd or self._breaker.reason is not None

    def _break_off(self, answer: str, run: OddRun) -> bool:
        if self._breaker.reason is None:
            now_s = time.monotonic()
            self._broken_off(self._breaker.odd(run.images, answer, now_s))
            self._changed.set()
        return True

    async def _is_asked_more(self) -> bool:
        """Wait for the next change; return whether there was one, or requests are under way."""
        try:
            await asyncio.wait_for(self._change(), None if self._asked else _MOMENT_S)
        except asyncio.TimeoutError:
            return self._asked > 0
        return True
