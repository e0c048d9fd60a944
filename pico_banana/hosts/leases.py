"""Share one process's host budgets with all processes of a run, by leases over a socket.

`LeaseServer` serves one `HostBudgets`, and `LeasedBudgets` is what other processes use: every
request takes a lease from that one place, so a budget holds for a whole run whatever its number of
workers and machines. A worker that dies gives its leases back, because its connection closes.
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
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from pico_banana.hosts.budgets import Fate, HostBudgets
from pico_banana.hosts.pace import Answer, Lease, Outcome
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

    The protocol is a JSON list a line: `["acquire", id, host]` and `["burst", id, host]` are
    answered by `[id, answer]`; `release`, `count` and `file` are not answered. Over a network the
    first line is the run's word, which stands in the address; without it nothing is served.

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
    """One process that takes leases from the server."""

    def __init__(self, budgets: HostBudgets, writer: asyncio.StreamWriter) -> None:
        self._budgets, self._writer = budgets, writer
        self._held: dict[int, Lease] = {}
        self._waiting: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                verb, *rest = orjson.loads(line)
                if verb in ("acquire", "burst"):
                    answering = self._acquire if verb == "acquire" else self._burst
                    task = asyncio.ensure_future(answering(*rest))
                    self._waiting.add(task)
                    task.add_done_callback(self._waiting.discard)
                elif verb == "release":
                    number, outcome, reason, *measures = rest
                    answer = Answer(Outcome(outcome), _reason(reason), *measures)
                    self._budgets.release(self._held.pop(number), answer)
                elif verb == "count":
                    host, fate, reason = rest
                    self._budgets.count(host, fate, _reason(reason))
                else:
                    self._budgets.count_file(*rest)
        except ConnectionError:
            pass  # the process died; its leases are given back below
        finally:
            for task in self._waiting:
                task.cancel()
            for lease in self._held.values():
                self._budgets.release(lease, Answer(Outcome.UNKNOWN))

    async def _acquire(self, number: int, host: str) -> None:
        try:
            self._held[number] = await self._budgets.acquire(host)
        except GivenUpError as error:
            self._answer(number, [error.reason.value, error.detail])
        else:
            self._answer(number, None)

    async def _burst(self, number: int, host: str) -> None:
        self._answer(number, await self._budgets.is_burst(host))

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

    def begin(self) -> None:
        """Nothing: a run is what its server serves."""

    async def acquire(self, host: str) -> Lease:
        """Wait until one more request to the host may begin, in any process of the run.

        Raises:
            ConnectionError: the server has ended.
            GivenUpError: the host is not asked any more in this run.
        """
        number, granted = await self._ask("acquire", host)
        lease = Lease(host, number, 0.0)
        try:
            given_up = await asyncio.shield(granted)
        except asyncio.CancelledError:
            granted.add_done_callback(lambda future: self._give_back(lease, future))
            raise
        if given_up is not None:
            raise GivenUpError(MissingReason(given_up[0]), given_up[1])
        return lease

    def _give_back(self, lease: Lease, granted: asyncio.Future[Any]) -> None:
        """The lease comes though nobody wants it any more: give it back."""
        if not granted.cancelled() and granted.exception() is None and granted.result() is None:
            self.release(lease, Answer(Outcome.UNKNOWN))

    def release(self, lease: Lease, answer: Answer) -> None:
        """Give the request's place back, with what it came to."""
        reason = answer.reason and answer.reason.value
        self._tell("release", lease.number, answer.outcome.value, reason, *answer[2:])

    async def is_burst(self, host: str) -> bool:
        """Return whether the 403 that the host just gave is one of a burst."""
        _, judged = await self._ask("burst", host)
        return bool(await judged)

    def count(self, host: str, fate: Fate, reason: MissingReason | None = None) -> None:
        """Count what became of an image, or of one request for it: got, again or missing."""
        self._tell("count", host, fate, reason and reason.value)

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

    async def _ask(self, verb: str, host: str) -> tuple[int, asyncio.Future[Any]]:
        await self._connected()
        self._number += 1
        answered = asyncio.get_running_loop().create_future()
        self._asked[self._number] = answered
        self._tell(verb, self._number, host)
        return self._number, answered

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
                asked = self._asked.pop(number)
                if not asked.done():  # cancelled
                    asked.set_result(value)
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(ConnectionError(_ENDED))
