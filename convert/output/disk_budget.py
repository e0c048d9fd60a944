"""Bound the Parquet bytes on a disk: shards are written while others wait to be uploaded."""

from __future__ import annotations

import contextlib
import ctypes
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


class _Writer(ctypes.Structure):
    """A shard that is being written, where all processes see it; `order` is 0 where none is."""

    _fields_ = tuple((name, ctypes.c_int64) for name in ("order", "taken", "promised", "waits"))


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
        self.size_bytes = size_bytes
        shared: Any = context
        self._changed = shared.Condition()
        self._used = shared.RawValue("q", 0)
        self._kept = shared.RawValue("q", 0)
        self._orders = shared.RawValue("q", 0)
        self._ratio = shared.RawValue("d", 0)  # of bytes to those expected, the largest so far
        self._writers = shared.RawArray(_Writer, writers)

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
            writer = next(writer for writer in self._writers if not writer.order)
            self._orders.value += 1
            expected = expected_bytes * (self._ratio.value or 1) * _MARGIN
            promised = min(int(expected), self.size_bytes)
            writer.order, writer.promised = self._orders.value, promised
            writer.taken = writer.waits = 0
        is_written = False
        try:
            yield lambda size: self._take(writer, size)
            is_written = True
        finally:
            with self._changed:
                writer.order = 0
                if is_written:
                    ratio = writer.taken / max(1, expected_bytes)
                    self._ratio.value = max(self._ratio.value, ratio)
                else:
                    self._used.value -= writer.taken
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

    def _take(self, writer: _Writer, size: int) -> None:
        with self._changed:
            while not self._may_take(writer, size):
                writer.waits = 1
                self._refuse_standstill(writer)
                self._changed.wait(_LOOK_S)
                check()
            writer.waits = 0
            writer.taken += size
            self._used.value += size

    def _may_take(self, writer: _Writer, size: int) -> bool:
        oldest = self._begun()[0]
        kept = 0 if oldest.order == writer.order else max(0, oldest.promised - oldest.taken)
        return bool(self._used.value + size + kept <= self.size_bytes)

    def _refuse_standstill(self, writer: _Writer) -> None:
        """Nobody goes on where all writers wait and no whole file is there to be uploaded."""
        begun = self._begun()
        taken = sum(writer.taken for writer in begun)
        nobody_uploads = self._used.value - self._kept.value <= taken
        is_stuck = nobody_uploads and all(writer.waits for writer in begun)
        if is_stuck and writer.order == begun[0].order:
            raise WorkError(
                "--disk-budget must hold the shards that are written at once, and of one made anew "
                f"the old file too, but {len(begun)} of them fill its "
                f"{self.size_bytes / 1e6:,.1f} MB before any is whole; give a larger "
                "--disk-budget or fewer --workers, and run the same command again to continue"
            )

    def _begun(self) -> list[_Writer]:
        """Who writes, the first begun first."""
        begun = [writer for writer in self._writers if writer.order]
        return sorted(begun, key=lambda writer: writer.order)
