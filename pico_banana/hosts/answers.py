"""What a host is asked and answers: leases of its connections, and what an answer says of it."""

from __future__ import annotations

import enum
from typing import NamedTuple

from pico_banana.missing import MissingReason

__all__ = ["Answer", "Doubt", "Lease", "Outcome"]


class Outcome(str, enum.Enum):
    """How a request went, as far as its host is concerned."""

    OK = "ok"  # an answer of a host that is well; 404 is one
    THROTTLED = "throttled"
    DENIED = "denied"  # 403: alone the image's own matter, in a burst the host's
    # A fresh connection that never answered: too many at once, or a host that is down. It is
    # closed, and its lease given back.
    REFUSED = "refused"
    FAILED = "failed"
    UNKNOWN = "unknown"  # broken off by ourselves: nothing is known


class Doubt(str, enum.Enum):
    """What may be the image's own matter or its host's, as others' answers show."""

    DENIED = "denied"  # 403
    ODD = "odd"  # neither an image nor word that there is none
    ODD_AGAIN = "odd_again"  # of an image of which it was no reason before


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
    """The right to make one request to a host, over one of its connections, and since when.

    Attributes:
        host: as `host_of` names it.
        number: the connection's; the next request over it has the same.
        granted_s: when it may begin.
    """

    host: str
    number: int
    granted_s: float
