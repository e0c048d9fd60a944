"""Carry a plan's tasks out on a Ray cluster: one Ray task a shard.

Ray places the tasks and gives those of a dead node to another one; what a shard is, how it is
written, and how hosts are treated is no different from local worker processes.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import socket
import sys
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pico_banana.errors import PicoBananaError, ReleaseError, SettingError, UsageError, WorkError
from pico_banana.fetching.fetcher import Fetcher
from pico_banana.hosts.leases import LeaseServer
from pico_banana.hosts.traffic import Traffic
from pico_banana.open_images.tars import check_open_images

from ..options import ConvertSettings
from ..output.ledger import Ledger, ShardLedger
from ..output.store import Store
from ..planning.task import ShardTask
from ..screen import Counts, Say
from ..signals import ENDING, check
from .processes import away_from_here
from .shard_writer import ShardWriter

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["RayRunner"]

_TICK_S = 0.25
_LOOK_S = 1.0
"""How often the cluster is asked for its size."""

_KNOCK_S, _TOLD_S = 10.0, 0.5
_RETRIES = 5
"""How often a shard whose node or process died is begun again: more is no accident."""

_AHEAD = 2

_SHARED_MEMORY = "/dev/shm"  # noqa: S108  (looked at, not written)
_CARRIED = re.compile(r"(AWS|GOOGLE|GCSFS|AZURE)_\w+|(http|https|no|all)_proxy", re.IGNORECASE)
"""Environment variables that object stores and proxies are found by."""


@dataclass(frozen=True)
class _Shared:
    """What all tasks of a run have in common.

    Attributes:
        settings: as planned.
        store: the output.
        leases: where the budgets of hosts are kept.
        told: a queue of `_Word`s for the runner.
        environment: variables that a node takes over where it has none of its own.
    """

    settings: ConvertSettings
    store: Store
    leases: str
    told: Any
    environment: Mapping[str, str]


@dataclass(frozen=True)
class _Word:
    """What a worker tells now and then: where it stands, or what a person should know.

    Attributes:
        worker: its process.
        shard: what it works on.
        records: of it, so far.
        images, size_bytes, images_missing: of all its shards, so far.
        said: what a person should know.
    """

    worker: str
    shard: str
    records: tuple[int, int, int] = (0, 0, 0)
    images: tuple[int, int, int] = (0, 0, 0)
    said: str | None = None


class RayRunner:
    """Runs tasks on a Ray cluster, whose nodes share every host's budget.

    A context manager. Where no address is given and Ray knows of no cluster, it starts one on this
    machine, and ends it.

    Args:
        settings: as planned.
        store: the output; every node must reach it.
        workers: how many tasks are carried out at once; None is one for each CPU of the cluster,
            more as it grows.
        say: told what a person should know; of a host, in a thread of its own.
        address: of the cluster, as Ray writes it; None leaves it to Ray.

    Raises:
        UsageError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(
        self,
        settings: ConvertSettings,
        store: Store,
        workers: int | None,
        say: Say,
        address: str | None = None,
    ) -> None:
        if address is not None and address.startswith("ray://"):
            raise SettingError(
                "ray_address",
                address,
                "must be a cluster's own, host:port or auto: through a Ray client its nodes cannot "
                "reach this machine",
                "; run the command on a node of the cluster, by `ray job submit` for instance",
            )
        self._settings, self._store, self._asked = settings, store, workers
        self._say, self._address = say, address
        self._ray = _import_ray()
        self._leases: LeaseServer | None = None
        self._traffic = Traffic()
        self._counted = _Counted()
        self._under_way: dict[Any, ShardTask] = {}
        self.workers, self._has_cpus, self._looked_s = 0, True, -math.inf
        self._ending = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Connect to the cluster, and start granting leases."""
        with self._ending:
            # Ray prints what it has to say to stdout, which is left to results.
            self._ending.enter_context(contextlib.redirect_stdout(sys.stderr))
            self._connect()
            self._ending.callback(self._ray.shutdown)
            here = self._ray.util.get_node_ip_address()
            self._leases = LeaseServer(self._settings.fetch, self._say, here)
            self._traffic = self._leases.traffic
            self._ending.enter_context(self._leases)
            self._share()
            self._look()
            self._ending = self._ending.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """End the tasks; what they have not finished leaves no file under its final name."""
        # Ray ends a job's tasks with it. Cancelled one by one, one whose reply comes at that moment
        # ends this process in the middle: "Tried to complete task that was not pending".
        self._ending.close()

    @property
    def traffic(self) -> Traffic:
        """What the hosts were asked; complete once the runner has ended."""
        return self._traffic

    @property
    def counts(self) -> Counts:
        """What has been done so far, by all nodes together."""
        return self._counted.all()

    def run(self, tasks: Iterator[ShardTask]) -> Iterator[ShardLedger | None]:
        """Yield the ledger of each finished shard as it comes, and None every now and then.

        Raises:
            PicoBananaError: what a node raised.
            WorkError: a shard's node died again and again.
        """
        remote = self._ray.remote(num_cpus=1, max_retries=_RETRIES, scheduling_strategy="SPREAD")(
            _on_node
        )
        waiting = True
        while waiting or self._under_way:
            check()
            self._look()
            # Where the cluster decides, some wait: no CPU idles, and one that can grow sees a need.
            most = self.workers + (0 if self._asked else _AHEAD)
            while waiting and len(self._under_way) < most:
                task = next(tasks, None)
                waiting = task is not None
                if task is not None:
                    named = remote.options(name=f"{task.config}/{task.shard}")
                    self._under_way[named.remote(self._shared, task)] = task
            done, _ = self._ray.wait(list(self._under_way), timeout=_TICK_S)
            self._hear()
            for reference in done:
                yield self._result(reference)
            if not done:
                yield None

    def _connect(self) -> None:
        # Ray would else report to its makers that, and how, it is used.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        before = [(number, signal.getsignal(number)) for number in ENDING]
        try:
            _knock(self._address or os.environ.get("RAY_ADDRESS", ""))
            _check_shared_memory()
            with away_from_here():
                self._ray.init(address=self._address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            where = f"at {self._address}" if self._address else "on this machine"
            raise UsageError(
                f"no Ray cluster {where} can be used: {str(error).strip()}; start one with "
                "`ray start --head`, name it with --ray-address, and give all its nodes the same "
                "versions of Python, Ray and pico-banana-400k"
            ) from None
        finally:
            for number, handler in before:  # Ray sets its own
                signal.signal(number, handler)

    def _share(self) -> None:
        from ray.util.queue import Queue  # noqa: PLC0415  (an extra)
        from ray.util.scheduling_strategies import (  # noqa: PLC0415
            NodeAffinitySchedulingStrategy,
        )

        # On this node: it is the one that the run does not outlive anyway.
        here = self._ray.get_runtime_context().get_node_id()
        strategy = NodeAffinitySchedulingStrategy(here, soft=False)
        self._told = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": strategy})
        carried = {name: value for name, value in os.environ.items() if _CARRIED.fullmatch(name)}
        assert self._leases is not None
        leases = self._leases.address
        shared = _Shared(self._settings, self._store, leases, self._told, carried)
        self._shared = self._ray.put(shared)

    def _look(self) -> None:
        """See now and then how large the cluster is."""
        now_s = time.monotonic()
        if now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        cpus = int(self._ray.cluster_resources().get("CPU", 0))
        if not cpus and self._has_cpus:
            self._say("the Ray cluster has no CPU at the moment; the run goes on when it has one")
        self._has_cpus, self.workers = cpus > 0, self._asked or cpus

    def _hear(self) -> None:
        """Take what workers have told."""
        if count := self._told.qsize():
            for word in self._told.get_nowait_batch(count):
                if word.said is not None:
                    self._say(word.said)
                elif self._counted.hear(word):
                    self._say(f"{word.shard} is begun again: its Ray node or process died")

    def _result(self, reference: Any) -> ShardLedger:
        task = self._under_way.pop(reference)
        shard = f"{task.config}/{task.shard}"
        failures = self._ray.exceptions
        try:
            ledger, last = self._ray.get(reference)
        except failures.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, PicoBananaError):
                raise cause from None
            said = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
            if isinstance(error, (failures.WorkerCrashedError, failures.NodeDiedError)):
                why = f"each of {_RETRIES + 1} times its process or node died"
                way_out = "fewer --workers need less memory"
            else:
                why = "it could not be carried out"
                way_out = "every node needs pico-banana-400k, installed or by a runtime environment"
            raise WorkError(
                f"{shard} on the Ray cluster: {why}: {said}; {way_out}. Finished shards are kept, "
                "run the same command again to continue"
            ) from None
        self._counted.end(last)
        return ledger  # type: ignore[no-any-return]


class _Counted:
    """What has been done: records by shard, images by worker, as each last told.

    A shard that is begun again begins again at nothing here too.
    """

    def __init__(self) -> None:
        self._shards: dict[str, tuple[int, int, int]] = {}
        self._who: dict[str, str] = {}
        self._workers: dict[str, tuple[int, int, int]] = {}
        self._ended: set[str] = set()

    def hear(self, word: _Word) -> bool:
        """Note where a worker stands; return whether another one had begun the shard before."""
        if word.shard in self._ended:  # words may come after the shard that they are of
            return False
        self._shards[word.shard] = word.records
        self._workers[word.worker] = word.images
        before, self._who[word.shard] = self._who.get(word.shard), word.worker
        return before not in (None, word.worker)

    def end(self, word: _Word) -> None:
        """Note the last word of a shard."""
        self.hear(word)
        self._ended.add(word.shard)

    def all(self) -> Counts:
        """Return the sums."""
        records = [(0, 0, 0), *self._shards.values()]
        images = [(0, 0, 0), *self._workers.values()]
        return Counts(*map(sum, zip(*records, strict=True)), *map(sum, zip(*images, strict=True)))


def _import_ray() -> Any:
    try:
        import ray  # noqa: PLC0415  (an extra, and slow to import)
    except ImportError:
        raise UsageError(
            "--runner ray needs Ray, which is not installed; pip install 'pico-banana-400k[ray]', "
            "or from a checkout pip install '.[ray]'"
        ) from None
    return ray


def _knock(address: str) -> None:
    """Raise `ConnectionError` where nobody listens: Ray would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), _KNOCK_S).close()
        except (OSError, OverflowError) as error:
            raise ConnectionError(f"{type(error).__name__}: {error}") from None


