"""Name everything that can go wrong, as one tree.

PicoBananaError
├── UsageError              wrong use, found before any image is fetched; exit code 2
│   ├── SettingError        an argument that is not allowed          .name .value
│   ├── ReleaseError        a release that cannot be read            .url
│   └── OutputError         an output that cannot be used            .path
└── WorkError               work that failed after it began; exit code 1
    ├── MissingImageError   an image is missing and must not be      .url .reason
    ├── TooManyMissingError more is missing than the user allows     .missing .allowed
    └── WriteError          the output cannot be written any more    .path

An image that cannot be had is no exception but a typed `pico_banana.fetch.Missing`, and a line
that is no record is a `pico_banana.records.BadRecord`: both are counted and the work goes on.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

__all__ = [
    "MissingImageError",
    "OutputError",
    "PicoBananaError",
    "ReleaseError",
    "SettingError",
    "TooManyMissingError",
    "UsageError",
    "WorkError",
    "WriteError",
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
            "the sources, then run the same command again to continue, or allow more"
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
