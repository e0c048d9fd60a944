"""How often a host is asked: its budget, halved when it asks for less, and slowly back."""

from __future__ import annotations

from collections import deque

from pico_banana.settings import HostBudget

__all__ = ["Rate"]

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
