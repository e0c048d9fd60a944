"""Serve folders over HTTP from a thread of the test process, and misbehave on command.

A fault is an `Answer`, made by one of the functions below it and given to `FakeCDN.fail`. Faults
combine: `dataclasses.replace(cut(100), length=None)` is a chunked body that ends too early.
In a process of its own, for benchmarks: `python -m tests.fake_cdn --mount /cdn=FOLDER`.
"""

import argparse
import asyncio
import concurrent.futures
import contextlib
import copy
import fnmatch
import io
import itertools
import math
import mimetypes
import os
import re
import signal
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from gzip import compress
from pathlib import Path
from typing import Any, BinaryIO, Literal
from urllib.parse import unquote, urlsplit

from aiohttp import web
from PIL import Image
from typing_extensions import Self

PLACEHOLDER_PATH = "/-/photo_unavailable.png"  # below /-/ no fault acts: placeholders end there
LOOP_PATH = "/-/redirect-loop"
PIECE_BYTES = 256 * 1024

_png = io.BytesIO()
Image.new("RGB", (500, 374), (238, 238, 238)).save(_png, "PNG")
PLACEHOLDER_PNG = _png.getvalue()


@dataclass(frozen=True)
class Answer:
    """How a request is answered; the defaults are the faultless answer."""

    status: int = 200  # of an answer that has its own body; else file and request decide
    headers: tuple[tuple[str, str], ...] = ()  # added to the usual ones, or in their place
    body: bytes | None = None  # None: the file's, or its asked range
    change: Callable[[bytes], bytes] | None = None  # applied to the body
    length: int | None = 0  # Content-Length is the body's plus this; None: chunked, without one
    send_bytes: int | None = None  # send so much of the body; -1: not even the head
    end: Literal["done", "close", "reset", "stall"] = "done"
    bytes_per_s: float = math.inf


def status(code: int, headers: Mapping[str, str] | None = None) -> Answer:
    """Answer with this status and a line of text."""
    text = {"Content-Type": "text/plain", **(headers or {})}
    return Answer(code, tuple(text.items()), f"status {code}\n".encode())


def too_many(retry_after: float | str | None = None) -> Answer:
    """Answer 429; `retry_after` is in seconds, or an HTTP date (email.utils.formatdate)."""
    return status(429, {} if retry_after is None else {"Retry-After": str(retry_after)})


def redirect(location: str, code: int = 302) -> Answer:
    """Redirect to a URL, or to a path of this server."""
    return status(code, {"Location": location})


def placeholder() -> Answer:
    """Redirect to …/photo_unavailable.png, which answers 200 with PLACEHOLDER_PNG."""
    return redirect(PLACEHOLDER_PATH)


def redirect_loop() -> Answer:
    """Redirect to a path that redirects to itself for ever."""
    return redirect(LOOP_PATH)


def body(content: bytes, content_type: str = "text/html", code: int = 200) -> Answer:
    """Answer with other bytes than the file's."""
    return Answer(code, (("Content-Type", content_type),), content)


def cut(after_bytes: int) -> Answer:
    """Declare the whole Content-Length, close the connection after so many bytes of body."""
    return Answer(send_bytes=after_bytes, end="close")


def longer(extra: bytes) -> Answer:
    """Send the body with `extra` after it, and a Content-Length that counts both."""
    return Answer(change=lambda whole: whole + extra)


def wrong_length(delta: int) -> Answer:
    """Send the whole body, declare a Content-Length that is off by `delta`, then close."""
    return Answer(length=delta, end="close")


def stall(after_bytes: int = 0) -> Answer:
    """Send the head and so many bytes of body, then nothing; -1: not even the head."""
    return Answer(send_bytes=after_bytes, end="stall")


def drip(bytes_per_s: float = 1) -> Answer:
    """Send the body slowly: in pieces, at most 20 a second."""
    return Answer(bytes_per_s=bytes_per_s)


