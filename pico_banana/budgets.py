"""Share each host's budget, connections at once and requests a second, among all who fetch.

`HostBudgets` holds the budgets in one event loop. `LeaseServer` serves one `HostBudgets` to other
processes over a Unix socket, and `LeasedBudgets` is what they use: every request takes a lease
from that one place, so a budget holds for a whole run whatever its number of workers. A worker
that dies gives its leases back, because its connection closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import fnmatch
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from pico_banana.settings import HostBudget

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Budgets", "HostBudgets", "LeaseServer", "LeasedBudgets", "Outcome", "host_of"]


class Outcome(str, enum.Enum):
    """How a request went, as far as its host's pace is concerned."""

    OK = "ok"
    THROTTLED = "throttled"
    FAILED = "failed"


def host_of(url: str) -> str:
    """Return scheme, name and port of a URL: what a budget is kept for."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"{parts.scheme}://{(parts.hostname or '').lower()}:{port}"


class Budgets(Protocol):
    """What the fetch engine asks before and tells after each request."""

    async def acquire(self, host: str) -> None:
        """Wait until one more request to the host may begin."""

    def release(self, host: str, outcome: Outcome, pause_s: float = 0) -> None:
        """Give the request's place back; `pause_s` is how long the host asked to be left alone."""

    async def close(self) -> None:
        """Let go of whatever is held."""


_LONGEST_FOLDER = 70
"""Of a socket's path systems take some 104 bytes, the names below the folder need about 30."""

_CATCH_UP_S = 0.05
"""A pace that fell behind because a timer was late may catch up by so much, and no more."""


class _Host:
    """One host's connections, pace and pause."""

    def __init__(self, budget: HostBudget) -> None:
        self._connections = asyncio.Semaphore(budget.connections)
        self._interval_s = 1 / budget.requests_per_second if budget.requests_per_second else 0.0
        self._turn = asyncio.Lock()
        self._next_s = 0.0

    async def acquire(self) -> None:
        await self._connections.acquire()
        try:
            async with self._turn:
                catch_up_s = 0.0
                # Looked at again after each wait: meanwhile the host may have asked for a pause.
                while (wait_s := self._next_s - time.monotonic()) > 0:
                    await asyncio.sleep(wait_s)
                    catch_up_s = min(self._interval_s, _CATCH_UP_S)
                earliest_s = time.monotonic() - catch_up_s
                self._next_s = max(self._next_s, earliest_s) + self._interval_s
        except BaseException:
            self._connections.release()
            raise

    def release(self, pause_s: float) -> None:
        self._connections.release()
        if pause_s > 0:
            self._next_s = max(self._next_s, time.monotonic() + pause_s)


class HostBudgets:
    """The budgets of all hosts, for one event loop; not safe for use in several threads."""

    def __init__(self, budgets: Mapping[str, HostBudget]) -> None:
        self._budgets = budgets
        self._hosts: dict[str, _Host] = {}

    def _host(self, host: str) -> _Host:
        if host not in self._hosts:
            name = urlsplit(host).hostname or ""
            globs = (glob for glob in self._budgets if fnmatch.fnmatchcase(name, glob.lower()))
            glob = next(globs, None)
            self._hosts[host] = _Host(self._budgets[glob] if glob else HostBudget())
        return self._hosts[host]

    async def acquire(self, host: str) -> None:
        """Wait until one more request to the host may begin."""
        await self._host(host).acquire()

    def release(self, host: str, outcome: Outcome, pause_s: float = 0) -> None:
        """Give the request's place back."""
        del outcome  # the pace is fixed; only what the host itself asks for changes it
        self._host(host).release(pause_s)

    async def close(self) -> None:
        """Nothing is held between requests."""


