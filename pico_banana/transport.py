"""Ask one place once for an image's bytes: over HTTP with checked redirects, or from a file."""

from __future__ import annotations

import asyncio
import email.utils
import os
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Executor

import aiohttp
import fsspec
from yarl import URL

from pico_banana import __version__
from pico_banana.budgets import Budgets, Outcome, host_of
from pico_banana.guard import AddressGuard, GuardedResolver, PrivateAddressError
from pico_banana.missing import AskError, MissingReason
from pico_banana.settings import Settings

__all__ = ["NeedRoomError", "Transport"]

USER_AGENT = f"pico-banana-400k/{__version__}"
_REDIRECTS = {301, 302, 303, 307, 308}
_STATUS = {
    404: MissingReason.NOT_FOUND,
    408: MissingReason.TIMEOUT,
    410: MissingReason.NOT_FOUND,
    429: MissingReason.THROTTLED,
}
_CLIENT_ERROR, _SERVER_ERROR = range(400, 500), range(500, 600)
_BLOCK_BYTES = 256 * 1024

Grow = Callable[[int], bool]
"""Asks whether an answer may grow to so many bytes in memory now."""


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
        pool: Executor,
    ) -> None:
        policy = settings.fetch
        self._policy, self._guard, self._budgets, self._pool = policy, guard, budgets, pool
        self._storage_options = settings.storage_options
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._session = aiohttp.ClientSession(
            # The budgets bound connections, not aiohttp.
            connector=aiohttp.TCPConnector(
                limit=0, resolver=GuardedResolver(guard), ttl_dns_cache=300
            ),
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(
                total=policy.total_timeout_s,
                sock_connect=policy.connect_timeout_s,
                sock_read=policy.read_timeout_s,
            ),
            trust_env=True,
            read_bufsize=_BLOCK_BYTES,
        )
        # aiohttp asks twice where a connection breaks, which no budget would know of, and has no
        # public switch: https://github.com/aio-libs/aiohttp/issues/10790
        self._session._retry_connection = False  # noqa: SLF001

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def ask(self, address: str, grow: Grow) -> bytes:
        """Return the bytes at an address, a URL or a local path.

        Raises:
            AskError: with the reason, where they could not be had.
            NeedRoomError: `grow` refused.
        """
        if address.startswith(("http://", "https://")):
            return await self._follow(address, grow)
        if "://" not in address:
            async with self._slots:
                return await self._read_file(address, grow)
        host = host_of(address)
        await self._begin(host)
        try:
            return await self._read_fsspec(address, grow)
        finally:
            self._end(host, Outcome.OK)

    async def _begin(self, host: str) -> None:
        """Take a lease of the host, then a slot, so that a slow host's queue takes no slot.

        One request a host at a time: leases that gather while all slots are taken would be used
        in one burst afterwards, whatever the pace they were granted at.
        """
        async with self._turns[host]:
            await self._budgets.acquire(host)
            try:
                await self._slots.acquire()
            except BaseException:
                self._budgets.release(host, Outcome.OK)
                raise

    def _end(self, host: str, outcome: Outcome, pause_s: float = 0) -> None:
        self._slots.release()
        self._budgets.release(host, outcome, pause_s)

    async def _follow(self, url: str, grow: Grow) -> bytes:
        for _ in range(self._policy.max_redirects + 1):
            self._guard.check(url)
            answer = await self._request(url, grow)
            if isinstance(answer, bytes):
                return answer
            url = answer
            if "photo_unavailable" in url:
                raise AskError(MissingReason.PLACEHOLDER, f"redirected to {url}")
        raise AskError(MissingReason.FORBIDDEN, f"more than {self._policy.max_redirects} redirects")

    async def _request(self, url: str, grow: Grow) -> bytes | str:
        """Make one request; return the body, or the address that it redirects to."""
        host = host_of(url)
        await self._begin(host)
        outcome, pause_s = Outcome.FAILED, 0.0
        try:
            # Paths are quoted already; only an address that is not ASCII needs yarl's help.
            target = URL(url, encoded=url.isascii())
            async with self._session.get(target, allow_redirects=False) as response:
                if response.status in _REDIRECTS and "Location" in response.headers:
                    outcome = Outcome.OK
                    return str(target.join(URL(response.headers["Location"])))
                self._check_status(response)
                body = await self._read(response, grow)
            outcome = Outcome.OK
        except AskError as error:
            throttled = error.reason is MissingReason.THROTTLED
            outcome = Outcome.THROTTLED if throttled else Outcome.FAILED
            pause_s = error.retry_after_s
            raise
        except NeedRoomError:
            outcome = Outcome.OK
            raise
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as error:
            raise _as_ask_error(error) from None
        finally:
            self._end(host, outcome, pause_s)
        return body

    def _check_status(self, response: aiohttp.ClientResponse) -> None:
        status = response.status
        if status == 200:  # noqa: PLR2004
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
        wait_s = min(wait_s, self._policy.retry_after_max_s)
        raise AskError(reason, f"status {status} {response.reason or ''}".rstrip(), wait_s)

    async def _read(self, response: aiohttp.ClientResponse, grow: Grow) -> bytes:
        expected = response.content_length
        if expected is not None:
            self._check_size(expected, grow)
        blocks: list[bytes] = []
        size = 0
        async for block in response.content.iter_any():
            blocks.append(block)
            size += len(block)
            if expected is None or size > expected:  # chunked, or packed after all
                self._check_size(size, grow, whole=False)
        return b"".join(blocks)

    def _check_size(self, size: int, grow: Grow, *, whole: bool = True) -> None:
        if size > self._policy.max_image_bytes:
            raise AskError(
                MissingReason.TOO_LARGE, f"{size} bytes, at most {self._policy.max_image_bytes}"
            )
        if not grow(size):
            # Where nobody says how much is still to come, ask for twice as much.
            raise NeedRoomError(size if whole else min(2 * size, self._policy.max_image_bytes))

    async def _read_file(self, path: str, grow: Grow) -> bytes:
        loop = asyncio.get_running_loop()
        try:
            size = await loop.run_in_executor(self._pool, os.path.getsize, path)
            self._check_size(size, grow)
            return await loop.run_in_executor(self._pool, _read_whole, path)
        except (FileNotFoundError, NotADirectoryError):
            raise AskError(MissingReason.NOT_FOUND, "no such file") from None
        except (OSError, ValueError) as error:
            raise AskError(MissingReason.FORBIDDEN, str(error)) from None

    async def _read_fsspec(self, address: str, grow: Grow) -> bytes:
        loop = asyncio.get_running_loop()
        try:
            file_system, path = fsspec.core.url_to_fs(address, **self._storage_options)
            info = await loop.run_in_executor(self._pool, file_system.info, path)
            self._check_size(int(info["size"]), grow)
            return bytes(await loop.run_in_executor(self._pool, file_system.cat_file, path))
        except FileNotFoundError:
            raise AskError(MissingReason.NOT_FOUND, "no such file") from None
        except PermissionError as error:
            raise AskError(MissingReason.FORBIDDEN, str(error)) from None
        except asyncio.TimeoutError as error:  # fsspec's own; an OSError from Python 3.11 on
            raise AskError(MissingReason.TIMEOUT, str(error)) from None
        except (aiohttp.ClientError, OSError) as error:
            raise AskError(MissingReason.CONNECTION, str(error)) from None


def _read_whole(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _as_ask_error(error: Exception) -> AskError:
    said = f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, asyncio.TimeoutError):
        return AskError(MissingReason.TIMEOUT, said)
    if isinstance(error, aiohttp.ClientPayloadError):
        return AskError(MissingReason.TRUNCATED, said)
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(
        error.os_error, PrivateAddressError
    ):
        return AskError(MissingReason.FORBIDDEN_ADDRESS, str(error.os_error))
    if isinstance(error, ValueError):  # yarl's and aiohttp's word for what is no URL
        return AskError(MissingReason.FORBIDDEN_ADDRESS, said)
    return AskError(MissingReason.CONNECTION, said)


def _retry_after_s(value: str) -> float:
    """Return the seconds that a Retry-After header asks for, in either of its forms (RFC 9110)."""
    if value.strip().isdecimal():
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return max(0.0, date.timestamp() - time.time())
