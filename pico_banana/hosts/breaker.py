"""Tell a host's trouble from an image's own: a host that is down, denies, or answers oddly.

All of it is pure: it is told the time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from pico_banana.hosts.rate import Rate
from pico_banana.missing import MissingReason
from pico_banana.settings import FetchPolicy

__all__ = ["Breaker", "Denials", "OddRun", "Oddities"]


class Breaker:
    """Breaks off asking a host that fails all it is asked: for a while, longer, then for good.

    Attributes:
        opens_s: when it may be asked again.
        is_open: whether one request must first show that the host is well.
        is_odd: whether the break is over odd answers, which only an image or an absence ends.
        reason: why the last request failed, once it is given up for good; else None.
        over: what it is broken off over, in words.
    """

    def __init__(self, policy: FetchPolicy) -> None:
        self._policy = policy
        self._failures = self._pauses = 0
        self._first_s = float("-inf")
        self.opens_s = float("-inf")
        self.is_open = self.is_odd = False
        self.reason: MissingReason | None = None
        self.over = ""

    def well(self, *, is_sure: bool = False) -> bool:
        """Note an answer, `is_sure` one as it should be; return whether it ends a break."""
        if self.is_odd and not is_sure:
            return False
        was_open, self.is_open, self.is_odd = self.is_open, False, False
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
        return self._pause(
            f"failed all of the last {self._failures} requests ({reason.value})", reason, now_s
        )

    def odd(self, images: int, answer: str, now_s: float) -> str | None:
        """Note that the host answers all images oddly; return in words what changes by it."""
        if self.is_open and now_s < self.opens_s:
            return None  # it was under way when the break began
        self.is_odd = True
        return self._pause(
            f"answered {images} images running as a login page or a proxy would ({answer})",
            MissingReason.SERVER_ERROR,
            now_s,
        )

    def _pause(self, what: str, reason: MissingReason, now_s: float) -> str:
        self.over = what
        if self._pauses == self._policy.breaker_pauses:
            self.reason = reason
            return (
                f"{what}, through {self._pauses} pauses: given up for this run; its images count "
                "as missing"
            )
        pause_s = self._policy.breaker_pause_s * 2**self._pauses
        self._pauses += 1
        self.is_open, self.opens_s = True, now_s + pause_s
        return f"{what}: not asked for {pause_s:,.0f} s"


_BURST, _BURST_OF, _BURST_S = 5, 20, 60.0


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

    @property
    def enough(self) -> int:
        """How many answers there will be when a burst would have shown itself."""
        return self.answers + _BURST_OF

    @property
    def patience_s(self) -> float:
        """How long a burst takes to show itself at a slow host's pace."""
        return _BURST * self._rate.interval_s

    def _within_s(self) -> float:
        """A minute, or as long as these answers take at a slow host's pace, and as long again."""
        return max(_BURST_S, 2 * _BURST_OF * self._rate.interval_s)


_ODD_OF_ALL, _ODD_MANY, _ODD_ENOUGH = 5, 20, 100
_GOOD = 256


@dataclass
class OddRun:
    """Images that a host answered alike and oddly, with no good answer between them.

    Attributes:
        began_s: when the first of them was answered.
        images: how many they are.
        are_first: whether there was no good answer before them.
        is_over: whether an answer as it should be has come since.
    """

    began_s: float
    are_first: bool
    images: int = 0
    is_over: bool = False

    @property
    def are_all(self) -> bool:
        """Whether they are all that was asked until then, and more than chance may bring."""
        return self.are_first and self.images >= _ODD_OF_ALL

    @property
    def are_many(self) -> bool:
        """Whether so many mean the host, unless what was asked before them is answered well."""
        return self.images >= _ODD_MANY

    @property
    def are_enough(self) -> bool:
        """Whether so many mean the host, whatever is still under way."""
        return self.images >= _ODD_ENOUGH


class Oddities:
    """Tells a host that answers oddly whatever it is asked from an odd image.

    Answers are told apart: a login page answers alike for all images.
    """

    def __init__(self) -> None:
        self._runs: dict[str, OddRun] = {}
        self._good: deque[tuple[float, float]] = deque(maxlen=_GOOD)

    def note_good(self, began_s: float, now_s: float) -> None:
        """Note an answer as it should be, and when it was asked for."""
        self._good.append((began_s, now_s))
        for run in self._runs.values():
            run.is_over = True
        self._runs.clear()

    def note_odd(self, answer: str, now_s: float) -> OddRun:
        """Note an image that was answered oddly for the last time that it is tried."""
        run = self._runs.setdefault(answer, OddRun(now_s, are_first=not self._good))
        run.images += 1
        return run

    def was_well(self, at_s: float) -> bool:
        """Whether the host is known to have answered well what it was asked at a time."""
        return any(began_s < at_s <= ended_s for began_s, ended_s in self._good)
