"""Ask one place once for an image's bytes, or size: over HTTP with checked redirects, or a file."""

from __future__ import annotations

import asyncio
import email.utils
import functools
import os
import re
import time
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import aiohttp
from yarl import URL

from pico_banana.errors import ReleaseError, WorkError, bare_url
from pico_banana.fetching.files import find_file
from pico_banana.fetching.http_faults import ask_error
from pico_banana.fetching.sessions import Sessions
from pico_banana.hosts.answers import Answer, Doubt, Lease, Outcome
from pico_banana.hosts.budgets import Budgets
from pico_banana.hosts.guard import AddressGuard
from pico_banana.input_sources import Place
from pico_banana.missing import (
    AskError,
    MissingReason,
    NotAskedError,
    RefusedError,
    TooManyError,
    reason_of_fault,
)
from pico_banana.open_images.packed import DamageError
from pico_banana.open_images.tars import Tars
from pico_banana.open_images.turns import Turns
from pico_banana.settings import Settings
from pico_banana.storage.remote import packings
from pico_banana.urls import host_of

__all__ = ["Body", "NeedRoomError", "Transport"]

_REDIRECTS = {301, 302, 303, 307, 308}
_STATUS = {
    404: MissingReason.NOT_FOUND,
    408: MissingReason.TIMEOUT,
    410: MissingReason.NOT_FOUND,
    429: MissingReason.THROTTLED,
}
_OK, _PART = {200, 203}, 206  # 203: a proxy on the way has changed something
_CLIENT_ERROR, _SERVER_ERROR = range(400, 500), range(500, 600)
_BLOCK_BYTES = 256 * 1024
_PACKED, _GZIP = {"gzip", "x-gzip", "deflate"}, b"\x1f\x8b"
_WHOLE = re.compile(r"bytes 0-(\d+)/(\d+)")
_FIRST_BYTE = {"Range": "bytes=0-0"}
_NO_HEAD = {403, 405, 501}

_DENIED, _SLOW_DOWN = 403, {429, 503}

Grow = Callable[[int], bool]
"""Asks whether an answer may grow to so many bytes in memory now."""
Admit = Callable[[str], None]
"""Is told an address before it is asked; raises `NotAskedError` where it must not be."""
Received = list[bytes]
Take = Callable[[aiohttp.ClientResponse], Awaitable["Came | str"]]
Came = TypeVar("Came")


class Body(NamedTuple):
    """The bytes that came.

    Attributes:
        data: the bytes.
        is_whole: whether the answer itself told that they are all.
        asked_s: when they were asked for, by `time.monotonic`.
    """

    data: bytes
    is_whole: bool = True
    asked_s: float = 0.0


