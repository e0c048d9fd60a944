"""Read any part of a file in place, plain or packed with gzip.

rapidgzip reads a packed file from seek points, which are found by unpacking all of it once. Of a
damaged file it gives nothing of the chunk in which the damage lies; what can be had there the
standard library unpacks, once, and it is kept beside the seek points.
"""

from __future__ import annotations

import atexit
import gzip
import io
import os
import threading
import weakref
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import rapidgzip

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["DamageError", "ReadableAt", "SeekPoints", "Unpacking", "is_packed", "salvaged"]

Told = Callable[[int], None]
"""Told how many bytes of a file have been read so far."""

_MAGIC = b"\x1f\x8b"
_BLOCK_BYTES = 1024 * 1024
_MOST_TAIL_BYTES = 64 * 1024 * 1024  # two chunks of 4 MB, of what hardly packs
_THREADS = min(16, os.cpu_count() or 1)
_TRIES = 3
_ERRORS = (RuntimeError, ValueError, OSError, EOFError, zlib.error)
"""What rapidgzip and the standard library raise of a file that is damaged."""


class DamageError(Exception):
    """A packed file gives no more from here on."""


class SeekPoints(NamedTuple):
    """How a packed file is read in place.

    Attributes:
        index: rapidgzip's index; empty where there is none.
        packed_bytes: of how many bytes of the file, from its first on, the index is.
        unpacked_bytes: how many bytes these are unpacked.
        tail: the unpacked bytes that follow in a damaged file, of any buffer type.
        damage: what is wrong with the file, empty where nothing is known to be.
    """

    index: Any
    packed_bytes: int
    unpacked_bytes: int
    tail: Any = b""
    damage: str = ""

    @property
    def end(self) -> int:
        """How many bytes, unpacked, can be read."""
        return self.unpacked_bytes + len(memoryview(self.tail))


