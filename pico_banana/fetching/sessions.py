"""Keep an HTTP session of one socket for each connection that is leased."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.request import getproxies

import aiohttp
from yarl import URL

from pico_banana import __version__
from pico_banana.hosts.answers import Lease
from pico_banana.hosts.connections import HEAD_BYTES, GuardedResolver
from pico_banana.hosts.guard import AddressGuard
from pico_banana.settings import FetchPolicy

__all__ = ["Connection", "Sessions"]

USER_AGENT = f"pico-banana-400k/{__version__}"
_BLOCK_BYTES = 256 * 1024
_FAREWELL_S = 0.25
"""What aiohttp's documentation allows a TLS connection for its end (Graceful Shutdown)."""


class Connection:
    """One connection to a host, opened by its first request and kept open between requests.

    Args:
        given: arguments of `aiohttp.ClientSession`.

    Attributes:
        is_fresh: whether its socket has not answered yet.
    """

    def __init__(self, **given: Any) -> None:
        opened = aiohttp.TraceConfig()
        opened.on_connection_create_start.append(self._opens)
        self._session = aiohttp.ClientSession(trace_configs=[opened], **given)
        # aiohttp asks twice where a connection breaks, which no budget would know of, and has no
        # public switch: https://github.com/aio-libs/aiohttp/issues/10790
        self._session._retry_connection = False  # noqa: SLF001
        self.is_fresh = True

    async def _opens(self, *_: Any) -> None:
        self.is_fresh = True

    def ask(self, method: str, url: URL, headers: Mapping[str, str] | None = None) -> Any:
        """Return what gives the response, entered with `async with`; redirects are answers."""
        return self._session.request(method, url, headers=headers, allow_redirects=False)

    async def close(self) -> None:
        """Close its socket."""
        await self._session.close()


class Sessions:
    """The HTTP connections of one process, by the leases that allow them; for one event loop.

    A pool of aiohttp's own would keep sockets open that no budget knows of.
    """

    def __init__(self, guard: AddressGuard, policy: FetchPolicy) -> None:
        self._resolver, self._cookies = GuardedResolver(guard), aiohttp.CookieJar()
        self._timeout = aiohttp.ClientTimeout(
            total=policy.total_timeout_s,
            sock_connect=policy.connect_timeout_s,
            sock_read=policy.read_timeout_s,
        )
        self._has_proxies = bool(getproxies())
        self._connections: dict[int, Connection] = {}

    def of(self, lease: Lease) -> Connection:
        """Return the connection of a lease."""
        if lease.number not in self._connections:
            self._connections[lease.number] = self._new()
        return self._connections[lease.number]

    def _new(self) -> Connection:
        return Connection(
            connector=aiohttp.TCPConnector(limit=1, resolver=self._resolver, use_dns_cache=False),
            cookie_jar=self._cookies,
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
            timeout=self._timeout,
            trust_env=self._has_proxies,  # else aiohttp looks for a netrc at each request
            # Packed bodies, which nobody asked for, are unpacked here, under the size cap.
            auto_decompress=False,
            max_line_size=HEAD_BYTES,
            max_field_size=HEAD_BYTES,
            read_bufsize=_BLOCK_BYTES,
        )

    async def close_one(self, lease: Lease) -> None:
        """Close the connection of a lease; afterwards its socket is closed."""
        connection = self._connections.pop(lease.number, None)
        if connection is not None:
            await connection.close()
            # A socket is closed in the loop's next turn, and after TLS has said its farewell.
            is_tls = lease.host.startswith("https:") and not connection.is_fresh
            await asyncio.sleep(_FAREWELL_S if is_tls else 0)

    async def close(self) -> None:
        """Close all connections."""
        connections, self._connections = self._connections, {}
        await asyncio.gather(*[one.close() for one in connections.values()])
