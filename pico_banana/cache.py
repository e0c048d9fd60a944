"""Keep the files that are fetched once (records, manifests, the index) in one folder."""

from __future__ import annotations

import functools
import hashlib
import os
import random
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import aiohttp
import fsspec
import fsspec.asyn
from filelock import FileLock
from fsspec.callbacks import Callback
from fsspec.implementations.local import LocalFileSystem

from pico_banana.errors import ReleaseError, bare_text, bare_url
from pico_banana.guard import AddressGuard, GuardedConnector
from pico_banana.hosts import Host
from pico_banana.missing import AskError

__all__ = ["Fetching", "RemoteFile", "cache_folder", "kept", "local_name", "made_once", "replacing"]

_TRIES = 5
_BLOCK_BYTES = 1024 * 1024

Fetching = Callable[[int, "int | None"], None]
"""Told the bytes so far and the bytes in all (None where unknown)."""


def cache_folder() -> str:
    """Return `PICO_BANANA_CACHE`, or `pico_banana_400k` beside the caches below `HF_HOME`."""
    own = os.environ.get("PICO_BANANA_CACHE")
    if own:
        return os.path.expanduser(own)
    base = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME", os.path.join(base, "huggingface"))
    return os.path.join(os.path.expanduser(home), "pico_banana_400k")


