"""Share one process's host budgets with all processes of a run, by leases over a socket.

`LeaseServer` serves one `HostBudgets`, and `LeasedBudgets` is what other processes use: every
request asks that one place, and every connection is leased from it, so a budget holds for a whole
run whatever its number of workers and machines. A process keeps a connection until others want it.
One that dies gives its leases back, because its own connection to the server closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import secrets
import shutil
import socket
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from pico_banana.hosts.answers import Answer, Doubt, Lease, Outcome
from pico_banana.hosts.budgets import Fate, HostBudgets
from pico_banana.hosts.scratch import make_scratch
from pico_banana.hosts.traffic import Traffic
from pico_banana.missing import GivenUpError, MissingReason
from pico_banana.settings import FetchPolicy

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["LeaseServer", "LeasedBudgets"]

_LAST_WORDS_S = 0.2
"""At the end clients may finish what they say; those of processes that ended have."""


_KEEPALIVE_S = (30, 10, 3)
"""A machine that is gone says no farewell: asked after so long idle, each so long, so often."""

_GREETING_S = 10
"""Whoever connects over a network must say the run's word within this time."""


class LeaseServer:
    """Serves one `HostBudgets` to the processes of a run, from a thread of its own.

    The protocol is a JSON list a line: `["acquire", id, host]`, `["fault", id, host, doubt,
    answer]` and `["crowded", id, host, number]` are answered by `[id, answer]`; `release`,
    `closed`, `count` and `file` are not. Told unasked is `[0, number]`: others want that idle
    connection. Over a network the first line is the run's word, which stands in the address;
    without it nothing is served.

    Args:
        policy: budgets of hosts, and how they are kept.
        say: told what a person should know of a host, in the server's thread; None logs it.
        host: this machine's address at which other machines reach it; None serves the processes
            of this machine alone, over a Unix socket.

    Attributes:
        address: where it is served, for `LeasedBudgets`; with `host` known once it has started.
    """

    def __init__(
        self,
        policy: FetchPolicy,
        say: Callable[[str], None] | None = None,
        host: str | None = None,
    ) -> None:
        self._host, self._word = host, secrets.token_hex(16)
        self._folder = self.address = ""
        if host is None:
            self._folder = make_scratch()
            self.address = os.path.join(self._folder, "leases")
        self._budgets = HostBudgets(policy, say)
        self._loop = asyncio.new_event_loop()
        self._started: Future[None] = Future()
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="pico-banana-leases", daemon=True)

    @property
    def traffic(self) -> Traffic:
        """What all processes asked; complete once the server has stopped."""
        return self._budgets.traffic

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
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            try:
                self._loop.run_until_complete(self._serve())
            except OSError as error:  # a socket's path is at most some 100 characters long
                self._started.set_exception(error)

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        clients: set[asyncio.Task[None]] = set()

        async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            clients.add(task)
            try:
                if self._host is None or await self._is_known(reader, writer):
                    await _Client(self._budgets, writer).serve(reader)
            except asyncio.CancelledError:
                pass  # the server stops
            finally:
                clients.discard(task)
                writer.close()

        if self._host is None:
            server = await asyncio.start_unix_server(client, self.address)
        else:
            server = await asyncio.start_server(client, self._host, 0)
            host, port = server.sockets[0].getsockname()[:2]
            host = f"[{host}]" if ":" in host else host
            self.address = f"tcp://{self._word}@{host}:{port}"
        self._started.set_result(None)
        await self._stop.wait()
        server.close()
        if clients:
            await asyncio.wait(clients, timeout=_LAST_WORDS_S)
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    async def _is_known(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether who connected is of this run: anybody on the network can connect."""
        _keep_alive(writer)
        try:
            line = await asyncio.wait_for(reader.readline(), _GREETING_S)
        except (asyncio.TimeoutError, ConnectionError, ValueError):
            return False
        return hmac.compare_digest(line.strip(), self._word.encode())


def _keep_alive(writer: asyncio.StreamWriter) -> None:
    """Notice within minutes that the other machine is gone, though nothing is said."""
    own = writer.get_extra_info("socket")
    own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # macOS has another name for the first, and its own default of two hours will do there.
    for name, value in zip(("IDLE", "INTVL", "CNT"), _KEEPALIVE_S, strict=True):
        if hasattr(socket, f"TCP_KEEP{name}"):
            own.setsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_KEEP{name}"), value)


class _Client:
    """One process that takes leases from the server; a `Holder` of its connections."""

    def __init__(self, budgets: HostBudgets, writer: asyncio.StreamWriter) -> None:
        self._budgets, self._writer = budgets, writer
        self._leases: dict[int, Lease] = {}
        self._under_way: set[int] = set()
        self._waiting: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader) -> None:
        asked: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
            "acquire": self._acquire,
            "fault": self._is_hosts_fault,
            "crowded": self._is_crowded,
        }
        try:
            while line := await reader.readline():
                verb, *rest = orjson.loads(line)
                if verb in asked:
                    task = asyncio.ensure_future(asked[verb](*rest))
                    self._waiting.add(task)
                    task.add_done_callback(self._waiting.discard)
                elif verb == "release":
                    number, outcome, reason, *measures = rest
                    answer = Answer(Outcome(outcome), _reason(reason), *measures)
                    self._under_way.discard(number)
                    self._budgets.release(self._leases[number], answer)
                    if answer.outcome is Outcome.REFUSED:
                        del self._leases[number]
                elif verb == "closed":
                    self._budgets.closed(self._leases.pop(rest[0]))
                elif verb == "count":
                    host, fate, reason, ago_s = rest
                    self._budgets.count(host, fate, _reason(reason), ago_s)
                else:
                    self._budgets.count_file(*rest)
        except ConnectionError:
            pass  # the process died; its leases are given back below
        finally:
            for task in self._waiting:
                task.cancel()
            for number in self._under_way:
                self._budgets.release(self._leases[number], Answer(Outcome.UNKNOWN))
            self._budgets.leave(self)

    def recall(self, number: int) -> None:
        """Ask for a connection back that is idle."""
        self._answer(0, number)

    async def _acquire(self, number: int, host: str) -> None:
        try:
            lease = await self._budgets.acquire(host, self)
        except GivenUpError as error:
            self._answer(number, [error.reason.value, error.detail])
        else:
            self._leases[lease.number] = lease
            self._under_way.add(lease.number)
            self._answer(number, lease.number)

    async def _is_hosts_fault(self, number: int, host: str, doubt: str, answer: str) -> None:
        self._answer(number, await self._budgets.is_hosts_fault(host, Doubt(doubt), answer))

    async def _is_crowded(self, number: int, host: str, connection: int) -> None:
        self._answer(number, await self._budgets.is_crowded(Lease(host, connection, 0.0)))

    def _answer(self, number: int, value: Any) -> None:
        self._writer.write(orjson.dumps([number, value]) + b"\n")


def _reason(word: str | None) -> MissingReason | None:
    return None if word is None else MissingReason(word)


_ENDED = "the run that grants leases has ended"


class LeasedBudgets:
    """The budgets of a `LeaseServer` in another process, for one event loop."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._connecting = asyncio.Lock()
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._said: list[bytes] = []
        self._number = 0
        self._close: Callable[[Lease], None] = self.closed
        self._hosts: dict[int, str] = {}

    def begin(self) -> None:
        """Nothing: a run is what its server serves."""

    async def acquire(self, host: str) -> Lease:
        """Wait until one more request to the host may begin, in any process of the run.

        Raises:
            ConnectionError: the server has ended.
            GivenUpError: the host is not asked any more in this run.
        """
        granted = await self._ask("acquire", host)
        try:
            answer = await asyncio.shield(granted)
        except asyncio.CancelledError:
            granted.add_done_callback(lambda future: self._give_back(host, future))
            raise
        if isinstance(answer, list):
            raise GivenUpError(MissingReason(answer[0]), answer[1])
        self._hosts[answer] = host
        return Lease(host, answer, 0.0)

    def _give_back(self, host: str, granted: asyncio.Future[Any]) -> None:
        """The lease comes though nobody wants it any more: give it back."""
        if granted.cancelled() or granted.exception() is not None:
            return
        if not isinstance(granted.result(), list):
            self._hosts[granted.result()] = host
            self.release(Lease(host, granted.result(), 0.0), Answer(Outcome.UNKNOWN))

    def release(self, lease: Lease, answer: Answer) -> None:
        """Say that the request is over, and what it came to; its connection stays leased."""
        reason = answer.reason and answer.reason.value
        if answer.outcome is Outcome.REFUSED:
            del self._hosts[lease.number]
        self._tell("release", lease.number, answer.outcome.value, reason, *answer[2:])

    def on_recall(self, close: Callable[[Lease], None]) -> None:
        """Set what is called where others want a connection that is idle; then say `closed`."""
        self._close = close

    def closed(self, lease: Lease) -> None:
        """Give a connection back: it is closed."""
        self._hosts.pop(lease.number, None)
        self._tell("closed", lease.number)

    async def is_hosts_fault(self, host: str, doubt: Doubt, answer: str) -> bool:
        """Return whether what failed is the host's matter, and no reason to do without the image.

        Waits for other answers of the host where they decide. `answer` says what came, in words.
        """
        return bool(await (await self._ask("fault", host, doubt.value, answer)))

    async def is_crowded(self, lease: Lease) -> bool:
        """Return whether a connection was refused since there were too many at once.

        Waits for the requests beside it, which decide.
        """
        return bool(await (await self._ask("crowded", lease.host, lease.number)))

    def count(
        self, host: str, fate: Fate, reason: MissingReason | None = None, ago_s: float = 0.0
    ) -> None:
        """Count what became of an image, or of one request for it: got, again or missing.

        `ago_s` is how long ago it was asked for.
        """
        self._tell("count", host, fate, reason and reason.value, ago_s)

    def count_file(self, duration_s: float, size_bytes: int) -> None:
        """Count a local file that was read."""
        self._tell("file", duration_s, size_bytes)

    async def connect(self) -> None:
        """Connect to the server; what is counted before goes nowhere."""
        await self._connected()

    async def close(self) -> None:
        """Close the connection, which gives all leases back."""
        if self._reading is not None and self._writer is not None:
            self._send()
            self._reading.cancel()
            self._writer.close()
            await asyncio.gather(self._reading, return_exceptions=True)
            with contextlib.suppress(ConnectionError):
                await self._writer.wait_closed()
            self._writer = None

    async def _ask(self, verb: str, *about: Any) -> asyncio.Future[Any]:
        await self._connected()
        self._number += 1
        answered = asyncio.get_running_loop().create_future()
        self._asked[self._number] = answered
        self._tell(verb, self._number, *about)
        return answered

    def _tell(self, *message: Any) -> None:
        if self._writer is None:
            return
        if not self._said:
            asyncio.get_running_loop().call_soon(self._send)
        self._said.append(orjson.dumps(message))

    def _send(self) -> None:
        """Send what was said in one turn of the loop: each sending wakes the other process."""
        if self._writer is not None and self._said:
            self._writer.write(b"\n".join(self._said) + b"\n")
        self._said.clear()

    async def _connected(self) -> None:
        if self._writer is None:
            async with self._connecting:
                if self._writer is None:
                    reader, self._writer = await self._open()
                    self._reading = asyncio.ensure_future(self._read(reader))
        if self._reading is None or self._reading.done():
            raise ConnectionError(_ENDED)

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if not self._address.startswith("tcp://"):
            return await asyncio.open_unix_connection(self._address)
        parts = urlsplit(self._address)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        _keep_alive(writer)
        writer.write(f"{parts.username}\n".encode())
        return reader, writer

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                number, value = orjson.loads(line)
                if not number:
                    self._close(Lease(self._hosts[value], value, 0.0))
                    continue
                asked = self._asked.pop(number)
                if not asked.done():  # cancelled
                    asked.set_result(value)
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(ConnectionError(_ENDED))
