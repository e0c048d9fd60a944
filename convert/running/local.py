"""Carry a plan's tasks out in worker processes of this machine, and hand their reports back."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from pico_banana.errors import WorkError
from pico_banana.hosts.leases import LeaseServer
from pico_banana.hosts.traffic import Traffic

from ..interpreter import without_pandas
from ..options import ConvertSettings
from ..output.disk_budget import DiskBudget, asking
from ..output.ledger import ShardLedger
from ..output.store import Store
from ..planning.task import ShardTask
from ..screen import Counts, Say
from ..signals import SignalError, catch, check, die_of, held, let_go
from ..streams import open_streams
from .base import TICK_S
from .processes import away_from_here, deaf_to_sigint, worker_context
from .shard_writer import ShardWriter

if TYPE_CHECKING:
    from typing_extensions import Self

    from pico_banana.fetching.fetcher import Fetcher

__all__ = ["LocalRunner"]

_TASKS_AHEAD = 2  # the one that is carried out, and the next, whose images are fetched meanwhile
_PATIENCE_S = 4
_LEAVE_S = 3  # for all workers together to drop what is half written: a run ends within 5 seconds


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    tasks: int = 0
    counts: Counts = field(default_factory=Counts)


class LocalRunner:
    """Runs tasks in worker processes of this machine, which share every host's budget.

    A context manager. Workers end with the runner, also when its process is killed.

    Args:
        settings: as planned.
        store: the output.
        workers: how many processes.
        say: told what a person should know; of a host, in a thread of its own.
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
        self._settings, self._store, self.workers = settings, store, workers
        self._disk = disk
        self._say = say
        self._leases = LeaseServer(settings.fetch, say)
        self._context: Any = worker_context()
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        """Start granting leases; workers start with the first task."""
        self._leases.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers; what they have not finished leaves no file under its final name."""
        try:
            for worker in self._workers:
                worker.process.terminate()
                worker.connection.close()
            deadline_s = time.monotonic() + _LEAVE_S
            for worker in self._workers:
                worker.process.join(max(0, deadline_s - time.monotonic()))
                worker.process.kill()
            for worker in self._workers:
                worker.process.join()
        finally:
            self._leases.__exit__()

    @property
    def traffic(self) -> Traffic:
        """What the hosts were asked; complete once the runner has ended."""
        return self._leases.traffic

    @property
    def counts(self) -> Counts:
        """What has been done so far, by all workers together."""
        return sum((worker.counts for worker in self._workers), start=Counts())

    def run(self, tasks: Iterator[ShardTask]) -> Iterator[ShardLedger | None]:
        """Yield the ledger of each finished shard as it comes, and None every now and then.

        Raises:
            PicoBananaError: what a worker raised.
            WorkError: a worker's process died.
        """
        # All before the first task: sending one waits for its worker to have started.
        while len(self._workers) < self.workers:
            self._start()
        waiting = True
        while waiting or any(worker.tasks for worker in self._workers):
            check()
            while waiting and (worker := self._free()) is not None:
                task = next(tasks, None)
                waiting = task is not None
                if task is not None:
                    worker.tasks += 1
                    with contextlib.suppress(BrokenPipeError):  # noticed when its report is due
                        worker.connection.send(task)
            busy = [worker for worker in self._workers if worker.tasks]
            ready = wait([worker.connection for worker in busy], TICK_S)
            for worker in busy:
                if worker.connection in ready:
                    yield self._receive(worker)
            if not ready:
                yield None

    def _free(self) -> _Worker | None:
        """The worker with the fewest tasks, None where each has enough."""
        least = min(self._workers, key=lambda worker: worker.tasks)
        return least if least.tasks < _TASKS_AHEAD else None

    def _start(self) -> None:
        ours, theirs = self._context.Pipe()
        disk = self._serve_disk()
        process = self._context.Process(
            target=_work,
            args=(theirs, self._settings, self._store, self._leases.address, disk),
            name=f"pico-banana-worker-{len(self._workers)}",
            daemon=True,
        )
        is_spawned = self._context.get_start_method() == "spawn"
        with (
            away_from_here() if is_spawned else contextlib.nullcontext(),
            deaf_to_sigint(),
            held(),
        ):  # a worker that gets half of what it needs complains aloud
            process.start()
            self._workers.append(_Worker(process, ours))
        theirs.close()
        if disk is not None:
            disk.close()

    def _serve_disk(self) -> Connection | None:
        """Begin to answer one more worker that asks the disk's budget; return its connection."""
        if self._disk is None:
            return None
        ours, theirs = self._context.Pipe()
        serve = self._disk.serve
        threading.Thread(target=serve, args=[ours], name="pico-banana-disk", daemon=True).start()
        return theirs  # type: ignore[no-any-return]

    def _receive(self, worker: _Worker) -> ShardLedger | None:
        try:
            report = worker.connection.recv()
        except (EOFError, ConnectionError):
            worker.process.join(_PATIENCE_S)
            code = worker.process.exitcode
            how = f"by signal {-code}" if code is not None and code < 0 else f"with code {code}"
            raise WorkError(
                f"a worker process ended {how}, perhaps for want of memory (fewer --workers need "
                "less); finished shards are kept, run the same command again to continue"
            ) from None
        if isinstance(report, BaseException):
            raise report
        if isinstance(report, str):
            self._say(report)
            return None
        if isinstance(report, Counts):
            worker.counts = report
            return None
        worker.tasks -= 1
        assert isinstance(report, ShardLedger)
        return report