@contextmanager
def replacing(path: str) -> Iterator[str]:
    """Give a temporary name beside `path` to write to; it becomes `path` when all went well.

    Nobody ever sees a half-written file under the final name; on an error nothing is left.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    # Not mkstemp's: its files can be read by their owner alone, and a cache may be shared.
    name = f".{os.path.basename(path)}.{secrets.token_hex(8)}"
    temporary = os.path.join(os.path.dirname(path), name)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def kept(name: str, make: Callable[[str], None]) -> str:
    """Return the path of a cached file, made by `make(temporary path)` where it is not there.

    Safe for processes that start at once: one makes the file, the others wait for it.
    """
    path = os.path.join(cache_folder(), name)
    try:
        return made_once(path, make, os.path.exists)
    except OSError as error:
        raise ReleaseError(
            f"the cache folder {cache_folder()} cannot be written: {error}; set "
            "PICO_BANANA_CACHE to another folder",
            cache_folder(),
        ) from None


def made_once(path: str, make: Callable[[str], None], is_there: Callable[[str], bool]) -> str:
    """Return `path`, made by `make(temporary path)` where `is_there(path)` does not hold.

    Safe for processes that start at once, as `kept`; `OSError` where it cannot be written.
    """
    if not is_there(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with FileLock(path + ".lock"):
            if not is_there(path):
                _sweep(path)
                with replacing(path) as temporary:
                    make(temporary)
    return path


def _sweep(path: str) -> None:
    """Delete what killed processes have left beside a file; its lock must be held."""
    folder, base = os.path.split(path)
    left = re.compile(rf"\.{re.escape(base)}\.[0-9a-f]{{16}}(?:\..*)?")
    for name in os.listdir(folder):
        if left.fullmatch(name):
            with suppress(OSError):
                os.unlink(os.path.join(folder, name))


def local_name(url: str, identity: str) -> str:
    """Return a file name that tells this version of this URL from every other."""
    digest = hashlib.sha256(f"{url}\n{identity}".encode()).hexdigest()[:24]
    return f"{digest}-{os.path.basename(bare_url(url))[-80:]}"


if not hasattr(fsspec.asyn, "reset_after_fork") and hasattr(os, "register_at_fork"):
    # Before 2026 fsspec leaves that to others: a forked child would wait for ever for a loop that
    # runs in its parent.
    os.register_at_fork(after_in_child=fsspec.asyn.reset_lock)


class _Shown(Callback):  # type: ignore[misc]  # fsspec has no types
    """Passes on what fsspec says of a transfer."""

    def __init__(self, progress: Fetching | None) -> None:
        super().__init__()
        self._progress = progress

    def call(self, *_: Any, **__: Any) -> None:
        if self._progress is not None:
            self._progress(self.value, self.size)


@functools.cache
def _client_of(host: Host) -> Callable[..., Any]:
    """What makes a client that asks this host, and what it leads to on the public internet."""
    guard = AddressGuard(("*",), (host,))

    async def get_client(**given: Any) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=GuardedConnector(guard), **given)

    return get_client


@dataclass(frozen=True)
class RemoteFile:
    """A file in a folder, behind http(s), or on any fsspec file system.

    Attributes:
        url: URL or local path; may be signed, so messages show `shown`.
        storage_options: passed on to fsspec.
    """

    url: str
    storage_options: Mapping[str, Any]

    @property
    def shown(self) -> str:
        """The URL or path as messages may show it."""
        return bare_url(self.url)

    def _file_system(self) -> tuple[Any, str]:
        options = dict(self.storage_options)
        try:
            if self.url.startswith(("http://", "https://")):
                # Proxies and CA bundles come from the environment.
                client = _client_of(Host.of(self.url))
                options = {"client_kwargs": {"trust_env": True}, "get_client": client}
            return cast("tuple[Any, str]", fsspec.core.url_to_fs(self.url, **options))
        except (ImportError, ValueError, TypeError) as error:
            said = bare_text(str(error), self.storage_options)
            raise ReleaseError(f"{self.shown} cannot be opened: {said}", self.shown) from None

    @property
    def is_local(self) -> bool:
        """Whether the file lies in a folder of this machine."""
        return isinstance(self._file_system()[0], LocalFileSystem)

    def identity(self) -> str:
        """Return what changes when the file changes: its ETag, or its size and time."""
        return cast("str", self._try("looked up", self._identity))

    def _identity(self) -> str:
        file_system, path = self._file_system()
        file_system.invalidate_cache()
        info = file_system.info(path)
        for name in ("ETag", "etag", "md5", "checksum", "Last-Modified"):
            if info.get(name):
                return str(info[name])
        changed = info.get("mtime") or info.get("LastModified") or info.get("created") or ""
        return f"{info.get('size')}-{changed}"

    def size_bytes(self) -> int | None:
        """Return the file's size, None where its server does not say it."""
        file_system, path = self._file_system()
        size = self._try("looked up", lambda: file_system.info(path).get("size"))
        return cast("int | None", size)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the file for reading, from its first byte on."""
        file_system, path = self._file_system()
        file = self._try("opened", lambda: file_system.open(path, "rb"))
        with file:
            yield file

    @contextmanager
    def reading(self, start: int = 0) -> Iterator[Callable[[int], bytes]]:
        """Give a function that returns the next bytes, at most so many, from `start` on.

        What fails in passing is read again, from a newly opened file.
        """
        with ExitStack() as opened:
            file: BinaryIO | None = None
            position, ranges = start, True

            def read_on(size: int) -> bytes:
                nonlocal file, position, ranges
                if file is None:
                    opened.close()
                    file = opened.enter_context(self._opened_at(position, ranges=ranges))
                try:
                    block = file.read(size)
                except Exception as error:
                    file = None
                    # fsspec's, of an http server that ignores Range; a stream needs none
                    ranges = ranges and not isinstance(error, ValueError)
                    raise
                position += len(block)
                return block

            yield lambda size: cast("bytes", self._try("read", lambda: read_on(size)))

    @contextmanager
    def _opened_at(self, position: int, *, ranges: bool) -> Iterator[BinaryIO]:
        file_system, path = self._file_system()
        with file_system.open(path, "rb", **({} if ranges else {"block_size": 0})) as file:
            try:
                file.seek(position)
            except ValueError:  # a stream, of a server that gives no ranges: read up to there
                while position and (block := file.read(min(position, _BLOCK_BYTES))):
                    position -= len(block)
            yield file

    def copy(self, path: str, progress: Fetching | None = None) -> None:
        """Copy the whole file to a local path; `ReleaseError` where that fails for good."""
        self._try("fetched", lambda: self._copy(path, progress))

    def _copy(self, path: str, progress: Fetching | None) -> None:
        file_system, remote = self._file_system()
        shown = _Shown(progress)
        # Streams, and so needs no Range requests of the server.
        file_system.get_file(remote, path, callback=shown)
        done = os.path.getsize(path)
        if shown.size is not None and done != shown.size:
            raise OSError(f"it should have {shown.size} bytes, but {done} came")

    def kept(self, folder: str, progress: Fetching | None = None) -> str:
        """Return a local path of the file: itself, or a copy in the cache folder."""
        if self.is_local:
            path = self._file_system()[1]
            if not os.path.isfile(path):
                raise ReleaseError(f"{self.shown} is not there", self.shown)
            return path
        name = os.path.join(folder, local_name(self.url, self.identity()))
        return kept(name, lambda temporary: self.copy(temporary, progress))

    def _try(self, verb: str, call: Callable[[], Any]) -> Any:
        """Call until it works, a permanent failure shows, or the tries are used up."""
        for again in range(_TRIES):
            try:
                return call()
            except (ReleaseError, ImportError):  # noqa: PERF203
                raise
            except Exception as error:  # noqa: BLE001
                # Every fsspec back end has its own exceptions; what they share is that trying
                # again is safe, and that the last one's words help the user.
                cause = _cause(error)
                if again == _TRIES - 1 or isinstance(cause, _PERMANENT):
                    kind = "" if isinstance(cause, AskError) else f"{type(cause).__name__}: "
                    said = f"{kind}{cause}".rstrip(": ")
                    said = bare_text(said, self.storage_options)
                    # Without the cause: its text may hold a signed URL.
                    raise ReleaseError(
                        f"{self.shown} cannot be {verb}: {said}; check the address, the network "
                        "and proxies",
                        self.shown,
                    ) from None
                time.sleep(random.uniform(0.1, 0.3) * 2**again)  # noqa: S311
        raise AssertionError("unreachable")


_PERMANENT = (
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    AskError,  # the guard's: a redirect to an address that may not be asked
)


def _cause(error: Exception) -> Exception:
    """What really went wrong: fsspec says FileNotFoundError of a server that does not answer."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(cause, Exception):
        is_absent = getattr(cause, "status", None) in (404, 410)
        return error if is_absent else cause
    return error
