"""Read images from folders and fsspec places: nothing outside of them, and never too much."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import fsspec

from pico_banana.errors import bare_text
from pico_banana.input_sources import Place
from pico_banana.missing import AskError, MissingReason, reason_of_fault

__all__ = ["File", "find_file"]


class File(NamedTuple):
    """A file that may be read.

    `size_bytes` is what its file system says, None where that does not know. `read` returns its
    bytes, at most so many, and raises `AskError`.
    """

    size_bytes: int | None
    read: Callable[[int], bytes]


def find_file(place: Place, storage_options: Mapping[str, Any]) -> File:
    """Return the file at a place; `AskError`, with the reason, where it cannot or must not be read.

    A local file must really lie in one of the folders `place.within`: a link inside of them that
    leads outside is not followed. Nothing but regular files is opened, so nothing blocks.
    """
    if not place.is_local:
        return _remote(place, storage_options)
    with _local_errors():
        path = _real(place.address)
        if not any(_lies_in(path, folder) for folder in place.within):
            raise AskError(
                MissingReason.FORBIDDEN, "it is a link, or lies behind one, that leads outside"
            )
        size = _regular(os.stat(path)).st_size
    return File(size, lambda most: _read_local(path, most))


def _real(path: str) -> str:
    """Where a path really lies, or would, if it were there; `OSError` where the disk fails."""
    try:
        return os.path.realpath(path, strict=True)
    except OSError as error:
        if not reason_of_fault(error).is_absence:
            raise
    return os.path.realpath(path)


def _lies_in(path: str, folder: str) -> bool:
    # The folder itself may be a link: it is the user's own.
    real = _real(folder)
    return os.path.commonpath([path, real]) == real


def _regular(found: os.stat_result) -> os.stat_result:
    if not stat.S_ISREG(found.st_mode):
        raise AskError(MissingReason.FORBIDDEN, "it is no regular file")
    return found


def _read_local(path: str, most: int) -> bytes:
    with _local_errors():
        # The path is the real one. Should it have become a link or a pipe since, it is not read.
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(number, "rb") as file:
            size = _regular(os.fstat(number)).st_size
            data = file.read(min(size + 1, most))
            return data if len(data) <= size else data + file.read(most - len(data))


@contextmanager
def _local_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = reason_of_fault(error)
        raise AskError(reason, "no such file" if reason.is_absence else str(error)) from None
    except ValueError as error:  # a name that no file can have
        raise AskError(MissingReason.FORBIDDEN, str(error)) from None


def _remote(place: Place, storage_options: Mapping[str, Any]) -> File:
    base = place.within[0] if place.within else place.address
    rest = place.address.removeprefix(base).lstrip("/")
    with _remote_errors(storage_options):
        # Only the user's part is read as a URL: "::" in a record's path would name another place.
        file_system, root = fsspec.core.url_to_fs(base, **storage_options)
        path = f"{root.rstrip('/')}/{rest}" if root and rest else root or rest
        info = file_system.info(path)
        if info.get("type") == "directory":
            raise AskError(MissingReason.FORBIDDEN, "it is no file but a folder")
        size = info.get("size")

    def read(most: int) -> bytes:
        if size == 0:
            return b""  # a range of an empty object is an error on S3
        with _remote_errors(storage_options):
            # A range, for the size may be a lie.
            data = bytes(file_system.cat_file(path, start=0, end=most))
        if size is not None and len(data) < min(size, most):
            raise AskError(MissingReason.TRUNCATED, f"{len(data)} bytes came of {size}")
        return data

    return File(size, read)


@contextmanager
def _remote_errors(storage_options: Mapping[str, Any]) -> Iterator[None]:
    """Name the reason of a failure: every fsspec back end has errors of its own."""
    try:
        yield
    except AskError:
        raise
    except Exception as error:  # noqa: BLE001  (see above)
        kind = type(error).__name__
        reason = MissingReason.CONNECTION
        if isinstance(error, (asyncio.TimeoutError, TimeoutError)) or "Timeout" in kind:
            reason = MissingReason.TIMEOUT  # botocore's and urllib3's are told by their names
        elif isinstance(error, OSError):
            reason = reason_of_fault(error)
        if reason.is_absence:
            raise AskError(reason, "no such file") from None
        said = bare_text(f"{kind}: {error}".rstrip(": "), storage_options)
        raise AskError(reason, said) from None
