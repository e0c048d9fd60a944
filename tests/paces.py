"""Hold what a server was asked against a pace, also on a machine that is busy."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence

from tests.fake_cdn import Request

_NAP_S = 0.005


class Stalls:
    """How late this process came to run at most, in seconds."""

    longest_s = 0.0


@contextlib.contextmanager
def watched_stalls() -> Iterator[Stalls]:
    """Watch how long this process has to wait for its turn."""
    found, end = Stalls(), threading.Event()

    def watch() -> None:
        while True:
            before = time.monotonic()
            if end.wait(_NAP_S):
                return
            late = time.monotonic() - before - _NAP_S
            found.longest_s = max(found.longest_s, late)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        end.set()
        watcher.join()


def most_above_pace(requests: Sequence[Request], rate: float, stalls: Stalls) -> float:
    """By how many requests the busiest window of a log exceeds 1.1 · rate · its length.

    A request may have been noted so much later than it was sent as the process waited for its turn.
    """
    return above_pace(sorted(request.started for request in requests), rate, stalls)


def above_pace(times: Sequence[float], rate: float, stalls: Stalls) -> float:
    """The same of times that ascend."""
    return max(
        last - first + 1 - 1.1 * rate * (times[last] - times[first] + 2 * stalls.longest_s)
        for first in range(len(times))
        for last in range(first, len(times))
    )