def _work(
    connection: Connection,
    settings: ConvertSettings,
    store: Store,
    leases: str,
    disk: Connection | None,
) -> None:
    """Be a worker's process; asked to end, drop what is half written and end."""
    try:
        catch((signal.SIGTERM, signal.SIGHUP))
        open_streams()  # what libraries print ends no shard
        from pico_banana.fetching.fetcher import Fetcher  # noqa: PLC0415  (slow to import; here alone needed)

        warnings.filterwarnings("ignore", module=r"PIL\.")  # odd EXIF, thousands of times
        _end_with_parent()
        decode = settings.check == "decode"
        with without_pandas(), Fetcher(settings, decode=decode, leases=leases) as fetcher:
            done = _Done(connection, fetcher)
            writing = asking(disk) if disk else None
            writer = ShardWriter(settings, store, fetcher, done.see, connection.send, writing)
            _serve(connection, writer, done)
            let_go()
        # Everything is reported. Python's own end would only take time, for each worker.
        os._exit(0)
    except SignalError as ended:
        die_of(ended.number)


class _Done:
    """What a worker has done so far, told over its connection now and then."""

    def __init__(self, connection: Connection, fetcher: Fetcher) -> None:
        self._connection, self._fetcher = connection, fetcher
        self._records, self._told_s = (0, 0, 0), 0.0

    def see(self, *records: int) -> None:
        """Add rows, records with a missing image, and records."""
        check()
        before = self._records
        self._records = (before[0] + records[0], before[1] + records[1], before[2] + records[2])
        if time.monotonic() - self._told_s >= TICK_S:
            self.tell()

    def tell(self) -> None:
        """Tell of all so far; a shard's before its ledger."""
        self._told_s = time.monotonic()
        tally = self._fetcher.tally
        images = (tally.images, tally.size_bytes, tally.missing)
        self._connection.send(Counts(*self._records, *images))


def _serve(connection: Connection, writer: ShardWriter, done: _Done) -> None:
    """Carry out the tasks that come over the connection, and report over it."""
    pending = 0
    waiting = _receiving(connection)

    def tasks() -> Iterator[ShardTask | None]:
        nonlocal pending
        while True:
            if pending and waiting.empty():
                yield None
                continue
            task = waiting.get()
            if task is None:
                return
            pending += 1
            yield task

    try:
        for ledger in writer.carry_out(tasks()):
            pending -= 1
            done.tell()
            connection.send(ledger)
    except Exception as error:  # noqa: BLE001  (the edge of a shard: the parent raises it)
        let_go()
        with contextlib.suppress(ConnectionError):  # the parent is ending, and listens no more
            connection.send(error)


def _receiving(connection: Connection) -> queue.SimpleQueue[ShardTask | None]:
    """Receive tasks in a thread, so that the parent's send never waits for this worker's work.

    Were both to send at once, each would wait for the other to receive: a pipe holds little.
    """
    received: queue.SimpleQueue[ShardTask | None] = queue.SimpleQueue()

    def receive() -> None:
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                received.put(connection.recv())
        received.put(None)

    threading.Thread(target=receive, name="pico-banana-tasks", daemon=True).start()
    return received


def _end_with_parent() -> None:
    """End this process when its parent is gone, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="pico-banana-watch", daemon=True).start()
