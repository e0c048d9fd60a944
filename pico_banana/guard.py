"""Guard which addresses may be asked, whatever a record, a redirect or a name server says."""

from __future__ import annotations

import contextlib
import fnmatch
import socket
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from pico_banana.errors import bare_url
from pico_banana.hosts import Host, is_private
from pico_banana.missing import AskError, MissingReason

__all__ = [
    "AddressGuard",
    "GuardedConnector",
    "GuardedResolver",
    "PrivateAddressError",
]


class AddressGuard:
    """Which addresses may be asked; private and loopback ones only where the user named them.

    Args:
        published: globs of host names that may be asked by http and https at their usual ports.
        named: the hosts that the user gave. At the usual ports each may also be asked by the other
            of http and https, for servers lead from one to the other, unless it is private.
    """

    def __init__(self, published: Sequence[str], named: Sequence[Host]) -> None:
        self._published, self._named = published, named
        # A proxy is resolved in place of the host, and mostly has a private address.
        self._proxies = frozenset(_proxies())

    def check(self, url: str) -> None:
        """Raise `AskError` (forbidden_address) for a URL that may not be asked."""
        try:
            host = Host.of(url)
        except ValueError as error:
            detail = f"{bare_url(url)} may not be asked: {error}"
            raise AskError(MissingReason.FORBIDDEN_ADDRESS, detail) from None
        if any(self._is(host, named) for named in self._named):
            return
        if is_private(host.name):
            detail = f"address {host.name} is private, and asked only where cdn or mirrors name it"
        elif self._is_published(host):
            return
        else:
            detail = f"host {host.name}, port {host.port} of {host.scheme}, may not be asked"
        raise AskError(MissingReason.FORBIDDEN_ADDRESS, detail)

    def _is_published(self, host: Host) -> bool:
        is_named = any(_matches(host.name, named.name) for named in self._named if named.is_usual)
        return host.is_usual and (
            is_named or any(_matches(host.name, glob.lower()) for glob in self._published)
        )

    @staticmethod
    def _is(host: Host, named: Host) -> bool:
        if (host.scheme, host.port) != (named.scheme, named.port):
            return False
        # "*" names no private address.
        return host.name == named.name or (
            _matches(host.name, named.name) and not is_private(host.name)
        )

    def admits(self, name: str, port: int, address: str) -> bool:
        """Whether a name that is asked at a port may resolve to an address."""
        if not is_private(address):
            return True
        name = name.lower()
        if (name, port) in self._proxies:
            return True
        # A name that a record may end as it likes is nobody's: its owner says what it resolves to.
        return any(
            named.port == port and _matches(name, named.name) and named.name[-1:] not in "*?]"
            for named in self._named
        )


def _matches(name: str, glob: str) -> bool:
    return fnmatch.fnmatchcase(name, glob)


def _proxies() -> Iterator[tuple[str, int]]:
    """Name and port of the proxies that the environment names."""
    for proxy in urllib.request.getproxies().values():
        # What is no URL cannot be asked through either, and its client says so.
        with contextlib.suppress(ValueError):
            parts = urlsplit(proxy)
            usual = 443 if parts.scheme == "https" else 80
            yield (parts.hostname or "").lower(), parts.port or usual


class PrivateAddressError(OSError):
    """A host name resolved to a private address only."""


class GuardedResolver(AbstractResolver):
    """Resolves names as ever, and leaves out the addresses that the guard does not admit."""

    def __init__(self, guard: AddressGuard) -> None:
        self._guard, self._resolver = guard, aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return a name's addresses; `PrivateAddressError` where none is admitted."""
        found = await self._resolver.resolve(host, port, family)
        admitted = [entry for entry in found if self._guard.admits(host, port, entry["host"])]
        if found and not admitted:
            raise PrivateAddressError(f"{host} resolves to a private address")
        return admitted

    async def close(self) -> None:
        """Let go of the resolver."""
        await self._resolver.close()


class GuardedConnector(aiohttp.TCPConnector):
    """Connects to what the guard allows, after each redirect that a client follows by itself.

    It keeps no connection open behind an answer. A forked child that closes its copy of one takes
    it out of the epoll which both share, and the parent's next request on it would wait for ever.
    """

    def __init__(self, guard: AddressGuard) -> None:
        super().__init__(resolver=GuardedResolver(guard), force_close=True)
        self._guard = guard

    async def connect(self, req: aiohttp.ClientRequest, *args: Any, **given: Any) -> Any:
        """Return a connection for a request; `AskError` for an address that may not be asked."""
        self._guard.check(str(req.url))
        return await super().connect(req, *args, **given)
