"""Read files wherever they lie; fetch them once, going on where a fetch broke off."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast
from urllib.request import getproxies

import fsspec
import fsspec.asyn
from fsspec.implementations.local import LocalFileSystem

from pico_banana.errors import ReleaseError, bare_text, bare_url
from pico_banana.hosts.guard import AddressGuard
from pico_banana.missing import AskError
from pico_banana.storage.cache import Fetching, cache_errors, cache_folder, kept, local_name
from pico_banana.urls import Host

from .lock import hold

if TYPE_CHECKING:  # aiohttp takes long to import, and what lies in a folder needs none
    import aiohttp
    from typing_extensions import Self

__all__ = ["RemoteFile", "packings"]

_log = logging.getLogger("pico_banana")
_TRIES = 5
_BLOCK_BYTES = 1024 * 1024
# What is asked of an object store at once, and lost where that breaks off.
_PART_BYTES = 8 * 1024 * 1024
# Instead of aiohttp's 5 minutes for a whole request: 600 MB would need 2 MB/s.
_SILENCE_S = 60.0
_PART, _NOTHING_LEFT, _ABSENT = 206, 416, (404, 410)  # what http servers answer
_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]+)-[0-9]+|\*)/(?:([0-9]+)|\*)")


def _partial_name(path: str, url: str) -> str:
    """Where the bytes so far of a file lie that will be `path`; its end is the same for one URL."""
    folder, base = os.path.split(path)
    mark = hashlib.sha256(os.fsencode(url)).hexdigest()[:16]
    return os.path.join(folder, f".{base}.partial-{mark}")


def _sweep_older(partial: str) -> None:
    """Delete partial files of other versions of the same URL, unless somebody fetches them."""
    folder, own = os.path.split(partial)
    end = own[own.rindex(".") :]
    for name in os.listdir(folder):
        if name.endswith(end) and name != own:
            path = os.path.join(folder, name)
            lock = os.path.join(folder, f"{name[1 : -len(end)]}.lock")
            with suppress(OSError), hold(lock, 0):
                os.unlink(path)


class _ChangedError(Exception):
    """A file is no longer the one that was looked up."""


class _State(NamedTuple):
    """What a file's place said of it.

    Attributes:
        identity: changes when the file changes.
        fact: the name of what tells its versions apart, to the byte; "" where nothing does.
        size_bytes: None where it is not said.
    """

    identity: str
    fact: str
    size_bytes: int | None


class _Partial:
    """A file while its bytes come; `with` it open they can be written, afterwards no more."""

    def __init__(self, path: str, progress: Fetching | None) -> None:
        self.path, self.size_bytes, self.done = path, cast("int | None", None), 0
        self._progress = progress

    def __enter__(self) -> Self:
        with cache_errors():
            self._file = open(self.path, "ab")
        return self

    def __exit__(self, *_: object) -> None:
        with cache_errors():
            self._file.close()

    def begin(self, start: int, size_bytes: int | None) -> None:
        """Go on at `start`, which ends what is there; `size_bytes` is the whole's."""
        self.done, self.size_bytes = start, size_bytes
        with cache_errors():
            self._file.truncate(start)
        self._tell()

    def add(self, block: bytes) -> None:
        with cache_errors():
            self._file.write(block)
            self._file.flush()  # what was told is there, however this process ends
        self.done += len(block)
        self._tell()

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self.done, self.size_bytes)


if not hasattr(fsspec.asyn, "reset_after_fork") and hasattr(os, "register_at_fork"):
    # Before 2026 fsspec leaves that to others: a forked child would wait for ever for a loop that
    # runs in its parent.
    os.register_at_fork(after_in_child=fsspec.asyn.reset_lock)