class NeedRoomError(Exception):
    """The answer is larger than the memory that was set aside: ask again with `size_bytes`."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"{size_bytes} bytes")
        self.size_bytes = size_bytes


class Transport:
    """Asks places for bytes, within the hosts' budgets; made and used in one event loop."""

    def __init__(
        self,
        guard: AddressGuard,
        budgets: Budgets,
        settings: Settings,
        tars: Tars,
        pool: Executor,
    ) -> None:
        policy = settings.fetch
        self._tars, self._tar_turns = tars, defaultdict[str, Turns](Turns)
        self._policy, self._guard, self._budgets, self._pool = policy, guard, budgets, pool
        self._storage_options = settings.storage_options
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._sessions = Sessions(guard, policy)
        self._without_head: set[str] = set()
        self._closing: set[asyncio.Task[None]] = set()
        budgets.on_recall(self._recalled)

    async def close(self) -> None:
        """Close the connections."""
        await self._sessions.close()

    def _recalled(self, lease: Lease) -> None:
        """Close a connection that others want, and say so when its socket is closed."""
        task = asyncio.ensure_future(self._sessions.close_one(lease))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        task.add_done_callback(lambda _: self._budgets.closed(lease))

    async def ask(self, place: Place, grow: Grow) -> Body:
        """Return the bytes at a place.

        Raises:
            AskError: with the reason, where they could not be had.
            NeedRoomError: `grow` refused.
        """
        address = place.address
        if address.startswith(("http://", "https://")):
            return await self._follow(address, functools.partial(self._get, grow))
        if not place.is_local:
            return await self._leased(
                host_of(address), lambda _, received: self._ask_fsspec(place, grow, received)
            )
        if place.way == "tar":
            return Body(await self._read_member(place, grow))
        async with self._slots:
            begun_s, data = time.monotonic(), b""
            try:
                data = await self._read_file(place, grow)
            finally:
                self._budgets.count_file(time.monotonic() - begun_s, len(data))
        return Body(data)

    async def size(self, place: Place, admit: Admit) -> int | None:
        """Return how many bytes lie at a place, None where nobody says; reads none of them.

        Of a photo in a tar that has no index yet: the size of another one in it.

        Raises:
            AskError: with the reason, where it could not be had; `admit`'s own.
        """
        address, loop = place.address, asyncio.get_running_loop()
        if address.startswith(("http://", "https://")):
            return await self._follow(address, self._head, admit)
        if place.way == "tar":
            image_id = os.path.basename(address).partition(".")[0]
            return await loop.run_in_executor(self._pool, self._tars.likely_size, image_id)

        async def look(*_: object) -> int | None:
            find = functools.partial(find_file, place, self._storage_options)
            return (await loop.run_in_executor(self._pool, find)).size_bytes

        if place.is_local:
            return await look()
        admit(address)
        return await self._leased(host_of(address), look)

    async def _ask_fsspec(self, place: Place, grow: Grow, received: Received) -> Body:
        asked_s = time.monotonic()
        received.append(await self._read_file(place, grow))
        return Body(received[0], asked_s=asked_s)

    async def _begin(self, host: str) -> Lease:
        """Take a lease of the host, then a slot, so that a slow host's queue takes no slot.

        One request a host at a time: leases that gather while all slots are taken would be used
        in one burst afterwards, whatever the pace they were granted at.
        """
        async with self._turns[host]:
            lease = await self._budgets.acquire(host)
            try:
                await self._slots.acquire()
            except BaseException:
                self._budgets.release(lease, Answer(Outcome.UNKNOWN))
                raise
        return lease

    async def _leased(self, host: str, ask: Callable[[Lease, Received], Awaitable[Came]]) -> Came:
        """Make one request within its host's budget, and say what it came to."""
        lease = await self._begin(host)
        begun_s = time.monotonic()
        received: Received = []
        answer = Answer(Outcome.UNKNOWN)
        try:
            came = await ask(lease, received)
        except NeedRoomError:
            answer = Answer(Outcome.OK)
            raise
        except AskError as error:
            answer = Answer(_outcome(error), error.reason, error.retry_after_s, hint=error.hint)
            failed = error
        else:
            answer = Answer(Outcome.OK)
            return came
        finally:
            measured = answer._replace(
                duration_s=time.monotonic() - begun_s, size_bytes=sum(map(len, received))
            )
            self._slots.release()
            if answer.outcome is Outcome.REFUSED:
                await self._sessions.close_one(lease)
            self._budgets.release(lease, measured)
        raise await self._doubted(lease, failed) from None

    async def _doubted(self, lease: Lease, error: AskError) -> AskError:
        """Return the error, as the host's where what failed was no matter of the image's."""
        if isinstance(error, RefusedError) and await self._budgets.is_crowded(lease):
            return TooManyError(error.reason, error.detail)
        if error.status == _DENIED and await self._budgets.is_hosts_fault(
            lease.host, Doubt.DENIED, error.detail
        ):
            detail = f"{error.detail}, as to others at once"
            return AskError(MissingReason.THROTTLED, detail, status=_DENIED)
        return error

    async def _follow(
        self,
        url: str,
        ask: Callable[[str, Lease, Received], Awaitable[Came | str]],
        admit: Admit = lambda _: None,
    ) -> Came:
        """Ask an address, and those that it redirects to, which come back as text."""
        self._guard.check(url)
        for _ in range(self._policy.max_redirects + 1):
            admit(url)  # before a lease, which a slow host gives slowly
            answer = await self._leased(host_of(url), functools.partial(ask, url))
            if not isinstance(answer, str):
                return answer
            url = answer
            if "photo_unavailable" in url:
                raise AskError(MissingReason.PLACEHOLDER, f"redirected to {bare_url(url)}")
            try:
                self._guard.check(url)
            except NotAskedError as error:  # but the host was, and answered with this
                raise AskError(error.reason, f"redirected: {error.detail}") from None
        most = self._policy.max_redirects
        raise AskError(MissingReason.FORBIDDEN, f"more than {most} redirects")

    async def _get(self, grow: Grow, url: str, lease: Lease, received: Received) -> Body | str:
        """Ask for a body."""
        asked_s = time.monotonic()

        async def take(response: aiohttp.ClientResponse) -> Body:
            self._check_status(response)
            await self._read(response, grow, received)
            # A chunked body has an end of its own; one that ends with its connection has none.
            chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
            is_whole = response.content_length is not None or chunked
            return Body(b"".join(received), is_whole, asked_s)

        return await self._request(url, lease, take)

    async def _head(self, url: str, lease: Lease, _: Received) -> int | str | None:
        """Ask for a size, by HEAD; of a host that refuses it, or tells none, by its first byte."""
        if lease.host in self._without_head:
            return await self._request(url, lease, self._size_of_first, "GET", _FIRST_BYTE)

        async def take(response: aiohttp.ClientResponse) -> int | str | None:
            if response.status not in _NO_HEAD:
                self._check_status(response)
                if response.content_length is not None:
                    return _told_size(response)
            self._without_head.add(lease.host)
            return url  # asked again, by the other way

        return await self._request(url, lease, take, "HEAD")

    async def _size_of_first(self, response: aiohttp.ClientResponse) -> int | None:
        if response.status == _PART:
            found = _WHOLE.fullmatch(response.headers.get("Content-Range", "").strip())
            return int(found[2]) if found else None
        response.close()  # its body is on its way, and nobody wants it
        self._check_status(response)
        return _told_size(response)

    async def _request(
        self,
        url: str,
        lease: Lease,
        take: Take[Came],
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
    ) -> Came | str:
        """Make one request; return what is taken of it, or the address that it redirects to."""
        connection = self._sessions.of(lease)
        try:
            # Paths are quoted already; only an address that is not ASCII needs yarl's help.
            target = URL(url, encoded=url.isascii())
            async with connection.ask(method, target, headers) as response:
                connection.is_fresh = False
                if response.status in _REDIRECTS and "Location" in response.headers:
                    return str(target.join(URL(response.headers["Location"])))
                return await take(response)
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as error:
            raise ask_error(error, is_fresh=connection.is_fresh) from None

    def _check_status(self, response: aiohttp.ClientResponse) -> None:
        status = response.status
        if status in _OK or (status == _PART and _is_whole(response)):
            return
        if status in _STATUS:
            reason = _STATUS[status]
        elif status in _CLIENT_ERROR:
            reason = MissingReason.FORBIDDEN
        else:
            reason = MissingReason.SERVER_ERROR
        wait_s = 0.0
        if status == 429 or status in _SERVER_ERROR:  # noqa: PLR2004
            wait_s = _retry_after_s(response.headers.get("Retry-After", ""))
        raise AskError(
            reason,
            f"status {status} {response.reason or ''}".rstrip(),
            status=status,
            retry_after_s=min(wait_s, self._policy.retry_after_max_s),
        )

    async def _read(self, response: aiohttp.ClientResponse, grow: Grow, received: Received) -> None:
        expected = response.content_length
        if expected is not None:
            self._check_size(expected, grow)
        blocks: AsyncIterator[bytes] = response.content.iter_any()
        size = 0
        encoding = packings(response.headers.get("Content-Encoding", ""))
        if encoding and _PACKED.issuperset(encoding):
            blocks = _unpacked(blocks, is_gzip="deflate" not in encoding)
        async for block in blocks:
            received.append(block)
            size += len(block)
            if expected is None or size > expected:  # chunked, or packed
                self._check_size(size, grow, whole=False)

    def _check_size(self, size: int, grow: Grow, *, whole: bool = True) -> None:
        if size > self._policy.max_image_bytes:
            raise AskError(
                MissingReason.TOO_LARGE, f"{size} bytes, at most {self._policy.max_image_bytes}"
            )
        if not grow(size):
            # Where nobody says how much is still to come, ask for twice as much.
            raise NeedRoomError(size if whole else min(2 * size, self._policy.max_image_bytes))

    async def _read_member(self, place: Place, grow: Grow) -> bytes:
        """Read a photo from the tar that has it."""
        image_id = os.path.basename(place.address).partition(".")[0]
        loop = asyncio.get_running_loop()
        with _tar_errors(place):
            member = await loop.run_in_executor(self._pool, self._tars.find, image_id)
            if member is None:
                raise AskError(MissingReason.NOT_LISTED, "no tar has it")
            self._check_size(member.size_bytes, grow)
            data = b""
            # A turn first: who waits for one takes no slot.
            async with self._tar_turns[member.tar.path].at(member.offset), self._slots:
                begun_s = time.monotonic()
                try:
                    data = await loop.run_in_executor(self._pool, member.tar.read, member)
                finally:
                    self._budgets.count_file(time.monotonic() - begun_s, len(data))
        if len(data) != member.size_bytes:
            raise AskError(
                MissingReason.TRUNCATED, f"{len(data)} bytes came of {member.size_bytes}"
            )
        return data

    async def _read_file(self, place: Place, grow: Grow) -> bytes:
        """Read a file of a folder or of an fsspec place."""
        loop = asyncio.get_running_loop()
        file = await loop.run_in_executor(self._pool, find_file, place, self._storage_options)
        if file.size_bytes is not None:
            self._check_size(file.size_bytes, grow)
        most = self._policy.max_image_bytes + 1
        data = await loop.run_in_executor(self._pool, file.read, most)
        self._check_size(len(data), grow)  # its size may be unknown, wrong, or another by now
        return data