def reset(after_bytes: int = 0) -> Answer:
    """Reset the connection (RST) after so many bytes of body; -1: before the head."""
    return Answer(send_bytes=after_bytes, end="reset")


def corrupt() -> Answer:
    """Flip the bits of up to 64 bytes in the middle of the body; its length stays."""
    return Answer(change=_flip_middle)


def gzip() -> Answer:
    """Send the body compressed, with Content-Encoding: gzip, whatever the client accepts."""
    return Answer(headers=(("Content-Encoding", "gzip"),), change=compress)


def chunked() -> Answer:
    """Send the body in chunks, without a Content-Length."""
    return Answer(length=None)


def _flip_middle(whole: bytes) -> bytes:
    start = max(len(whole) // 2 - 32, 0)
    flipped = bytes(byte ^ 0xFF for byte in whole[start : start + 64])
    return whole[:start] + flipped + whole[start + 64 :]


@dataclass
class Request:
    """One request; times are of time.monotonic, `ended` and `status` None until there are any.

    `ended` is noted just before the last bytes leave, so a client that has its whole answer finds
    it, and its next request never counts as simultaneous. `headers` ignores case.
    """

    method: str
    path: str  # percent-decoded once, without the query
    raw_path: str  # as sent, with the query
    headers: Mapping[str, str]
    started: float
    ended: float | None = None
    status: int | None = None


@dataclass
class Connection:
    """One connection, by time.monotonic; `closed` is None while it is open."""

    opened: float
    was_refused: bool
    closed: float | None = None
    paths: list[str] = field(default_factory=list)  # of its requests


class _Handler(web.RequestHandler):
    """Answers the requests of one connection, and tells the server of its beginning and end."""

    __slots__ = ("_cdn", "entry")

    def __init__(self, cdn: "FakeCDN", *given: Any, **named: Any):
        super().__init__(*given, **named)
        self._cdn = cdn

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.entry = self._cdn.opened()
        if self.entry.was_refused and self._cdn.refuses_by == "reset":
            _reset(transport)
        elif self.entry.was_refused:
            transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._cdn.closed(self.entry)
        super().connection_lost(exc)


class _Server(web.Server):
    """A server whose connections are counted."""

    def __init__(self, cdn: "FakeCDN", *given: Any, **named: Any):
        super().__init__(*given, **named)
        self._cdn = cdn

    def __call__(self) -> web.RequestHandler:
        return _Handler(self._cdn, self, loop=self._loop, **self._kwargs)


@dataclass
class _Rule:
    glob: str
    answers: tuple[Answer, ...]
    forever: Answer | None
    method: str | None
    used: dict[str, int] = field(default_factory=dict)  # path -> answers given


class FakeCDN:
    """An HTTP server on a free port of a loopback address, running while its `with` block does.

    Each mount is a path's beginning and the folder served below it; of mounts that match, the
    first that has the file serves it. Every method may be called from any thread.

    Globs are fnmatch's, over the whole decoded path: `*` crosses slashes. With a certificate, a
    file that holds its key too, it is asked by https.
    """

    def __init__(
        self,
        *mounts: tuple[str, str | Path],
        certificate: Path | None = None,
        address: str = "127.0.0.1",
    ):
        self._address = address
        self._tls = None
        if certificate is not None:
            self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._tls.load_cert_chain(certificate)
        self.url = ""  # "http://127.0.0.1:PORT", once started
        self.delay_s = 0.0  # every answer waits so long
        self.ranges = True  # whether Range requests get a 206
        self.if_range = True  # whether a stale If-Range gets the whole file
        self.most_connections = math.inf  # those beyond are ended when they are opened
        self.refuses_by: Literal["reset", "close"] = "reset"
        self._mounts = [(f"{prefix.rstrip('/')}/", str(folder)) for prefix, folder in mounts]
        self._log: list[Request] = []
        self._connections: list[Connection] = []
        self._are_open = 0
        self._rules: list[_Rule] = []
        self._holds: list[tuple[str, asyncio.Event]] = []
        self._changed = threading.Condition()
        self._loop: asyncio.AbstractEventLoop
        self._stop = asyncio.Event()
        self._thread: threading.Thread

    def __enter__(self) -> Self:
        ready: concurrent.futures.Future[str] = concurrent.futures.Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(ready)), name="fake-cdn", daemon=True
        )
        self._thread.start()
        self.url = ready.result()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    @property
    def log(self) -> list[Request]:
        """A copy of every request so far, in order of arrival."""
        return self.requests()

    def requests(self, glob: str = "*") -> list[Request]:
        """The requests whose path matches, in order of arrival."""
        with self._changed:
            return [copy.copy(r) for r in self._log if fnmatch.fnmatchcase(r.path, glob)]

    def count(self, glob: str = "*") -> int:
        """How many requests with a matching path have arrived."""
        with self._changed:
            if glob == "*":  # asked often
                return len(self._log)
            return sum(fnmatch.fnmatchcase(request.path, glob) for request in self._log)

    def peak(self, glob: str = "*") -> int:
        """The most matching requests that were under way at once.

        Answers take so little time that they rarely overlap: set `delay_s`, or hold them.
        """
        steps = []
        for request in self.requests(glob):
            steps += [(request.started, 1), (request.ended or math.inf, -1)]
        under_way = most = 0
        for _, step in sorted(steps):
            under_way += step
            most = max(most, under_way)
        return most

    @property
    def connections(self) -> list[Connection]:
        """A copy of every connection so far, in order of arrival."""
        with self._changed:
            return [copy.copy(one) for one in self._connections]

    def most_open(self, glob: str = "*") -> int:
        """The most connections that were open at once, idle ones too.

        Of those that were asked for a matching path.
        """
        steps = []
        for one in self.connections:
            if any(fnmatch.fnmatchcase(path, glob) for path in one.paths):
                steps += [(one.opened, 1), (one.closed or math.inf, -1)]
        return max(itertools.accumulate(step for _, step in sorted(steps)), default=0)

    def are_open(self, at_s: float) -> int:
        """How many connections were open at a time, refused ones not."""
        return sum(
            one.opened <= at_s < (one.closed or math.inf)
            for one in self.connections
            if not one.was_refused
        )

    def opened(self) -> Connection:
        """Note a connection."""
        with self._changed:
            entry = Connection(time.monotonic(), self._are_open >= self.most_connections)
            self._are_open += not entry.was_refused
            self._connections.append(entry)
            return entry

    def closed(self, entry: Connection) -> None:
        """Note a connection's end."""
        with self._changed:
            entry.closed = time.monotonic()
            self._are_open -= not entry.was_refused

    def fail(
        self,
        glob: str,
        *answers: Answer,
        forever: Answer | None = None,
        method: str | None = None,
    ) -> None:
        """Give each matching path these answers in turn, then `forever`, or faultless ones.

        Of several faults for a path the newest acts, while it has an answer left. With a method
        only to requests of it.
        """
        with self._changed:
            self._rules.append(_Rule(glob, answers, forever, method))

    def clear(self) -> None:
        """Forget faults and log; holds stay."""
        with self._changed:
            self._rules.clear()
            self._log.clear()
            self._connections = [one for one in self._connections if one.closed is None]

    def hold(self, glob: str = "*") -> None:
        """Let matching requests wait, from now on, until `release`."""
        with self._changed:
            self._holds.append((glob, asyncio.Event()))

    def release(self) -> None:
        """Answer what waits, and end every hold; faults are chosen now, not on arrival."""
        with self._changed:
            holds, self._holds = self._holds, []
        for _, released in holds:
            self._loop.call_soon_threadsafe(released.set)

    def wait_for_request(self, glob: str = "*", n: int = 1, timeout_s: float = 30) -> None:
        """Block until `n` matching requests have arrived since the start, or the last `clear`.

        Raises:
            TimeoutError: They have not come within `timeout_s`.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.count(glob) >= n, timeout_s):
                got = self.count(glob)
                raise TimeoutError(f"{n} requests for {glob} must come, but got {got}")

    async def _serve(self, ready: concurrent.futures.Future[str]) -> None:
        try:
            self._loop = asyncio.get_running_loop()
            server = _Server(self, self._handle, handler_cancellation=True, access_log=None)
            runner = web.ServerRunner(server, shutdown_timeout=1)
            await runner.setup()
            site = web.TCPSite(runner, self._address, 0, backlog=1024, ssl_context=self._tls)
            await site.start()
            scheme = "http" if self._tls is None else "https"
            name = f"[{self._address}]" if ":" in self._address else self._address
            ready.set_result(f"{scheme}://{name}:{runner.addresses[0][1]}")
        except BaseException as error:
            ready.set_exception(error)
            raise
        await self._stop.wait()
        await site.stop()
        for connection in server.connections:  # cancels what stalls, drips or is held
            if connection.transport is not None:
                connection.transport.abort()
        await runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.protocol.entry.was_refused:
            return web.Response()  # it came while the connection was closed: nobody reads this
        raw = request.raw_path
        path = unquote(raw.partition("?")[0] if raw.startswith("/") else urlsplit(raw).path)
        entry = Request(request.method, path, raw, request.headers, time.monotonic())
        with self._changed:
            self._log.append(entry)
            request.protocol.entry.paths.append(path)
            self._changed.notify_all()
            gates = [gate for glob, gate in self._holds if fnmatch.fnmatchcase(path, glob)]
        try:
            for gate in gates:
                await gate.wait()
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            return await self._respond(request, entry, self._next_answer(request.method, path))
        except ConnectionError:
            return web.Response()  # the client has gone; aiohttp would log a traceback
        finally:
            entry.ended = entry.ended or time.monotonic()

    def _next_answer(self, method: str, path: str) -> Answer:
        if path == LOOP_PATH:
            return redirect_loop()
        if method not in {"GET", "HEAD"}:
            return status(405, {"Allow": "GET, HEAD"})
        with self._changed:
            for rule in reversed(self._rules):
                if path.startswith("/-/") or not fnmatch.fnmatchcase(path, rule.glob):
                    continue
                if rule.method not in (None, method):
                    continue
                given = rule.used.get(path, 0)
                if given < len(rule.answers):
                    rule.used[path] = given + 1
                    return rule.answers[given]
                if rule.forever is not None:
                    return rule.forever
        return Answer()

    async def _respond(
        self, request: web.BaseRequest, entry: Request, answer: Answer
    ) -> web.StreamResponse:
        response, content = self._faultless(request, entry.path, answer)
        if answer.change is not None:
            content = answer.change(content)
        response.headers.update(answer.headers)
        if answer.length is not None:
            response.content_length = max(len(content) + answer.length, 0)
        if answer.end != "done":
            response.force_close()
        if answer.send_bytes != -1:
            if request.method == "HEAD":
                answer, content = Answer(), b""
            await _send(request, response, entry, answer, content[: answer.send_bytes])
        await _finish(request.transport, answer)
        return response

    def _faultless(
        self, request: web.BaseRequest, path: str, answer: Answer
    ) -> tuple[web.StreamResponse, bytes]:
        if answer.body is not None:
            return web.StreamResponse(status=answer.status), answer.body
        if path == PLACEHOLDER_PATH:
            return web.StreamResponse(headers={"Content-Type": "image/png"}), PLACEHOLDER_PNG
        file = self._open(path)
        if file is None:
            return web.StreamResponse(status=404), b"not found\n"
        with file:
            stat = os.fstat(file.fileno())
            kind, encoding = mimetypes.guess_type(path)
            compressed = f"application/{encoding}" if encoding else None
            headers = {
                "Content-Type": compressed or kind or "application/octet-stream",
                "ETag": f'"{stat.st_size:x}-{stat.st_mtime_ns:x}"',
                "Last-Modified": formatdate(int(stat.st_mtime), usegmt=True),
                "Accept-Ranges": "bytes" if self.ranges else "none",
            }
            if request.headers.get("If-None-Match") == headers["ETag"]:
                return web.StreamResponse(status=304, headers=headers), b""
            validators = headers if self.if_range else {}
            part = _asked_range(request.headers, validators, stat.st_size) if self.ranges else None
            if part is None:
                return web.StreamResponse(headers=headers), file.read()
            if not part:
                headers["Content-Range"] = f"bytes */{stat.st_size}"
                return web.StreamResponse(status=416, headers=headers), b""
            headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{stat.st_size}"
            file.seek(part.start)
            return web.StreamResponse(status=206, headers=headers), file.read(len(part))

    def _open(self, path: str) -> BinaryIO | None:
        for prefix, folder in self._mounts:
            rest = path[len(prefix) :]
            if path.startswith(prefix) and not {"", ".", ".."}.intersection(rest.split("/")):
                with contextlib.suppress(OSError, ValueError):  # a NUL is a ValueError
                    return open(f"{folder}/{rest}", "rb")
        return None


def _asked_range(
    asked: Mapping[str, str], validators: Mapping[str, str], size_bytes: int
) -> range | None:
    """Return the one range that is asked for; None (all) for several, or a stale If-Range.

    It is stale where it is none of `validators`; without any it never is.
    """
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", asked.get("Range", ""))
    known = {validators.get("ETag"), validators.get("Last-Modified")}
    fresh = not validators or asked.get("If-Range") in {None, *known}
    if match is None or match.group() == "bytes=-" or not fresh:
        return None
    first, last = match.groups()
    if not first:
        return range(max(size_bytes - int(last), 0), size_bytes)
    return range(int(first), min(int(last) + 1, size_bytes) if last else size_bytes)


async def _send(
    request: web.BaseRequest,
    response: web.StreamResponse,
    entry: Request,
    answer: Answer,
    content: bytes,
) -> None:
    pause_s = 0.0 if math.isinf(answer.bytes_per_s) else max(1 / answer.bytes_per_s, 0.05)
    size = max(round(answer.bytes_per_s * pause_s), 1) if pause_s else PIECE_BYTES
    pieces = [memoryview(content)[at : at + size] for at in range(0, len(content), size)]
    entry.status = response.status
    if not pieces and answer.end != "stall":
        entry.ended = time.monotonic()
    writer: Any = await response.prepare(request)
    writer.length = None  # aiohttp would drop what exceeds the Content-Length
    for left, piece in zip(range(len(pieces) - 1, -1, -1), pieces, strict=True):
        if not left and answer.end != "stall":
            entry.ended = time.monotonic()
        await response.write(piece)
        if left and pause_s:
            await asyncio.sleep(pause_s)


async def _finish(transport: asyncio.Transport | None, answer: Answer) -> None:
    if answer.end == "stall":
        await asyncio.Event().wait()  # cancelled when the client goes away or the server stops
    elif transport is not None and answer.end == "reset":
        _reset(transport)
    elif transport is not None and answer.end == "close":
        transport.write_eof()  # a process forked meanwhile keeps a mere close from being seen
        transport.close()


def _reset(transport: asyncio.Transport) -> None:
    linger = struct.pack("ii", 1, 0)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()


def main() -> None:
    """Serve until SIGTERM, SIGINT or the end of stdin; the first line of stdout is the URL."""
    parser = argparse.ArgumentParser(prog="python -m tests.fake_cdn", description=main.__doc__)
    parser.add_argument("--mount", action="append", required=True, metavar="/PATH=FOLDER")
    parser.add_argument("--delay-ms", type=float, default=0)
    parser.add_argument("--certificate", metavar="FILE", help="serve https")
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    mounts = [mount.partition("=")[::2] for mount in arguments.mount]
    with FakeCDN(*mounts, certificate=arguments.certificate) as cdn:
        cdn.delay_s = arguments.delay_ms / 1000
        sys.stdout.write(f"{cdn.url}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
