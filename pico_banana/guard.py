"""Guard which addresses may be asked, whatever a record, a redirect or a name server says."""

from __future__ import annotations

import fnmatch
import ipaddress
import socket
import urllib.request
from collections.abc import Sequence
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from pico_banana.budgets import host_of
from pico_banana.missing import AskError, MissingReason

__all__ = ["AddressGuard", "GuardedResolver", "PrivateAddressError"]


class AddressGuard:
    """Which addresses may be asked: allowed hosts; private ones only where the user named them.

    Args:
        allowed: globs of host names.
        named: globs of hosts that the user gave, which may be private or loopback addresses.
    """

    def __init__(self, allowed: Sequence[str], named: Sequence[str]) -> None:
        self._allowed, self._named = allowed, tuple(name.lower() for name in named)
        # A proxy is resolved in place of the host, and mostly has a private address.
        proxies = (urlsplit(proxy).hostname or "" for proxy in urllib.request.getproxies().values())
        self._proxies = frozenset(proxies)

    def check(self, url: str) -> None:
        """Raise `AskError` (forbidden_address) for a URL that may not be asked."""
        try:
            parts = urlsplit(url)
            host_of(url)  # looks at the port
        except ValueError as error:
            raise AskError(MissingReason.FORBIDDEN_ADDRESS, f"{url} is no URL: {error}") from None
        host = (parts.hostname or "").lower()
        if parts.scheme not in ("http", "https") or parts.username or parts.password:
            raise AskError(MissingReason.FORBIDDEN_ADDRESS, f"{parts.scheme}: may not be asked")
        is_named = self._is_named(host)
        if not is_named and not any(
            fnmatch.fnmatchcase(host, glob.lower()) for glob in self._allowed
        ):
            raise AskError(MissingReason.FORBIDDEN_ADDRESS, f"host {host} may not be asked")
        if self.is_private(host) and not is_named:
            raise AskError(MissingReason.FORBIDDEN_ADDRESS, f"address {host} is private")

    def _is_named(self, host: str) -> bool:
        return any(fnmatch.fnmatchcase(host, glob) for glob in self._named)

    def admits(self, host: str, address: str) -> bool:
        """Whether a host name may resolve to an address."""
        host = host.lower()
        return self._is_named(host) or host in self._proxies or not self.is_private(address)

    @staticmethod
    def is_private(address: str) -> bool:
        """Whether a text is the literal of an address that is not on the public internet."""
        try:
            parsed = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        return not parsed.is_global


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
        admitted = [entry for entry in found if self._guard.admits(host, entry["host"])]
        if found and not admitted:
            raise PrivateAddressError(f"{host} resolves to a private address")
        return admitted

    async def close(self) -> None:
        """Let go of the resolver."""
        await self._resolver.close()