def is_packed(path: str) -> bool:
    """Whether a file is packed with gzip, by its first bytes; `OSError` if it cannot be read."""
    with open(path, "rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


class Unpacking:
    """A packed file, unpacked from its first byte to its last; a context manager.

    It seeks forwards by reading, for only what is read is held against the file's checksum.

    Args:
        path: the file.
        told: told the bytes of the file that have been unpacked.
    """

    def __init__(self, path: str, told: Told) -> None:
        self._told = told
        self._file = rapidgzip.open(os.fsencode(path), parallelization=_THREADS)
        self._position = 0

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self._file.close()

    def tell(self) -> int:
        """Return how many bytes have been read."""
        return self._position

    def read(self, size: int) -> bytes:
        """Return the next bytes, fewer only at the end; `DamageError` where there is damage."""
        try:
            block: bytes = self._file.read(size)
        except _ERRORS as error:
            raise DamageError(_first_line(error)) from None
        self._position += len(block)
        self._told(self._file.tell_compressed() // 8)
        return block

    def seek(self, position: int) -> int:
        """Go to a position at or behind this one, or to the end; return the new position."""
        while self._position < position and self.read(min(position - self._position, _BLOCK_BYTES)):
            pass
        return self._position

    def seek_points(self) -> SeekPoints:
        """Read up to the end; return the whole file's seek points. `DamageError`: see `read`."""
        while self.read(_BLOCK_BYTES):
            pass
        index = io.BytesIO()
        try:
            self._file.export_index(index)
        except _ERRORS as error:
            raise DamageError(_first_line(error)) from None
        return SeekPoints(index.getvalue(), 0, self._position)


def salvaged(path: str, told: Told) -> SeekPoints:
    """Return seek points for all that a damaged file still gives; goes through it some times.

    Args:
        path: the file.
        told: told the bytes of the file that have been read in this pass.
    """
    with rapidgzip.open(os.fsencode(path), parallelization=_THREADS) as file:
        damage = _read_through(file, told)
        chunks = sorted(file.available_block_offsets().items())
        points = _exported(path, file, file.tell(), damage)
    if points is not None:
        return points
    # The last chunk that begins before the damage may hold some of it: up to there all is whole.
    for bits, start in reversed([*chunks]):
        if start:
            with rapidgzip.open(_Begin(path, -(-bits // 8)), parallelization=_THREADS) as file:
                if _read_through(file, told) or file.tell() != start:
                    continue
                index = io.BytesIO()
                file.export_index(index)
            tail, damage = _tail(path, start, told)
            return SeekPoints(index.getvalue(), -(-bits // 8), start, tail, damage)
    return SeekPoints(b"", 0, 0, *_tail(path, 0, told))


def _read_through(file: Any, told: Told) -> str:
    """Read a file to its end; return what went wrong, "" where nothing did."""
    try:
        while file.read(_BLOCK_BYTES):
            told(file.tell_compressed() // 8)
    except _ERRORS as error:
        return _first_line(error)
    return ""


def _exported(path: str, file: Any, end: int, damage: str) -> SeekPoints | None:
    """The seek points of a file whose checksum alone is wrong, None where bytes are missing."""
    index = io.BytesIO()
    try:
        file.export_index(index)
        end = file.size()
        points = SeekPoints(index.getvalue(), 0, end, damage=damage)
        with ReadableAt(path, points) as reader:
            # A file that is cut off gives an index too, with a last chunk that cannot be read.
            is_whole = len(reader.read_at(max(0, end - 1), 1)) == 1
    except (*_ERRORS, DamageError):
        return None
    return points if is_whole else None


def _tail(path: str, start: int, told: Told) -> tuple[bytes, str]:
    """What the standard library unpacks from a position on, and what stopped it."""
    tail = bytearray()
    position = 0
    with open(path, "rb") as packed, gzip.GzipFile(fileobj=packed) as file:
        try:
            while block := file.read1(_BLOCK_BYTES):
                position += len(block)
                tail += (
                    block[max(0, len(block) - (position - start)) :] if position > start else b""
                )
                told(packed.tell())
                if len(tail) > _MOST_TAIL_BYTES:
                    return bytes(tail), f"more than {_MOST_TAIL_BYTES:,} bytes lie behind a damage"
        except _ERRORS as error:
            return bytes(tail), _first_line(error)
    return bytes(tail), ""


def _first_line(error: Exception) -> str:
    # rapidgzip's messages name its threads in brackets, and tell a lot.
    return str(error).strip().partition("\n")[0].rpartition("] ")[2] or type(error).__name__


class _Begin(io.RawIOBase):
    """The first bytes of a file, as if there were no others."""

    def __init__(self, path: str, size: int) -> None:
        self._file = open(path, "rb")  # noqa: SIM115  (closed below)
        self._size = size

    def close(self) -> None:
        self._file.close()
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        # rapidgzip would read the file itself, up to its end
        raise io.UnsupportedOperation("fileno")

    def readinto(self, buffer: Any) -> int:
        block = self._file.read(min(len(buffer), max(0, self._size - self._file.tell())))
        buffer[: len(block)] = block
        return len(block)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            offset, whence = self._size + offset, os.SEEK_SET
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


class ReadableAt:
    """A file that can be read at any position; a context manager, safe to use in several threads.

    Used in the process that opened it.

    Args:
        path: the file.
        points: how to read it if it is packed, None for a plain one.
    """

    def __init__(self, path: str, points: SeekPoints | None) -> None:
        self._path, self._points = path, points
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._number = -1
        self._file: Any = None
        if points is None:
            self._number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        elif memoryview(points.index):
            self._file = _opened(path, points)
            _open.add(self)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Close; after a fork only in the process that opened it."""
        if self._pid != os.getpid():
            return  # the threads that rapidgzip would wait for are not here
        with self._lock:
            number, self._number = self._number, -1
            if number >= 0:
                os.close(number)
            if self._file is not None:
                self._file.close()
        _open.discard(self)

    def read_at(self, offset: int, size: int) -> bytes:
        """Return the bytes at a position, fewer only at the end.

        Raises:
            DamageError: the file is not what its seek points were made of.
            OSError: it cannot be read.
        """
        if self._points is None:
            return os.pread(self._number, size, offset)
        found = b""
        wanted = min(size, self._points.unpacked_bytes - offset)
        if wanted > 0:
            found = self._unpack(offset, wanted)
        begin = offset + len(found) - self._points.unpacked_bytes
        return found + bytes(memoryview(self._points.tail)[begin : begin + size - len(found)])

    def _unpack(self, offset: int, size: int) -> bytes:
        damage = ""
        with self._lock:
            # rapidgzip tells a disk's fault from damage no more than it goes on after either.
            for _ in range(_TRIES):
                try:
                    self._file.seek(offset)
                    found: bytes = self._file.read(size)
                except (RuntimeError, ValueError) as error:
                    damage = _first_line(error)
                else:
                    if len(found) == size:
                        return found
                    damage = f"{len(found)} bytes came of {size}"
                assert self._points is not None
                self._file.close()
                self._file = _opened(self._path, self._points)
        raise DamageError(damage)


def _opened(path: str, points: SeekPoints) -> Any:
    """A packed file, to be read by its seek points; `OSError` where it cannot be opened."""
    place = _Begin(path, points.packed_bytes) if points.packed_bytes else os.fsencode(path)
    file = rapidgzip.open(place, parallelization=1)
    file.import_index(io.BytesIO(points.index))
    return file


_open: weakref.WeakSet[ReadableAt] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Close what is open: rapidgzip aborts an interpreter that ends while its threads live."""
    for reader in list(_open):
        reader.close()
