"""Name everything that can go wrong, as one tree, and what messages may show of an address.

PicoBananaError
├── UsageError              wrong use, found before any image is fetched; exit code 2
│   ├── SettingError        an argument that is not allowed          .name .value
│   ├── ReleaseError        a release that cannot be read            .url
│   └── OutputError         an output that cannot be used            .path
└── WorkError               work that failed after it began; exit code 1
    ├── MissingImageError   an image is missing and must not be      .url .reason
    ├── TooManyMissingError more is missing than the user allows     .missing .allowed
    └── WriteError          the output cannot be written any more    .path

An image that cannot be had is no exception but a typed `pico_banana.missing.Missing`, and a line
that is no record is a `pico_banana.release.records.BadRecord`: both are counted, and the work goes
on.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = [
    "CONTROLS",
    "MissingImageError",
    "OutputError",
    "PicoBananaError",
    "ReleaseError",
    "SettingError",
    "TooManyMissingError",
    "UsageError",
    "WorkError",
    "WriteError",
    "bare_text",
    "bare_url",
    "holds_password",
    "near",
]


class PicoBananaError(Exception):
    """The root of all errors that this project raises on purpose."""


class UsageError(PicoBananaError, ValueError):
    """Wrong use, found before any image is fetched."""


class SettingError(UsageError):
    """An argument that is not allowed: "NAME must …, but got VALUE; the way out".

    Attributes:
        name: the argument.
        value: what was given.
    """

    def __init__(self, name: str, value: Any, must: str, way_out: str = "") -> None:
        super().__init__(f"{name} {must}, but got {value!r}{way_out}")
        self.name, self.value, self._must, self._way_out = name, value, must, way_out

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.value, self._must, self._way_out)


class _AboutError(PicoBananaError):
    """An error about one place; the message names it and the way out."""

    def __init__(self, message: str, about: str) -> None:
        super().__init__(message)
        self._about = about

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self._about)


class ReleaseError(_AboutError, UsageError):
    """A release, or another file that is needed once, cannot be read; `url` is the place."""

    @property
    def url(self) -> str:
        """The URL or path that could not be read."""
        return self._about


class OutputError(_AboutError, UsageError):
    """An output that cannot be used: another plan's, locked, not writable."""

    @property
    def path(self) -> str:
        """The output, or the file in it."""
        return self._about


class WorkError(PicoBananaError):
    """Work that failed after it began; what is finished stays finished."""


class MissingImageError(WorkError):
    """An image is missing where `on_missing="fail"` or a cache would keep the hole for ever."""

    def __init__(self, message: str, url: str, reason: str) -> None:
        super().__init__(message)
        self.url, self.reason = url, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.url, self.reason)


class TooManyMissingError(WorkError):
    """More examples with missing images than `--max-missing` allows."""

    def __init__(self, missing: int, allowed: str) -> None:
        super().__init__(
            f"{missing} examples have missing images, more than --max-missing {allowed} allows; "
            "the ledgers of finished shards in _ledger/ say which and why. Look at the network and "
            "the sources, then run the same command with --retry-missing, which tries them again "
            "and continues, or allow more"
        )
        self.missing, self.allowed = missing, allowed

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.missing, self.allowed)


class WriteError(_AboutError, WorkError):
    """The output cannot be written any more: disk full, permission lost, deleted underneath."""

    @property
    def path(self) -> str:
        """The file that could not be written."""
        return self._about


def near(value: str, allowed: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest of the allowed words, or "" if none is near."""
    found = difflib.get_close_matches(value.lower(), [word.lower() for word in allowed], n=1)
    match = next((word for word in allowed if found and word.lower() == found[0]), None)
    return f"; did you mean {match!r}?" if match else ""


CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Characters that would move a terminal's cursor or change its title: C0, DEL, C1."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")
_HOP = re.compile(r"::(?![^\[\]/]*\])")  # fsspec chains file systems so; not in an IPv6 address
_ODD_PORT = re.compile(r"(?!arn:)[^\[\]]*:(?![0-9]*$)")
_SHORTEST_SECRET = 6
_WITH_BRANCH = ("git", "github")  # github://owner:repository@branch


def bare_url(url: str) -> str:
    """Return a URL as it may be shown: without password, query and fragment.

    A signed URL's query is a key. A local path stays itself.
    """
    return url if os.path.isabs(url) else "::".join(map(_bare, _HOP.split(url)))


def _bare(url: str) -> str:
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url
    authority, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    if _has_secret(scheme, authority):
        authority = authority.rpartition("@")[2]
    return f"{scheme}://{authority}{slash}{path}"


def _has_secret(scheme: str, authority: str) -> bool:
    user, at, _ = authority.rpartition("@")
    if scheme.lower() in ("http", "https"):
        return bool(at)
    return ":" in user and scheme.lower() not in _WITH_BRANCH


def bare_text(text: str, storage_options: Any = None) -> str:
    """Return what an exception says as it may be shown: URLs bare, no text of storage options."""
    text = _URL.sub(lambda found: bare_url(found[0]), text)
    for secret in sorted(_texts(storage_options), key=len, reverse=True):
        text = text.replace(secret, "…")
    return text


def _texts(options: Any) -> Iterator[str]:
    """The texts of nested options that may be secrets: addresses and short words are none."""
    if isinstance(options, Mapping):
        options = options.values()
    if isinstance(options, str):
        if len(options) >= _SHORTEST_SECRET and not _URL.match(options):
            yield options
    elif isinstance(options, Iterable):
        for option in options:
            yield from _texts(option)


def holds_password(place: str) -> bool:
    """Whether a URL holds a password, or an http(s) one a user; a local path never does.

    Such a place would stand in process lists and shell histories, and pass into messages.
    """
    for url in [] if os.path.isabs(place) else _HOP.split(place):
        scheme, mark, rest = url.partition("://")
        authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
        # A password with a slash in it ends the authority: what is left looks like a port.
        is_cut = bool(_ODD_PORT.match(authority)) and scheme.lower() not in _WITH_BRANCH
        if mark and (is_cut or _has_secret(scheme, authority)):
            return True
    return False