@contextmanager
def _tar_errors(place: Place) -> Iterator[None]:
    try:
        yield
    except ReleaseError as error:  # it was found, and indexed, before
        raise WorkError(f"{error}; finished shards are kept") from None
    except DamageError as error:
        folder = os.path.dirname(place.address)
        raise AskError(MissingReason.CORRUPT, f"a tar in {folder}: {error}") from None
    except OSError as error:
        reason = reason_of_fault(error)
        if reason.is_absence:  # it was there, and indexed, before
            raise WorkError(
                f"a tar in {os.path.dirname(place.address)} is gone: {error}; finished shards are "
                "kept, run the same command again when it is back"
            ) from None
        raise AskError(reason, str(error)) from None


async def _unpacked(blocks: AsyncIterator[bytes], *, is_gzip: bool) -> AsyncIterator[bytes]:
    """Inflate gzip or deflate a block at a time: a little packed may be very much unpacked."""
    inflating, packed = None, b""
    try:
        async for block in blocks:
            packed += block
            while len(packed) > 1 or (packed and inflating is not None and not inflating.eof):
                if inflating is None or (inflating.eof and packed[:2] == _GZIP):
                    inflating = zlib.decompressobj(wbits=_wbits(packed, is_gzip=is_gzip))
                elif inflating.eof:
                    packed = b""  # what lies behind the end is none of it
                    break
                yield inflating.decompress(packed, _BLOCK_BYTES)
                packed = inflating.unconsumed_tail or inflating.unused_data
    except zlib.error as error:
        raise AskError(MissingReason.CORRUPT, f"its Content-Encoding: {error}") from None
    if inflating is None or not inflating.eof:
        raise AskError(MissingReason.TRUNCATED, "the packed body ends too early")


