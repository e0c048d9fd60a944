"""Tell hosts apart: scheme, name and port of a URL, and which addresses are private."""

from __future__ import annotations

import functools
import ipaddress
import re
from typing import NamedTuple
from urllib.parse import urlsplit

__all__ = ["Host", "is_private", "origin_of"]

_PORTS = {"http": 80, "https": 443}
# Nothing that one reader of URLs takes for a part of the name, and another one does not.
_NAME = re.compile(r"[a-z0-9_-][a-z0-9._-]*")
# Systems read 127.1, 2130706433 and 0x7f.1 as addresses: 127.0.0.1.
_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?")
_GAPS = re.compile(r"[\x00-\x20\x7f\\]")
_PATH = re.compile(r"[/?#]")


def origin_of(url: str) -> tuple[str, str, str]:
    """Return a URL's scheme, "://" and what stands before its path; few differ in a release."""
    scheme, mark, rest = url.partition("://")
    return scheme, mark, _PATH.split(rest, 1)[0]


class Host(NamedTuple):
    """What answers requests: scheme, name and port. The name may be a glob of names."""

    scheme: str
    name: str
    port: int

    @classmethod
    def of(cls, url: str) -> Host:
        """Return an http(s) URL's host; `ValueError` for any other, and for one with a user."""
        if _GAPS.search(url):
            raise ValueError("a URL has no spaces, controls and backslashes")
        if not url.isascii():
            from yarl import URL  # noqa: PLC0415  (rare)

            url = str(URL(url))  # as it is asked for, a name with umlauts included
        return cls._of_origin("".join(origin_of(url)))

    @classmethod
    @functools.lru_cache(1024)
    def _of_origin(cls, origin: str) -> Host:
        parts = urlsplit(origin)
        if parts.scheme not in _PORTS:
            raise ValueError(f"{parts.scheme or 'nothing'}: is not http or https")
        if "@" in parts.netloc:
            raise ValueError("a URL must not hold a user or a password")
        port = _PORTS[parts.scheme] if parts.port is None else parts.port
        return cls(parts.scheme, _name(parts.hostname or ""), port)

    @property
    def is_usual(self) -> bool:
        """Whether the port is its scheme's own."""
        return self.port == _PORTS[self.scheme]


def _name(name: str) -> str:
    """The one spelling of a host's name or address."""
    address = _address(name)
    if address is not None:
        return str(address)
    if not _NAME.fullmatch(name) or _NUMBER.fullmatch(name):
        raise ValueError(f"{name!r} is no host's name")
    return name


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0] if ":" in text else text)
    except ValueError:
        return None


# A gateway to IPv4: what matters is the address behind it.
_GATEWAY = ipaddress.IPv6Network("64:ff9b::/96")
# Local gateways, and outdated forms that hide an IPv4 address; and addresses of a site.
_HIDING = [
    ipaddress.IPv6Network(text)
    for text in ("::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16", "fec0::/10")
]


def is_private(address: str) -> bool:
    """Whether a text is the literal of an address that is not one host on the public internet."""
    parsed = _address(address)
    if parsed is None:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        if any(parsed in network for network in _HIDING):
            return True
        if parsed in _GATEWAY:
            parsed = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        elif parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
    return (
        not parsed.is_global or parsed.is_multicast or parsed.is_reserved or parsed.is_unspecified
    )
