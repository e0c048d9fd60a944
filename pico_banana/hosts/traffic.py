"""Count what each host was asked and what came of it, so that a run can account for itself."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["HostTraffic", "Traffic"]

_STEP = 1.1
"""Durations are counted in steps of 10%, so that the counts of several runs can be added up."""


@dataclass
class HostTraffic:
    """What one host was asked, and what came of it.

    Attributes:
        asked: requests made, redirects and repetitions too.
        got: images that came.
        size_bytes: bytes that came.
        slowed: how often its pace was halved.
        again: requests that were repeated, by why.
        missing: images that it did not give, by why; another source may have given them.
        durations: requests by their duration: in step n they took about 1.1^n ms.
    """

    asked: int = 0
    got: int = 0
    size_bytes: int = 0
    slowed: int = 0
    again: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    durations: Counter[int] = field(default_factory=Counter)

    def request(self, duration_s: float, size_bytes: int) -> None:
        """Count a request."""
        self.asked += 1
        self.size_bytes += size_bytes
        self.durations[round(math.log(max(duration_s * 1000, 1e-3), _STEP))] += 1

    def duration_s(self, share: float) -> float | None:
        """Return the duration that this share of requests did not exceed, to within 5%.

        The share 0.5 gives the median. None where nothing was asked.
        """
        wanted = max(1, math.ceil(share * self.durations.total()))
        passed = 0
        for step in sorted(self.durations):
            passed += self.durations[step]
            if passed >= wanted:
                return float(_STEP**step / 1000)
        return None

    def add(self, other: HostTraffic) -> None:
        """Add what another run asked the host."""
        for name in ("asked", "got", "size_bytes", "slowed"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("again", "missing", "durations"):
            getattr(self, name).update(getattr(other, name))

    def to_json(self) -> dict[str, Any]:
        """Return a value that JSON can hold; durations as [step, requests] pairs."""
        return {
            "asked": self.asked,
            "got": self.got,
            "size_bytes": self.size_bytes,
            "slowed": self.slowed,
            "again": dict(sorted(self.again.items())),
            "missing": dict(sorted(self.missing.items())),
            "median_s": _rounded(self.duration_s(0.5)),
            "p99_s": _rounded(self.duration_s(0.99)),
            "durations": [[step, self.durations[step]] for step in sorted(self.durations)],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> HostTraffic:
        """Return what `to_json` gave; `KeyError`, `TypeError` or `ValueError` for anything else."""
        return cls(
            asked=int(value["asked"]),
            got=int(value["got"]),
            size_bytes=int(value["size_bytes"]),
            slowed=int(value["slowed"]),
            again=Counter(value["again"]),
            missing=Counter(value["missing"]),
            durations=Counter({int(step): int(count) for step, count in value["durations"]}),
        )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else float(f"{seconds:.3g}")


class Traffic(dict[str, HostTraffic]):
    """Traffic by host; a host comes into being when it is looked at."""

    def __missing__(self, host: str) -> HostTraffic:
        self[host] = HostTraffic()
        return self[host]

    def add(self, others: Iterable[tuple[str, HostTraffic]]) -> None:
        """Add what other runs asked."""
        for host, traffic in others:
            self[host].add(traffic)

    def to_json(self) -> dict[str, Any]:
        """Return a value that JSON can hold, hosts by name."""
        return {host: self[host].to_json() for host in sorted(self)}