class LeaseServer:
    """Serves one `HostBudgets` to the processes of a run, from a thread of its own.

    The protocol is a JSON list a line: `["acquire", id, host]` is answered by the id when the
    lease is granted; `["release", host, outcome, pause_s]` is not answered.

    Attributes:
        address: path of the Unix socket, for `LeasedBudgets`.
    """

    def __init__(self, budgets: Mapping[str, HostBudget]) -> None:
        # Readable by its owner alone; in /tmp where TMPDIR is too long for a socket's path.
        where = tempfile.gettempdir()
        where = where if len(where) < _LONGEST_FOLDER else "/tmp"  # noqa: S108
        self._folder = tempfile.mkdtemp(prefix="pico-banana-", dir=where)
        self.address = os.path.join(self._folder, "leases")
        self._budgets = budgets
        self._loop = asyncio.new_event_loop()
        self._started: Future[None] = Future()
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="pico-banana-leases", daemon=True)

    def __enter__(self) -> Self:
        """Start serving."""
        self._thread.start()
        self._started.result()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop serving; leases that are held become void."""
        if self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            try:
                self._loop.run_until_complete(self._serve())
            except OSError as error:  # a socket's path is at most some 100 characters long
                self._started.set_exception(error)

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        shared = HostBudgets(self._budgets)
        clients: set[asyncio.Task[None]] = set()

        async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            clients.add(task)
            try:
                await _Client(shared, writer).serve(reader)
            except asyncio.CancelledError:
                pass  # the server stops
            finally:
                clients.discard(task)
                writer.close()

        server = await asyncio.start_unix_server(client, self.address)
        self._started.set_result(None)
        await self._stop.wait()
        server.close()
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


class _Client:
    """One process that takes leases from the server."""

    def __init__(self, budgets: HostBudgets, writer: asyncio.StreamWriter) -> None:
        self._budgets, self._writer = budgets, writer
        self._held: list[str] = []
        self._waiting: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                verb, *rest = json.loads(line)
                if verb == "acquire":
                    task = asyncio.ensure_future(self._grant(*rest))
                    self._waiting.add(task)
                    task.add_done_callback(self._waiting.discard)
                else:
                    host, outcome, pause_s = rest
                    self._held.remove(host)
                    self._budgets.release(host, Outcome(outcome), pause_s)
        except ConnectionError:
            pass  # the process died; its leases are given back below
        finally:
            for task in self._waiting:
                task.cancel()
            for host in self._held:
                self._budgets.release(host, Outcome.FAILED)

    async def _grant(self, number: int, host: str) -> None:
        await self._budgets.acquire(host)
        self._held.append(host)
        self._writer.write(b"%d\n" % number)


_ENDED = "the run that grants leases has ended"


class LeasedBudgets:
    """The budgets of a `LeaseServer` in another process, for one event loop."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._connecting = asyncio.Lock()
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._granted: dict[int, asyncio.Future[None]] = {}
        self._number = 0

    async def acquire(self, host: str) -> None:
        """Wait until one more request to the host may begin, in any process of the run.

        Raises:
            ConnectionError: the server has ended.
        """
        writer = await self._connected()
        self._number += 1
        granted = asyncio.get_running_loop().create_future()
        self._granted[self._number] = granted
        self._send(writer, ["acquire", self._number, host])
        try:
            await asyncio.shield(granted)
        except asyncio.CancelledError:
            # The lease comes all the same: give it back then.
            granted.add_done_callback(lambda _: self.release(host, Outcome.OK))
            raise

    def release(self, host: str, outcome: Outcome, pause_s: float = 0) -> None:
        """Give the request's place back."""
        if self._writer is not None:
            self._send(self._writer, ["release", host, outcome.value, pause_s])

    async def close(self) -> None:
        """Close the connection, which gives all leases back."""
        if self._reading is not None and self._writer is not None:
            self._reading.cancel()
            self._writer.close()
            await asyncio.gather(self._reading, return_exceptions=True)
            with contextlib.suppress(ConnectionError):
                await self._writer.wait_closed()
            self._writer = None

    @staticmethod
    def _send(writer: asyncio.StreamWriter, message: list[Any]) -> None:
        writer.write(json.dumps(message).encode() + b"\n")

    async def _connected(self) -> asyncio.StreamWriter:
        async with self._connecting:
            if self._writer is None:
                reader, self._writer = await asyncio.open_unix_connection(self._address)
                self._reading = asyncio.ensure_future(self._read(reader))
            if self._reading is None or self._reading.done():
                raise ConnectionError(_ENDED)
            return self._writer

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                self._granted.pop(int(line)).set_result(None)
        for granted in self._granted.values():
            granted.set_exception(ConnectionError(_ENDED))
