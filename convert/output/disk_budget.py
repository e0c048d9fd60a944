"""Bound the Parquet bytes on a disk: shards are written while others wait to be uploaded."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection

from pico_banana.errors import WorkError

from ..signals import SignalError, check

__all__ = ["DiskBudget", "Writing", "asking"]

_LOOK_S = 0.25
_MARGIN = 1.25

Writing = Callable[[float], AbstractContextManager[Callable[[int], None]]]
"""`DiskBudget.writing`, here or in another process."""


@dataclass(eq=False)
class _Writer:
    """A shard that is being written: bytes that it took, and is promised in all."""

    promised: int
    taken: int = 0
    waits: bool = False


class DiskBudget:
    """The Parquet bytes that may be on disk at once, shared by all writers of a run.

    Writers take bytes before they write them, and wait where there are none; the run gives them
    back when a file is uploaded and deleted. The writer that began first always finds what it was
    expected to need: else several half-written shards could wait for each other. Safe for threads;
    other processes ask over a connection, see `serve`.

    Args:
        size_bytes: most bytes at once.
    """

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._changed = threading.Condition()
        self._used = self._kept = 0
        self._ratio = 0.0  # of bytes to those expected, the largest so far
        self._begun: list[_Writer] = []  # the first begun first

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
            expected = expected_bytes * (self._ratio or 1) * _MARGIN
            writer = _Writer(promised=min(int(expected), self.size_bytes))
            self._begun.append(writer)
        is_written = False
        try:
            yield functools.partial(self._take, writer)
            is_written = True
        finally:
            with self._changed:
                self._begun.remove(writer)
                if is_written:
                    self._ratio = max(self._ratio, writer.taken / max(1, expected_bytes))
                else:
                    self._used -= writer.taken
                self._changed.notify_all()

    def serve(self, connection: Connection) -> None:
        """Answer a process that writes shards and is `asking` over a connection, until it ends.

        A process that is killed gives back what its half-written shard took.
        """
        with connection, contextlib.suppress(EOFError, ConnectionError, SignalError):
            try:
                while True:
                    with self.writing(connection.recv()) as take:
                        connection.send(None)
                        while (size := connection.recv()) is not None:
                            take(size)
                            connection.send(None)
                    connection.send(None)
            except WorkError as error:
                connection.send(error)

    def add(self, size: int, *, is_kept: bool = False) -> None:
        """Count bytes that are on disk already, or will be at once.

        Args:
            size: how many.
            is_kept: whether they stay until a shard is written that waits for none of them.
        """
        with self._changed:
            self._used += size
            self._kept += size if is_kept else 0

    def give_back(self, size: int, *, is_kept: bool = False) -> None:
        """Give back the bytes of a file that was deleted; `is_kept` as it was added."""
        with self._changed:
            self._used -= size
            self._kept -= size if is_kept else 0
            self._changed.notify_all()

    def _take(self, writer: _Writer, size: int) -> None:
        with self._changed:
            while not self._may_take(writer, size):
                writer.waits = True
                self._refuse_standstill(writer)
                self._changed.wait(_LOOK_S)
                check()
            writer.waits = False
            writer.taken += size
            self._used += size

    def _may_take(self, writer: _Writer, size: int) -> bool:
        oldest = self._begun[0]
        kept = 0 if oldest is writer else max(0, oldest.promised - oldest.taken)
        return self._used + size + kept <= self.size_bytes

    def _refuse_standstill(self, writer: _Writer) -> None:
        """Nobody goes on where all writers wait and no whole file is there to be uploaded."""
        begun = self._begun
        taken = sum(writer.taken for writer in begun)
        nobody_uploads = self._used - self._kept <= taken
        is_stuck = nobody_uploads and all(writer.waits for writer in begun)
        if is_stuck and writer is begun[0]:
            raise WorkError(
                "--disk-budget must hold the shards that are written at once, and of one made anew "
                f"the old file too, but {len(begun)} of them fill its "
                f"{self.size_bytes / 1e6:,.1f} MB before any is whole; give a larger "
                "--disk-budget or fewer --workers, and run the same command again to continue"
            )


def asking(connection: Connection) -> Writing:
    """Return the `writing` of a budget in another process, which serves the connection.

    A process whose writing failed must end: that gives back what it took.
    """

    def ask(what: float | None) -> None:
        connection.send(what)
        refused = connection.recv()
        if refused is not None:
            raise refused

    @contextlib.contextmanager
    def writing(expected_bytes: float) -> Iterator[Callable[[int], None]]:
        ask(expected_bytes)
        yield ask
        ask(None)

    return writing
