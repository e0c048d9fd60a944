"""Let aiohttp connect to what the guard allows, and to nothing else."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from pico_banana.hosts.guard import AddressGuard, PrivateAddressError

__all__ = ["HEAD_BYTES", "GuardedConnector", "GuardedResolver", "client"]


_KNOWN_S = 300
HEAD_BYTES = 64 * 1024
"""How long a line of an answer's head may be: servers send cookies and policies without end."""


class GuardedResolver(AbstractResolver):
    """Resolves names as ever, and leaves out the addresses that the guard does not admit.

    Connectors share it, so a name is looked up once in five minutes for all of them.
    """

    def __init__(self, guard: AddressGuard) -> None:
        self._guard, self._resolver = guard, aiohttp.ThreadedResolver()
        self._known: dict[tuple[Any, ...], tuple[float, asyncio.Future[list[ResolveResult]]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return a name's addresses; `PrivateAddressError` where none is admitted."""
        key = host, port, family
        since_s, found = self._known.get(key, (float("-inf"), None))
        if found is None or time.monotonic() - since_s > _KNOWN_S or _has_failed(found):
            found = asyncio.ensure_future(self._resolver.resolve(host, port, family))
            self._known[key] = time.monotonic(), found
        return self._admitted(host, port, await asyncio.shield(found))

    def _admitted(self, host: str, port: int, found: list[ResolveResult]) -> list[ResolveResult]:
        admitted = [entry for entry in found if self._guard.admits(host, port, entry["host"])]
        if found and not admitted:
            raise PrivateAddressError(f"{host} resolves to a private address")
        return admitted

    async def close(self) -> None:
        """Let go of the resolver."""
        await self._resolver.close()


def _has_failed(found: asyncio.Future[Any]) -> bool:
    return found.done() and (found.cancelled() or found.exception() is not None)


class GuardedConnector(aiohttp.TCPConnector):
    """Connects to what the guard allows, after each redirect that a client follows by itself.

    It keeps no connection open behind an answer. A forked child that closes its copy of one takes
    it out of the epoll which both share, and the parent's next request on it would wait for ever.
    """

    def __init__(self, guard: AddressGuard) -> None:
        super().__init__(resolver=GuardedResolver(guard), force_close=True)
        self._guard = guard

    async def connect(self, req: aiohttp.ClientRequest, *args: Any, **given: Any) -> Any:
        """Return a connection; `NotAskedError` for an address that may not be asked."""
        self._guard.check(str(req.url))
        return await super().connect(req, *args, **given)


async def client(guard: AddressGuard, **given: Any) -> aiohttp.ClientSession:
    """Return a client of what the guard allows, with these arguments."""
    given = {"max_line_size": HEAD_BYTES, "max_field_size": HEAD_BYTES, **given}
    return aiohttp.ClientSession(connector=GuardedConnector(guard), **given)
