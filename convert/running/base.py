"""Say what a runner is: what carries a plan's tasks out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from pico_banana.hosts.traffic import Traffic

from ..output.ledger import ShardLedger
from ..planning.task import ShardTask
from ..screen import Counts

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["TICK_S", "Runner"]

TICK_S = 0.25
"""How often a runner that waits says so, in seconds."""


class Runner(Protocol):
    """What carries a plan's tasks out: a context manager.

    Attributes:
        workers: how many tasks are carried out at once.
    """

    workers: int

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(self, *_: object) -> None:
        """End what is under way; it leaves no file under its final name."""

    @property
    def traffic(self) -> Traffic:
        """What the hosts were asked; complete once the runner has ended."""

    @property
    def counts(self) -> Counts:
        """What has been done so far."""

    def run(self, tasks: Iterator[ShardTask]) -> Iterator[ShardLedger | None]:
        """Yield the ledger of each finished shard as it comes, and None every now and then."""