def _check_shared_memory() -> None:
    """Raise `OSError` where Ray cannot put its objects: it would try for half a minute."""
    if sys.platform == "linux" and not os.access(_SHARED_MEMORY, os.W_OK):
        raise OSError(
            f"Ray needs {_SHARED_MEMORY}, which is not there or cannot be written (in a container "
            "`docker run --shm-size=1g` gives one; --runner local needs none)"
        )


# ---- on the nodes ------------------------------------------------------------------------------


class _Worker:
    """A process of a node that carries out one task after the other."""

    current: _Worker | None = None
    """Ray runs many tasks in one process: connections and leases outlast each of them."""

    def __init__(self, shared: _Shared) -> None:
        for name, value in shared.environment.items():
            os.environ.setdefault(name, value)
        warnings.filterwarnings("ignore", module=r"PIL\.")  # odd EXIF, thousands of times
        settings = shared.settings
        self.run, self._told, self._name = shared.leases, shared.told, uuid.uuid4().hex
        self._fetcher: Fetcher | None = None
        if settings.images == "bytes":
            decode = settings.check == "decode"
            self._fetcher = Fetcher(settings, decode=decode, leases=shared.leases)
        self._settings, self._store = settings, shared.store
        self._writer = ShardWriter(settings, shared.store, self._fetcher, self._seen, self._say)
        self._shard, self._records, self._told_s = "", (0, 0, 0), 0.0

    def close(self) -> None:
        if self._fetcher is not None:
            self._fetcher.close()

    def ledger_of(self, task: ShardTask) -> tuple[ShardLedger, _Word]:
        self._check_places(task.config)
        self._shard, self._records = f"{task.config}/{task.shard}", (0, 0, 0)
        self._told.put_nowait(self._word())
        (ledger,) = self._writer.carry_out([task])
        return ledger, self._word()

    def _check_places(self, config: str) -> None:
        """Refuse to work where this node does not see what the others do.

        Each local image would be missing here, and each file be written where nobody looks.
        """
        node, settings = os.uname().nodename, self._settings
        if not Ledger(self._store, config).has_plan():
            raise WorkError(
                f"the output {self._store.root} of the run is not there on the Ray node {node}: "
                "give an --output that all nodes reach, a shared folder or s3://…"
            )
        places = [settings.cdn] if settings.images == "bytes" else []
        if gone := [place for place in places if os.path.isabs(place) and not os.path.isdir(place)]:
            raise WorkError(f"the folder {gone[0]} is not there on the Ray node {node}")
        try:
            check_open_images(settings)
        except ReleaseError as error:
            raise WorkError(f"on the Ray node {node}: {error}") from None

    def _word(self) -> _Word:
        images = (0, 0, 0)
        if self._fetcher is not None:
            tally = self._fetcher.tally
            images = (tally.images, tally.size_bytes, tally.missing)
        return _Word(self._name, self._shard, self._records, images)

    def _seen(self, rows: int, examples_missing: int, records: int) -> None:
        before = self._records
        self._records = (before[0] + rows, before[1] + examples_missing, before[2] + records)
        now_s = time.monotonic()
        if now_s - self._told_s >= _TOLD_S:
            self._told_s = now_s
            self._told.put_nowait(self._word())

    def _say(self, text: str) -> None:
        self._told.put_nowait(_Word(self._name, self._shard, said=text))


def _on_node(shared: _Shared, task: ShardTask) -> tuple[ShardLedger, _Word]:
    """Carry out one shard; called by Ray in a process of a node."""
    worker = _Worker.current
    if worker is None or worker.run != shared.leases:
        if worker is not None:
            worker.close()
        worker = _Worker.current = _Worker(shared)
    try:
        return worker.ledger_of(task)
    except PicoBananaError:
        raise
    except OSError as error:
        raise WorkError(
            f"the Ray node {os.uname().nodename} cannot go on: {type(error).__name__}: {error}; "
            "all nodes must reach the one that the run was started on, at any port"
        ) from None
