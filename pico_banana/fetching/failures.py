"""Decide by what failed so far whether a place is asked for an image again."""

from __future__ import annotations

from collections import Counter

from pico_banana.missing import MissingReason
from pico_banana.settings import FetchPolicy

__all__ = ["Failures"]


class Failures:
    """What failed so far of one image at one place."""

    def __init__(self, policy: FetchPolicy) -> None:
        self._policy = policy
        self._reasons: Counter[MissingReason] = Counter()
        self._seen: set[str] = set()
        self._forgiven = 0

    @property
    def count(self) -> int:
        """How many failures there were."""
        return self._reasons.total()

    def forgive(self) -> bool:
        """Return whether a refusal, as of one too many, is no failure.

        Not where other tries fail alike: then it is this image that its host refuses.
        """
        if self._forgiven or self._reasons[MissingReason.CONNECTION]:
            return False
        self._forgiven = 1
        return True

    def judge(self, reason: MissingReason, sha256: str) -> tuple[MissingReason, bool]:
        """Note a failure; return its reason, and whether it is the last try."""
        if reason is MissingReason.TRUNCATED and sha256 in self._seen:
            # The same bytes twice, each time whole: it was published like that.
            return MissingReason.CORRUPT, True
        self._seen |= {sha256} - {""}
        self._reasons[reason] += 1
        if reason is MissingReason.CONNECTION:
            self._reasons[reason] += self._forgiven
            self._forgiven = 0
        if reason.retries is None:
            return reason, self.count > self._policy.retries
        return reason, self._reasons[reason] > reason.retries
