"""Carry tasks that fetch nothing out in threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from pico_banana.errors import WorkError
from pico_banana.hosts.traffic import Traffic

from ..options import ConvertSettings
from ..output.disk_budget import DiskBudget
from ..output.ledger import ShardLedger
from ..output.store import Store
from ..planning.task import ShardTask
from ..screen import Counts, Say
from ..signals import check
from .base import TICK_S
from .shard_writer import ShardWriter

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ThreadRunner"]


class ThreadRunner:
    """Runs tasks that fetch nothing in threads of this process.

    Their work is Arrow's, which lets other threads run; processes would take as long to start and
    to be handed their tasks as to carry them out. A context manager.

    Args:
        settings: as planned.
        store: the output.
        workers: how many threads.
        say: told what a person should know.
        disk: bounds the Parquet bytes in the output; None where nothing does.
    """

    def __init__(
        self,
        settings: ConvertSettings,
        store: Store,
        workers: int,
        say: Say,
        disk: DiskBudget | None = None,
    ) -> None:
        self._writer = ShardWriter(
            settings, store, None, self._seen, say, disk.writing if disk else None
        )
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="pico-banana-shards")
        self.workers = workers
        self._most = workers + 1  # one waits
        self._counts = Counts()
        self._lock, self._is_left = threading.Lock(), threading.Event()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the threads; what they have not finished leaves no file under its final name."""
        self._is_left.set()
        self._pool.shutdown(cancel_futures=True)

    @property
    def traffic(self) -> Traffic:
        """What the hosts were asked: nothing."""
        return Traffic()

    @property
    def counts(self) -> Counts:
        """What has been done so far."""
        return self._counts

    def _seen(self, rows: int, examples_missing: int, records: int) -> None:
        if self._is_left.is_set():
            raise WorkError("the run ends")
        with self._lock:
            before = self._counts
            self._counts = Counts(
                rows=before.rows + rows,
                examples_missing=before.examples_missing + examples_missing,
                records=before.records + records,
            )

    def run(self, tasks: Iterator[ShardTask]) -> Iterator[ShardLedger | None]:
        """Yield the ledger of each finished shard as it comes, and None every now and then.

        Raises:
            PicoBananaError: what a thread raised.
        """

        def ledger_of(task: ShardTask) -> ShardLedger:
            (ledger,) = self._writer.carry_out([task])
            return ledger

        waiting, begun = True, set[Future[ShardLedger]]()
        while waiting or begun:
            check()
            while waiting and len(begun) < self._most:
                task = next(tasks, None)
                waiting = task is not None
                if task is not None:
                    begun.add(self._pool.submit(ledger_of, task))
            done, begun = futures.wait(begun, TICK_S, futures.FIRST_COMPLETED)
            yield from (future.result() for future in done)
            if not done:
                yield None
