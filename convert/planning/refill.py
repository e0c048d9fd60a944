"""Say which finished shards are made anew, to try again what is missing in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pico_banana.missing import MissingReason

from ..options import RefillScope
from ..output.ledger import ShardLedger

__all__ = ["Refill", "refills_of", "told"]


# A reason that this version does not know is tried again: nothing says that it lasts.
_LASTING = {reason.value for reason in MissingReason if not reason.is_transient}


@dataclass(frozen=True)
class Refill:
    """A finished shard that is made anew, to try again what is missing in it.

    Attributes:
        ledger: what the shard is now.
        every: whether every missing image is tried again, or only those of transient reasons.
    """

    ledger: ShardLedger
    every: bool

    @property
    def images(self) -> int:
        """How many missing images are tried again; a shard of 0 is left as it is."""
        return sum(self.is_tried(image) for entry in self.ledger.missing for image in entry.images)

    def is_tried(self, image: dict[str, Any]) -> bool:
        """Return whether a missing image, one of an entry's `images`, is tried again."""
        return self.every or image["reason"] not in _LASTING


def refills_of(finished: Sequence[ShardLedger], scope: RefillScope | None) -> dict[str, Refill]:
    """Return by name the finished shards in which something is tried again; None tries nothing."""
    if scope is None:
        return {}
    found = [Refill(ledger, every=scope == "all") for ledger in finished]
    return {refill.ledger.shard: refill for refill in found if refill.images}


def told(refills: Sequence[Refill], scope: RefillScope) -> str:
    """Return in words what is tried again."""
    if refills:
        images = sum(refill.images for refill in refills)
        return f"trying missing images again: images {images:,}, shards {len(refills):,}"
    if scope == "all":
        return "nothing to try again: no finished shard has a missing image"
    return (
        "nothing to try again: no finished shard has an image that is missing for a transient "
        "reason; --retry-missing-all tries the others too"
    )
