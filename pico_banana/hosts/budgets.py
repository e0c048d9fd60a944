"""Keep each host's budget: connections at once, pace, pauses, for all who fetch in one process."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import Literal, Protocol
from urllib.parse import urlsplit

from pico_banana.hosts.answers import Answer, Doubt, Lease, Outcome
from pico_banana.hosts.bound import Holder
from pico_banana.hosts.pace import Pace
from pico_banana.hosts.traffic import Traffic
from pico_banana.missing import MissingReason
from pico_banana.settings import FetchPolicy

__all__ = ["FILES", "NOWHERE", "Budgets", "Fate", "HostBudgets"]

FILES, NOWHERE = "local files", "no place to try"
"""What is no host, and yet has its traffic."""

Fate = Literal["got", "again", "missing"]
"""What became of an image, or of one request for it."""


class Budgets(Protocol):
    """What the fetch engine asks before and tells after each request."""

    def begin(self) -> None:
        """Note that a new run begins: a host that was given up may be asked again."""

    async def acquire(self, host: str) -> Lease:
        """Wait until one more request to the host may begin.

        Raises:
            GivenUpError: the host is not asked any more in this run.
        """

    def release(self, lease: Lease, answer: Answer) -> None:
        """Say that the request is over, and what it came to; its connection stays leased."""

    def on_recall(self, close: Callable[[Lease], None]) -> None:
        """Set what is called where others want a connection that is idle; then say `closed`."""

    def closed(self, lease: Lease) -> None:
        """Give a connection back: it is closed."""

    async def is_hosts_fault(self, host: str, doubt: Doubt, answer: str) -> bool:
        """Return whether what failed is the host's matter, and no reason to do without the image.

        Waits for other answers of the host where they decide. `answer` says what came, in words.
        """

    async def is_crowded(self, lease: Lease) -> bool:
        """Return whether a connection was refused since there were too many at once.

        Waits for the requests beside it, which decide.
        """

    def count(
        self, host: str, fate: Fate, reason: MissingReason | None = None, ago_s: float = 0.0
    ) -> None:
        """Count what became of an image, or of one request for it: got, again or missing.

        `ago_s` is how long ago it was asked for.
        """

    def count_file(self, duration_s: float, size_bytes: int) -> None:
        """Count a local file that was read."""

    async def close(self) -> None:
        """Let go of whatever is held."""


class HostBudgets:
    """The budgets of all hosts, for one event loop; not safe for use in several threads.

    Args:
        policy: budgets of hosts, and how they are kept.
        say: told what a person should know of a host; None logs it.

    Attributes:
        traffic: what was asked so far, by host.
    """

    def __init__(self, policy: FetchPolicy, say: Callable[[str], None] | None = None) -> None:
        self._policy = policy
        self._say = say or logging.getLogger("pico_banana").warning
        self._hosts: dict[str, Pace] = {}
        self._numbers = itertools.count()
        self.traffic = Traffic()

    def _host(self, host: str) -> Pace:
        if host not in self._hosts:
            name = urlsplit(host).hostname or ""
            budget = self._policy.budget_of(name)
            self._hosts[host] = Pace(host, budget, self._policy, self._say, self._numbers)
        return self._hosts[host]

    def begin(self) -> None:
        """Note that a new run begins: a host that was given up may be asked again."""
        for pace in self._hosts.values():
            pace.begin()

    async def acquire(self, host: str, holder: Holder | None = None) -> Lease:
        """Wait until one more request to the host may begin; None as holder is this process."""
        return await self._host(host).acquire(holder)

    def release(self, lease: Lease, answer: Answer) -> None:
        """Say that the request is over, and what it came to; its connection stays leased."""
        pace = self._host(lease.host)
        pace.release(lease, answer)
        traffic = self.traffic[lease.host]
        traffic.slowed = pace.rate.slowed
        # A lease that came back at once was not used.
        if answer.outcome is not Outcome.UNKNOWN or answer.duration_s:
            traffic.request(answer.duration_s, answer.size_bytes)

    def on_recall(self, close: Callable[[Lease], None]) -> None:
        """Nothing: within one process nobody wants another's connections."""

    def closed(self, lease: Lease) -> None:
        """Give a connection back: it is closed."""
        self._host(lease.host).closed(lease.number)

    def leave(self, holder: Holder) -> None:
        """Take back the connections of a holder that has ended."""
        for pace in self._hosts.values():
            pace.leave(holder)

    async def is_hosts_fault(self, host: str, doubt: Doubt, answer: str) -> bool:
        """Return whether what failed is the host's matter, and no reason to do without the image.

        Waits for other answers of the host where they decide. `answer` says what came, in words.
        """
        return await self._host(host).is_hosts_fault(doubt, answer)

    async def is_crowded(self, lease: Lease) -> bool:
        """Return whether a connection was refused since there were too many at once.

        Waits for the requests beside it, which decide.
        """
        return await self._host(lease.host).is_crowded(lease.number)

    def count(
        self, host: str, fate: Fate, reason: MissingReason | None = None, ago_s: float = 0.0
    ) -> None:
        """Count what became of an image, or of one request for it: got, again or missing.

        `ago_s` is how long ago it was asked for.
        """
        traffic = self.traffic[host]
        if reason is None:
            traffic.got += 1
        else:
            (traffic.again if fate == "again" else traffic.missing)[reason.value] += 1
        if host in self._hosts and (reason is None or not (reason.is_transient or reason.is_odd)):
            self._hosts[host].note_good(ago_s)

    def count_file(self, duration_s: float, size_bytes: int) -> None:
        """Count a local file that was read."""
        self.traffic[FILES].request(duration_s, size_bytes)

    async def close(self) -> None:
        """Nothing: connections are closed by who made them."""