def _wbits(packed: bytes, *, is_gzip: bool) -> int:
    """What zlib must be told; deflate is sent with zlib's header, as RFC 9110 says, or without."""
    has_header = packed[0] & 0x0F == zlib.DEFLATED and int.from_bytes(packed[:2], "big") % 31 == 0
    return zlib.MAX_WBITS | 32 if is_gzip or has_header or packed[:2] == _GZIP else -zlib.MAX_WBITS


def _told_size(response: aiohttp.ClientResponse) -> int | None:
    """The size that a head tells, None of a page, or of what is packed on its way."""
    is_packed = packings(response.headers.get("Content-Encoding", ""))
    return None if is_packed or response.content_type == "text/html" else response.content_length


def _is_whole(response: aiohttp.ClientResponse) -> bool:
    """Whether a part, which nobody asked for, is all there is."""
    found = _WHOLE.fullmatch(response.headers.get("Content-Range", "").strip())
    return found is not None and int(found[1]) + 1 == int(found[2])


def _outcome(error: AskError) -> Outcome:
    """What a failed request says of its host; an image that is not there says nothing bad."""
    if isinstance(error, RefusedError):
        return Outcome.REFUSED
    if error.reason is MissingReason.FORBIDDEN_ADDRESS:  # nobody was asked
        return Outcome.UNKNOWN
    if error.status in _SLOW_DOWN or error.reason is MissingReason.THROTTLED:
        return Outcome.THROTTLED
    if error.status == _DENIED:
        return Outcome.DENIED
    return Outcome.FAILED if error.reason.is_transient else Outcome.OK


def _retry_after_s(value: str) -> float:
    """Return the seconds that a Retry-After header asks for, in either of its forms (RFC 9110)."""
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError, OSError):  # the last two: of a year that no clock reaches
        return 0.0
