"""Guard which addresses may be asked, whatever a record, a redirect or a name server says."""

from __future__ import annotations

import contextlib
import fnmatch
import urllib.request
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from pico_banana.errors import bare_url
from pico_banana.missing import MissingReason, NotAskedError
from pico_banana.urls import Host, is_private

__all__ = [
    "AddressGuard",
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
        """Raise `NotAskedError` (forbidden_address) for a URL that may not be asked."""
        try:
            host = Host.of(url)
        except ValueError as error:
            detail = f"{bare_url(url)} may not be asked: {error}"
            raise NotAskedError(MissingReason.FORBIDDEN_ADDRESS, detail) from None
        if any(self._is(host, named) for named in self._named):
            return
        if is_private(host.name):
            detail = f"address {host.name} is private, and asked only where cdn or mirrors name it"
        elif self._is_published(host):
            return
        else:
            detail = f"host {host.name}, port {host.port} of {host.scheme}, may not be asked"
        raise NotAskedError(MissingReason.FORBIDDEN_ADDRESS, detail)

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
