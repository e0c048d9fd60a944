"""Name why an image is missing: typed reasons, counted, never the text of an exception."""

from __future__ import annotations

import enum
import errno
from typing import NamedTuple

from pico_banana.errors import CONTROLS

__all__ = [
    "AskError",
    "GivenUpError",
    "Missing",
    "MissingReason",
    "NotAskedError",
    "RefusedError",
    "TooManyError",
    "reason_of_fault",
]


class MissingReason(str, enum.Enum):
    """Why an image could not be had, as of the last place that was tried."""

    NOT_FOUND = "not_found"  # 404, 410
    PLACEHOLDER = "placeholder"  # Flickr's "photo unavailable", which may come with status 200
    NOT_LISTED = "not_listed"  # no ImageID, or not in the folder
    THROTTLED = "throttled"
    SERVER_ERROR = "server_error"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    TRUNCATED = "truncated"
    NOT_AN_IMAGE = "not_an_image"
    CORRUPT = "corrupt"
    FORBIDDEN = "forbidden"
    FORBIDDEN_ADDRESS = "forbidden_address"
    TOO_LARGE = "too_large"
    TOO_MANY_PIXELS = "too_many_pixels"
    UNRESOLVED = "unresolved"  # no place could be tried at all

    @property
    def is_transient(self) -> bool:
        """Whether the same request may work later; only such failures are tried again."""
        return self in _TRANSIENT

    @property
    def is_absence(self) -> bool:
        """Whether the image is known not to be there; only then is the next place tried."""
        return self in _ABSENT

    @property
    def is_odd(self) -> bool:
        """Whether a login page or a proxy may be what answered."""
        return self in _ODD

    @property
    def retries(self) -> int | None:
        """How often at most it is tried again; None leaves that to the policy."""
        if self in _ONCE_MORE:
            return 1
        return None if self.is_transient else 0


_ABSENT = {MissingReason.NOT_FOUND, MissingReason.PLACEHOLDER, MissingReason.NOT_LISTED}
_ODD = {MissingReason.NOT_AN_IMAGE, MissingReason.FORBIDDEN, MissingReason.FORBIDDEN_ADDRESS}
_ONCE_MORE = {MissingReason.NOT_AN_IMAGE, MissingReason.CORRUPT}
_TRANSIENT = {
    MissingReason.THROTTLED,
    MissingReason.SERVER_ERROR,
    MissingReason.TIMEOUT,
    MissingReason.CONNECTION,
    MissingReason.TRUNCATED,
}


# Only these say something of the file itself. All else (ESTALE, EIO, ETIMEDOUT, no more files may
# be open, …) is the system's or the disk's trouble of the moment.
_ABSENT_ERRNOS = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}
_REFUSED_ERRNOS = {errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR}


def reason_of_fault(error: OSError) -> MissingReason:
    """Return what a fault of a file system means: absent, refused, or one that may pass."""
    if error.errno in _ABSENT_ERRNOS or isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return MissingReason.NOT_FOUND
    if error.errno in _REFUSED_ERRNOS or isinstance(error, (PermissionError, IsADirectoryError)):
        return MissingReason.FORBIDDEN
    return MissingReason.CONNECTION


class Missing(NamedTuple):
    """An image that could not be had.

    Attributes:
        url: its published address.
        reason: why, as of the last place tried.
        tries: requests made for it in all, at least 0.
        address: the last address that was tried, None where none could be.
        detail: what happened there, in words for a person.
    """

    url: str
    reason: MissingReason
    tries: int
    address: str | None
    detail: str


_LONGEST = 300


class AskError(Exception):
    """One request did not bring the image.

    Attributes:
        reason: why.
        detail: what happened, in words.
        status: the HTTP status, 0 where there was none.
        retry_after_s: what the host asked for, or 0.
        sha256: of the bytes that came, where they came whole and are no whole image.
        hint: what a person should know of the host, once.
    """

    def __init__(
        self,
        reason: MissingReason,
        detail: str,
        *,
        status: int = 0,
        retry_after_s: float = 0,
        sha256: str = "",
        hint: str = "",
    ) -> None:
        # A server may say anything, and at length.
        detail = CONTROLS.sub(" ", detail[:_LONGEST])
        super().__init__(detail)
        self.reason, self.detail, self.status = reason, detail, status
        self.retry_after_s, self.sha256, self.hint = retry_after_s, sha256, hint


class RefusedError(AskError):
    """The connection was refused, or closed before it ever answered."""


class TooManyError(AskError):
    """The host takes no more connections at once: no try of the image."""


class NotAskedError(AskError):
    """No request was made: the address is one that may not be asked."""


class GivenUpError(NotAskedError):
    """No request was made: the host is not asked any more in this run."""