@functools.cache
def _client_of(host: Host) -> Callable[..., Any]:
    """What makes a client that asks this host, and what it leads to on the public internet."""
    from pico_banana.hosts.connections import client  # noqa: PLC0415  (see above)

    return functools.partial(client, AddressGuard(("*",), (host,)))


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

    @property
    def _is_http(self) -> bool:
        return self.url.startswith(("http://", "https://"))

    def _file_system(self) -> tuple[Any, str]:
        options = dict(self.storage_options)
        if os.path.isabs(self.url):  # whatever its name is like: fsspec would take "::" apart
            return LocalFileSystem(), self.url
        try:
            if self._is_http:
                # Proxies and CA bundles come from the environment.
                client = _client_of(Host.of(self.url))
                options = {"client_kwargs": {"trust_env": bool(getproxies())}, "get_client": client}
                # Not by `url_to_fs`: it would take "[::1]" apart.
                return fsspec.filesystem("http", **options), self.url
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
        return self._state().identity

    def _state(self) -> _State:
        return cast("_State", self._try("looked up", self._look))

    def _look(self) -> _State:
        file_system, path = self._file_system()
        file_system.invalidate_cache()
        info = file_system.info(path)
        size = info.get("size")
        for fact in ("ETag", "etag", "md5", "checksum", "Last-Modified"):
            if said := str(info.get(fact) or ""):
                # A weak ETag is the same for bytes that only mean the same. [RFC 9110, 8.8.1]
                return _State(said, "" if said.startswith("W/") else fact, size)
        changed = next(
            (fact for fact in ("mtime", "LastModified", "created") if info.get(fact)), ""
        )
        return _State(f"{size}-{info.get(changed) or ''}", changed, size)

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
                    file = opened.enter_context(
                        self._opened_at(position, **({} if ranges else {"block_size": 0}))
                    )
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
    def _opened_at(self, position: int, **given: int) -> Iterator[BinaryIO]:
        file_system, path = self._file_system()
        with file_system.open(path, "rb", **given) as file:
            try:
                file.seek(position)
            except ValueError:  # a stream, of a server that gives no ranges: read up to there
                _warn_of_no_ranges(self.shown)
                while position and (block := file.read(min(position, _BLOCK_BYTES))):
                    position -= len(block)
            yield file

    def kept(self, folder: str, progress: Fetching | None = None) -> str:
        """Return a local path of the file: itself, or a copy in the cache folder.

        A fetch that breaks off, in this process or with it, is continued where it ended, unless
        the file has changed or nothing tells its versions apart. Safe for processes that start at
        once: one fetches, the others wait.

        Args:
            folder: the folder in the cache folder.
            progress: told the bytes, where they must be fetched; maybe in another thread.

        Raises:
            ReleaseError: the file cannot be fetched, or the cache folder not be written.
        """
        if self.is_local:
            path = self._file_system()[1]
            if not os.path.isfile(path):
                raise ReleaseError(f"{self.shown} is not there", self.shown)
            return path
        for again in range(_TRIES):
            state = self._state()
            if again == _TRIES - 1 and self._is_http:
                # Servers that share a name may each give a file another ETag. One answer of one of
                # them is no mixture, if it is not put together with another.
                state = state._replace(fact="")
            name = os.path.join(folder, local_name(self.url, state.identity))
            with suppress(_ChangedError):
                return kept(name, functools.partial(self._make, name, state, progress))
        raise ReleaseError(
            f"{self.shown} must stay the same while it is fetched, but its server says of it "
            "something else each time; try again later",
            self.shown,
        )

    @contextmanager
    def fetched(self, folder: str, progress: Fetching | None = None) -> Iterator[str]:
        """Give a local path of the file, as `kept`, and delete the copy when it has served.

        What ends the process leaves the copy, for the next one.
        """
        path = self.kept(folder, progress)
        try:
            yield path
        except Exception:
            self._delete(path)
            raise
        self._delete(path)

    def _delete(self, path: str) -> None:
        if not self.is_local:
            with suppress(FileNotFoundError):
                os.unlink(path)

    def _make(self, name: str, state: _State, progress: Fetching | None, temporary: str) -> None:
        partial = _partial_name(os.path.join(cache_folder(), name), self.url)
        _sweep_older(partial)
        path = partial if state.fact else temporary
        try:
            self._complete(path, state, progress)
        except _ChangedError:
            os.unlink(path)
            raise
        if path != temporary:
            os.replace(path, temporary)

    def _complete(self, path: str, state: _State, progress: Fetching | None) -> None:
        """Fetch what a partial file lacks; `_ChangedError` where that is another version's."""
        most = 0

        def has_grown() -> bool:
            nonlocal most
            before, most = most, max(most, _size_of(path))
            return most - before >= _BLOCK_BYTES

        self._try("fetched", lambda: self._continue(path, state, progress), has_grown)

    def _continue(self, path: str, state: _State, progress: Fetching | None) -> None:
        position = _size_of(path) if state.fact else 0
        with _Partial(path, progress) as partial:
            read = self._stream if self._is_http else self._read_on
            is_named = read(position, state, partial)
        if state.fact and not is_named and self._look() != state:
            raise _ChangedError
        size = partial.done if partial.size_bytes is None else partial.size_bytes
        if partial.done > size:  # nothing can be put behind that
            raise _ChangedError
        if partial.done < size:
            raise OSError(f"it should have {size} bytes, but {partial.done} came")

    def _read_on(self, position: int, state: _State, partial: _Partial) -> bool:
        """Read on from a position; False, for nothing that comes names its version."""
        if position and self._look() != state:
            raise _ChangedError
        with self._opened_at(position, block_size=_PART_BYTES) as file:
            partial.begin(position, state.size_bytes)
            while block := file.read(_BLOCK_BYTES):
                partial.add(block)
        return False

    def _stream(self, position: int, state: _State, partial: _Partial) -> bool:
        """Ask an http server once for all from a position on; whether it named what it sent.

        One answer is of one version. It is written where it comes in: aiohttp forgets what came
        before a connection broke and was not read by then.
        """
        import aiohttp  # noqa: PLC0415  (see above)

        file_system, url = self._file_system()
        asked = {"Accept-Encoding": "identity"}
        if position:
            asked |= {"Range": f"bytes={position}-", "If-Range": state.identity}

        async def stream() -> bool:
            session = await file_system.set_session()
            patience = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=_SILENCE_S)
            get = session.get(file_system.encode_url(url), headers=asked, timeout=patience)
            async with get as answer:
                partial.begin(*_extent(answer, position, state))
                if answer.status != _NOTHING_LEFT:
                    async for block in answer.content.iter_any():
                        partial.add(block)
                return bool(answer.headers.get(state.fact))

        return cast("bool", fsspec.asyn.sync(file_system.loop, stream))

    def _try(
        self, verb: str, call: Callable[[], Any], has_grown: Callable[[], bool] = lambda: False
    ) -> Any:
        """Call until it works, a permanent failure shows, or the tries are used up.

        A try after which `has_grown` is the first one again.
        """
        failed = 0
        while True:
            try:
                return call()
            except (ReleaseError, ImportError, _ChangedError):  # noqa: PERF203
                raise
            except Exception as error:  # noqa: BLE001
                # Every fsspec back end has its own exceptions; what they share is that trying
                # again is safe, and that the last one's words help the user.
                cause = _cause(error)
                failed = 1 if has_grown() else failed + 1
                if failed == _TRIES or isinstance(cause, _PERMANENT):
                    kind = "" if isinstance(cause, AskError) else f"{type(cause).__name__}: "
                    said = f"{kind}{cause}".rstrip(": ")
                    said = bare_text(said, self.storage_options)
                    # Without the cause: its text may hold a signed URL.
                    raise ReleaseError(
                        f"{self.shown} cannot be {verb}: {said}; check the address, the network "
                        "and proxies",
                        self.shown,
                    ) from None
                time.sleep(random.uniform(0.1, 0.3) * 2 ** (failed - 1))  # noqa: S311


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


