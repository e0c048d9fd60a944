"""Know the published addresses, and take URLs apart: where one is asked, and who answers there."""

from __future__ import annotations

import fnmatch
import functools
import ipaddress
import os
import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, urlsplit

__all__ = [
    "BUCKET",
    "COMMON_PATH",
    "FLICKR_HOSTS",
    "METADATA_CSV",
    "PUBLISHED_BASE",
    "Asked",
    "Host",
    "host_of",
    "is_private",
    "join",
    "mirrored",
    "origin_of",
    "path_of",
    "photo_of",
    "published_url",
    "where_asked",
]

PUBLISHED_BASE = "https://ml-site.cdn-apple.com/datasets/pico-banana-300k/nb/"
"""Where the release was published; every `*_url` column starts with it. [release's README]"""

BUCKET = "https://open-images-dataset.s3.amazonaws.com/train/"
"""Open Images' public bucket, one `<ImageID>.jpg` a photo. [cvdfoundation/open-images-dataset]"""

FLICKR_HOSTS = "*.staticflickr.com"
"""The hosts that a record's input URL may reach by itself."""

METADATA_CSV = (
    "https://storage.googleapis.com/openimages/2018_04/train/train-images-boxable-with-rotation.csv"
)
"""Open Images' image list: 1,743,042 rows, about 600 MB. [release's README]"""

COMMON_PATH = re.compile(r"images(?:/[A-Za-z0-9_-][A-Za-z0-9_.-]{0,250}){1,16}")
"""What every published path looks like; it stands in URLs as it is."""

# As fsspec reads them: "zip://a.csv::s3://bucket/b.zip", "simplecache::s3://bucket/a.csv".
_SCHEME = re.compile(r"(?:[a-z][\w+.-]*::)*[a-z][\w+.-]*://", re.ASCII | re.IGNORECASE)
_LOCAL_SCHEME = re.compile(r"(?:file|local)://|file:(?!:)", re.IGNORECASE)
_PORTS = {"http": 80, "https": 443}
# Nothing that one reader of URLs takes for a part of the name, and another one does not.
_NAME = re.compile(r"[a-z0-9_-][a-z0-9._-]*")
# Systems read 127.1, 2130706433 and 0x7f.1 as addresses: 127.0.0.1.
_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?")
_BRACKETED = re.compile(r"\[[^\[\]]*\](?::[0-9]*)?")
_GAPS = re.compile(r"[\x00-\x20\x7f\\]")
_PATH = re.compile(r"[/?#]")


def path_of(place: str, *, is_new: bool = False) -> str | None:
    """Return the local path that a user means by a place, None where it is a URL.

    What is there is a path, whatever characters its name has: `a::b` and `c://d` too. So is, with
    `is_new`, what is to be made in a folder that is there. A path may be a `file:` URL otherwise,
    or begin with `~`.
    """
    if os.path.lexists(place):
        return place
    is_like_url = _SCHEME.match(place) is not None
    if is_new and is_like_url and os.path.isdir(os.path.dirname(place.rstrip("/"))):
        return place
    if is_local := _LOCAL_SCHEME.match(place):
        place = place[is_local.end() :]
    elif is_like_url:
        return None
    return os.path.expanduser(place)


def photo_of(url: str) -> str:
    """Return the last path segment of a photo's URL, without the query."""
    return url.partition("?")[0].partition("#")[0].rpartition("/")[2]


def published_url(path: str) -> str:
    """Return the published address of a path of the release; paths are names, not encoded URLs."""
    return PUBLISHED_BASE + (path if COMMON_PATH.fullmatch(path) else quote(path))


def mirrored(url: str, mirrors: Mapping[str, str]) -> str:
    """Return where a URL is really asked: the first mirror whose host glob matches, or itself."""
    return where_asked(url, mirrors).address


def join(base: str, path: str) -> str:
    """Join a release's base with a path below it: quoted for http(s), as it is elsewhere."""
    return f"{base}/{quote(path) if base.startswith(('http://', 'https://')) else path}"


class Asked(NamedTuple):
    """Where a URL is really asked, and the part of that which the user gave, up to any {host}."""

    address: str
    own: str


def where_asked(url: str, mirrors: Mapping[str, str]) -> Asked:
    """Return where a URL is really asked: at the first mirror whose host glob matches, or itself.

    A place that is no http(s) URL stays itself.
    """
    if not mirrors or not url.startswith(("http://", "https://")):
        return Asked(url, url)
    parts = urlsplit(url)
    host = parts.hostname or ""
    for glob, base in mirrors.items():
        if fnmatch.fnmatchcase(host, glob.lower()):
            query = f"?{parts.query}" if parts.query else ""
            address = base.replace("{host}", host).rstrip("/") + parts.path + query
            own, is_open, _ = base.partition("{host}")
            return Asked(address, own[: own.rfind("/") + 1] if is_open else base)
    return Asked(url, url)


def origin_of(url: str) -> tuple[str, str, str]:
    """Return a URL's scheme, "://" and what stands before its path; few differ in a release."""
    scheme, mark, rest = url.partition("://")
    return scheme, mark, _PATH.split(rest, 1)[0]


def host_of(url: str) -> str:
    """Return scheme, name and port of a URL: what a budget is kept for."""
    return _host_of_origin("".join(origin_of(url)))


@functools.lru_cache(1024)
def _host_of_origin(origin: str) -> str:
    parts = urlsplit(origin)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    name = (parts.hostname or "").lower()
    return f"{parts.scheme}://{f'[{name}]' if ':' in name else name}:{port}"


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
        if "[" in parts.netloc and not _BRACKETED.fullmatch(parts.netloc):
            raise ValueError("an IPv6 address must stand in brackets, and only a port behind it")
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
