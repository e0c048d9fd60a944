"""Bound the Parquet bytes on a disk: shards are written while others wait to be uploaded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Any

from pico_banana.errors import WorkError

from ..signals import check

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["DiskBudget"]

_LOOK_S = 0.25
_MARGIN = 1.25
_FREE, _ORDER, _TAKEN, _PROMISED, _WAITS = -1, 0, 1, 2, 3
_FIELDS = 4


class DiskBudget:
    """The Parquet bytes that may be on disk at once, shared by all writers of a run.

    Writers take bytes before they write them, and wait where there are none; the run gives them
    back when a file is uploaded and deleted. The writer that began first always finds what it was
    expected to need: else several half-written shards could wait for each other. Safe for threads
    and for the processes that `context` starts. A context manager.

    Args:
        size_bytes: most bytes at once.
        writers: how many shards are written at once at most.
        context: starts the processes that write.
    """

    def __init__(self, size_bytes: int, writers: int, context: BaseContext) -> None:
        self.size_bytes, self._writers = size_bytes, writers
        shared: Any = context
        self._changed = shared.Condition()
        self._used = shared.RawValue("q", 0)
        self._kept = shared.RawValue("q", 0)
        self._orders = shared.RawValue("q", 0)
        self._ratio = shared.RawValue("d", 0)  # of bytes to those expected, the largest so far
        self._state = shared.RawArray("q", [_FREE, 0, 0, 0] * writers)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of what the system shares: where a signal ends the run, nobody else does."""
        del self._changed

    @contextlib.contextmanager
    def writing(self, expected_bytes: float) -> Iterator[Callable[[int], None]]:
        """Give a function that takes bytes for a shard; it waits until they are to be had.

        What a shard took stays taken when it was written, and is given back when writing failed.

        Args:
            expected_bytes: about how large it becomes; what is expected of later ones is scaled
                by what became of earlier ones.

        Raises:
            WorkError: all shards that are being written wait, and none can go on.
        """
        with self._changed:
            place = next(n for n in range(self._writers) if self._of(n, _ORDER) == _FREE)
            self._orders.value += 1
            expected = expected_bytes * (self._ratio.value or 1) * _MARGIN
            self._set(place, self._orders.value, 0, min(int(expected), self.size_bytes))
        is_written = False
        try:
            yield lambda size: self._take(place, size)
            is_written = True
        finally:
            with self._changed:
                taken = self._of(place, _TAKEN)
                self._set(place, _FREE, 0, 0)
                if is_written:
                    ratio = taken / max(1, expected_bytes)
                    self._ratio.value = max(self._ratio.value, ratio)
                else:
                    self._used.value -= taken
                self._changed.notify_all()

    def add(self, size: int, *, is_kept: bool = False) -> None:
        """Count bytes that are on disk already, or will be at once.

        Args:
            size: how many.
            is_kept: whether they stay until a shard is written that waits for none of them.
        """
        with self._changed:
            self._used.value += size
            self._kept.value += size if is_kept else 0

    def give_back(self, size: int, *, is_kept: bool = False) -> None:
        """Give back the bytes of a file that was deleted; `is_kept` as it was added."""
        with self._changed:
            self._used.value -= size
            self._kept.value -= size if is_kept else 0
            self._changed.notify_all()

    def _take(self, place: int, size: int) -> None:
        with self._changed:
            while not self._may_take(place, size):
                self._state[place * _FIELDS + _WAITS] = 1
                self._refuse_standstill(place)
                self._changed.wait(_LOOK_S)
                check()
            self._state[place * _FIELDS + _WAITS] = 0
            self._state[place * _FIELDS + _TAKEN] += size
            self._used.value += size

    def _may_take(self, place: int, size: int) -> bool:
        oldest = self._oldest()
        kept = 0
        if oldest != place:
            kept = max(0, self._of(oldest, _PROMISED) - self._of(oldest, _TAKEN))
        return bool(self._used.value + size + kept <= self.size_bytes)

    def _refuse_standstill(self, place: int) -> None:
        """Nobody goes on where all writers wait and no whole file is there to be uploaded."""
        begun = [n for n in range(self._writers) if self._of(n, _ORDER) != _FREE]
        taken = sum(self._of(n, _TAKEN) for n in begun)
        nobody_uploads = self._used.value - self._kept.value <= taken
        is_stuck = nobody_uploads and all(self._of(n, _WAITS) for n in begun)
        if is_stuck and place == self._oldest():
            raise WorkError(
                "--disk-budget must hold the shards that are written at once, and of one made anew "
                f"the old file too, but {len(begun)} of them fill its "
                f"{self.size_bytes / 1e6:,.1f} MB before any is whole; give a larger "
                "--disk-budget or fewer --workers, and run the same command again to continue"
            )

    def _oldest(self) -> int:
        begun = [n for n in range(self._writers) if self._of(n, _ORDER) != _FREE]
        return min(begun, key=lambda n: self._of(n, _ORDER))

    def _of(self, place: int, field: int) -> int:
        return int(self._state[place * _FIELDS + field])

    def _set(self, place: int, order: int, taken: int, promised: int) -> None:
        begin = place * _FIELDS
        self._state[begin : begin + _FIELDS] = [order, taken, promised, 0]