@functools.cache
def _warn_of_no_ranges(shown: str) -> None:
    """Say once in a process what reading from the middle of such a file costs."""
    _log.warning(
        "%s: its server gives no Range requests, so whoever begins in its middle reads all that "
        "lies before; take one reader, or a folder with a copy as cdn",
        shown,
    )


def _size_of(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else 0


def packings(encoding: str) -> list[str]:
    """Return how a body is packed, by its Content-Encoding; an empty list where it is not.

    `aws-chunked` is how S3 was sent a file, which some clients have it keep: it is not packed.
    """
    names = [name.strip().lower() for name in encoding.split(",")]
    return [name for name in names if name not in ("", "identity", "aws-chunked")]


def _extent(answer: aiohttp.ClientResponse, position: int, state: _State) -> tuple[int, int | None]:
    """Return where an answer begins, and the whole's size.

    Raises:
        FileNotFoundError: there is no such file.
        ClientResponseError: another status that is an error.
        _ChangedError: it is no part of what was looked up, or cannot be put behind what is there.
    """
    if answer.status in _ABSENT:
        raise FileNotFoundError(str(answer.url))
    if answer.status != _NOTHING_LEFT or not position:
        answer.raise_for_status()
    named = answer.headers.get(state.fact)
    if named and named != state.identity:
        raise _ChangedError
    is_packed = bool(packings(answer.headers.get("Content-Encoding", "")))
    start, said = 0, None if is_packed else answer.content_length
    if answer.status in (_PART, _NOTHING_LEFT):
        found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        begins, whole = found.groups() if found else (None, None)
        said = int(whole) if whole else None
        start = int(begins) if begins else (said or -1)
        if start != position or is_packed:
            raise _ChangedError
    # Else the whole comes: there are no ranges. What is there is of no use then, since only an
    # answer that reaches the last byte helps, and it holds all the others too.
    # A size of 0 is also what some servers say to HEAD of what they have not looked at.
    if said is not None and state.size_bytes and said != state.size_bytes:
        raise _ChangedError
    return start, said if said is not None else (state.size_bytes or None)
