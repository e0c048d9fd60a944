"""Make the index of a tar of photos: its members, and the seek points of a packed one.

It is made once, beside the tar or else in the cache folder, and holds for the tar's size and time.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import tarfile
import zlib
from array import array
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pico_banana.errors import ReleaseError
from pico_banana.open_images.packed import (
    DamageError,
    ReadableAt,
    SeekPoints,
    Unpacking,
    is_packed,
    salvaged,
)
from pico_banana.storage.cache import Fetching, Progress, cache_folder, local_name, made_once
from pico_banana.storage.disk import tried

__all__ = ["first_sizes", "found_index", "index_path", "mapped", "stamp_of"]

_VERSION = 2
_SUFFIX = ".pico-banana-index"
_PHOTO = re.compile(r"(?:\./)?(?:[^/]+/)*([0-9a-f]{16})\.jpg")
_BLOCK_BYTES = 512
_MOST_HEADER_BYTES = 1024 * 1024
_TOLD_NAMES = 3
_SAID_BYTES = 8 * 1024 * 1024
_ODD_HEADERS = (ValueError, OverflowError, EOFError)
"""What `tarfile` raises besides its own errors, of headers that are none."""


def stamp_of(path: str) -> list[int]:
    """Return what changes when a file changes: its size and its time."""
    found = tried(os.stat, path)
    return [found.st_size, found.st_mtime_ns]


def mapped(index: str) -> dict[str, Any]:
    """Return the one row of an index file, mapped; `pa.ArrowInvalid` for what is none."""
    with open(index, "rb") as file:  # Arrow takes no name that is not UTF-8
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    reader = pa.ipc.open_file(pa.py_buffer(mapping))
    if (reader.schema.metadata or {}).get(b"pico_banana_tar") != b"%d" % _VERSION:
        raise pa.ArrowInvalid(f"{index} is no index of this version")
    batch = reader.get_batch(0)
    return {name: batch.column(name)[0] for name in batch.schema.names}


def found_index(path: str) -> str | None:
    """Return the path of a tar's index, None where there is none of the tar as it is.

    Raises:
        OSError: the tar cannot be read.
    """
    stamp = stamp_of(path)
    return next((index for index in _places(path) if _is_of(index, stamp)), None)


def _places(path: str) -> tuple[str, str]:
    """Where a tar's index may lie: beside it, and in the cache."""
    own = os.path.join(cache_folder(), "tars", local_name(os.path.realpath(path), "") + _SUFFIX)
    return path + _SUFFIX, own


def _is_of(index: str, stamp: list[int]) -> bool:
    """Whether a file is the index of a tar of this stamp."""
    try:
        row = mapped(index)
    except (OSError, ValueError):  # Arrow's too; an empty file cannot be mapped
        return False
    return bool(json.loads(row["facts"].as_py())["stamp"] == stamp)


def index_path(path: str, progress: Progress) -> str:
    """Return the path of a tar's index, made where there is none: beside it, or in the cache.

    Processes that start at once make one.

    Raises:
        ReleaseError: the tar cannot be read or is none, or no index can be written.
    """
    try:
        stamp = stamp_of(path)
    except OSError as error:
        raise ReleaseError(f"the tar {path} cannot be read: {error}", path) from None

    def is_there(index: str) -> bool:
        return _is_of(index, stamp)

    def make(temporary: str) -> None:
        _make(path, stamp, temporary, progress)

    beside, own = _places(path)
    for index in (beside, own):
        if is_there(index):
            return index
    if os.access(os.path.dirname(path), os.W_OK):
        with suppress(OSError):
            return made_once(beside, make, is_there)
    try:
        return made_once(own, make, is_there)
    except OSError as error:
        raise ReleaseError(
            f"the index of {path} can be written neither beside it nor in the cache folder: "
            f"{error}; set PICO_BANANA_CACHE to a folder with room for it",
            path,
        ) from None


def first_sizes(path: str) -> Iterator[int]:
    """Yield the sizes in bytes of a tar's photos, from its beginning on, as far as it can be read.

    For a tar without an index, which takes minutes to be made.
    """
    with suppress(OSError, tarfile.TarError, zlib.error, *_ODD_HEADERS), tarfile.open(path) as tar:
        for member in tar:
            if member.isreg() and _PHOTO.fullmatch(member.name):
                yield member.size


def _make(path: str, stamp: list[int], index: str, progress: Progress) -> None:
    """Write a tar's index file; `ReleaseError` where it cannot be read or is none."""
    with progress(f"indexing {path}") as fetching:
        told = _Told(stamp[0], fetching)
        try:
            listing, points = _listed(path, told)
        except OSError as error:
            raise ReleaseError(f"the tar {path} cannot be read: {error}", path) from None
        except tarfile.TarError as error:
            raise ReleaseError(
                f"open_images must hold tars of photos, but {path} is none: {error}; fetch it "
                "again, or take it away",
                path,
            ) from None
        told.end()
    if stamp_of(path) != stamp:
        raise ReleaseError(
            f"the tar {path} was changed while it was indexed; run the same command again when "
            "it is complete",
            path,
        )
    _write(index, stamp, listing, points)


def _listed(path: str, told: _Told) -> tuple[_Listing, SeekPoints | None]:
    """The members of a tar, and the seek points of a packed one."""
    if not is_packed(path):
        with open(path, "rb") as file:
            listing = _Listing.of(_Headers(file, told))
        listing.cut(os.path.getsize(path))
        return listing, None
    # What a damaged file gives at first may be nothing at all.
    with suppress(DamageError, tarfile.TarError), Unpacking(path, told) as unpacking:
        listing = _Listing.of(_Headers(unpacking, None))
        if listing.is_ended:
            return listing, unpacking.seek_points()
    points = salvaged(path, told)
    with ReadableAt(path, points) as reader:
        listing = _Listing.of(_Headers(_Sequential(reader), None))
    listing.cut(points.end)
    listing.damage = listing.damage and (points.damage or listing.damage)
    return listing, points


class _Told:
    """Passes on how far a tar has been read, every now and then."""

    def __init__(self, size_bytes: int, fetching: Fetching) -> None:
        self._size_bytes, self._fetching, self._said = size_bytes, fetching, 0
        fetching(0, size_bytes)

    def __call__(self, done: int) -> None:
        if abs(done - self._said) >= _SAID_BYTES:
            self._said = done
            self._fetching(done, self._size_bytes)

    def end(self) -> None:
        self._fetching(self._size_bytes, self._size_bytes)


class _Sequential:
    """Reads on from a position."""

    def __init__(self, reader: ReadableAt) -> None:
        self._reader, self._position = reader, 0

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> int:
        self._position = position
        return position

    def read(self, size: int) -> bytes:
        block = self._reader.read_at(self._position, size)
        self._position += len(block)
        return block


class _Headers:
    """A tar as `tarfile` reads its headers: forwards, and no header of a size that is none.

    `last` is what was read last.
    """

    def __init__(self, file: Any, told: _Told | None) -> None:
        self._file, self._told, self.last = file, told, b""
        self._ahead = b""

    def tell(self) -> int:
        return int(self._file.tell()) - len(self._ahead)

    def seek(self, position: int) -> int:
        ahead = position - self.tell()
        if ahead < 0:
            raise DamageError("a member that begins before its own header")
        self._ahead = self._ahead[ahead:]
        return position if self._ahead else int(self._file.seek(position))

    def read(self, size: int) -> bytes:
        if size > _MOST_HEADER_BYTES:
            raise DamageError(f"a header of {size:,} bytes")
        self.last, self._ahead = self._ahead[:size], self._ahead[size:]
        if len(self.last) < size:
            self.last += self._file.read(size - len(self.last))
        if self._told is not None:
            self._told(self._file.tell())
        return self.last

    def skip_zeros(self) -> bool:
        """Go to the next byte that is none; return whether there is one."""
        while block := self.read(_MOST_HEADER_BYTES):
            if rest := block.lstrip(b"\0"):
                self._ahead = rest + self._ahead
                return True
        return False


@dataclass
class _Listing:
    """The members of a tar.

    Attributes:
        ids, offsets, sizes: of its photos, in the order of the tar.
        unused: how many other members there are, and the names of some, by what they are.
        members: how many there are in all.
        behind: where bytes begin, behind its end, that are no tar; None where there are none.
        is_ended: whether the mark at its end was found.
        damage: what ended it before.
    """

    ids: array[int] = field(default_factory=lambda: array("Q"))
    offsets: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    unused: dict[str, list[str]] = field(default_factory=dict)
    members: int = 0
    behind: int | None = None
    is_ended: bool = False
    damage: str = ""

    @classmethod
    def of(cls, headers: _Headers) -> _Listing:
        """Read a tar's headers, and those of tars that `cat` has put behind it.

        Raises:
            tarfile.TarError: it does not begin as a tar does.
        """
        found = cls()
        found._read(headers)
        while found.is_ended and headers.skip_zeros():
            begin, members = headers.tell(), found.members
            with suppress(tarfile.TarError):
                found._read(headers)
            if found.members == members:
                found.behind, found.is_ended, found.damage = begin, True, ""
                break
        return found

    def _read(self, headers: _Headers) -> None:
        """Add the members of one tar, up to the mark at its end."""
        try:
            archive = tarfile.TarFile(fileobj=headers)  # type: ignore[arg-type]
        except (DamageError, *_ODD_HEADERS) as error:
            raise tarfile.ReadError(str(error)) from None
        with archive:
            try:
                while (member := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]  # it would keep all
                    self.add(member)
            except (DamageError, tarfile.TarError, *_ODD_HEADERS) as error:
                self.damage = str(error) or type(error).__name__
        self.is_ended = not self.damage and headers.last == bytes(_BLOCK_BYTES)
        if not self.is_ended:
            self.damage = self.damage or "its end is missing"

    def add(self, member: tarfile.TarInfo) -> None:
        self.members += 1
        photo = _PHOTO.fullmatch(member.name)
        if member.isdir():
            return
        if member.islnk() or member.issym():
            self.unused.setdefault("links, which are not followed", []).append(member.name)
        elif member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
            self.unused.setdefault("no regular files", []).append(member.name)
        elif member.name.startswith("/") or ".." in member.name.split("/"):
            self.unused.setdefault("names that lead outside", []).append(member.name)
        elif photo is None:
            self.unused.setdefault("names other than <ImageID>.jpg", []).append(member.name)
        else:
            self.ids.append(int(photo[1], 16))
            self.offsets.append(member.offset_data)
            self.sizes.append(member.size)

    def cut(self, end: int) -> None:
        """Leave out the last photo if it reaches beyond the end."""
        if self.ids and self.offsets[-1] + self.sizes[-1] > end:
            for values in (self.ids, self.offsets, self.sizes):
                values.pop()

    def notes(self, points: SeekPoints | None) -> list[str]:
        """What a person should know of the tar."""
        found = []
        if not self.is_ended:
            found.append(
                f"cut off or damaged ({self.damage}); the {len(self.ids):,} photos before that are "
                "used: fetch the rest of it, or all of it again"
            )
        elif points is not None and points.damage:
            found.append(
                f"all members are there, but the file is damaged ({points.damage}), and some of "
                "its photos may be; fetch it again"
            )
        if self.behind is not None:
            found.append(f"behind its end, from byte {self.behind:,} on, lies what is no tar")
        if not self.ids:
            found.append("holds no photo named <ImageID>.jpg")
        for kind, names in self.unused.items():
            some = ", ".join(ascii(name) for name in names[:_TOLD_NAMES])
            more = ", ..." if len(names) > _TOLD_NAMES else ""
            found.append(f"members not used, {kind}: {len(names):,} ({some}{more})")
        return found


def _write(index: str, stamp: list[int], listing: _Listing, points: SeekPoints | None) -> None:
    ids = np.frombuffer(listing.ids, np.uint64)
    # Unpacking a tar, the last one of a name is what remains; so of equal ids the last one counts.
    order = np.argsort(ids, kind="stable")
    is_last = np.append(ids[order][1:] != ids[order][:-1], [True] * bool(len(ids)))
    order = order[is_last.astype(bool)]
    facts = {
        "stamp": stamp,
        "notes": listing.notes(points),
        "points": None if points is None else [points.packed_bytes, points.unpacked_bytes],
    }
    row = {
        "facts": pa.array([json.dumps(facts)]),
        "id": pa.array([ids[order]], pa.list_(pa.uint64())),
        "offset": pa.array([np.frombuffer(listing.offsets, np.int64)[order]], pa.list_(pa.int64())),
        "size": pa.array([np.frombuffer(listing.sizes, np.int64)[order]], pa.list_(pa.int64())),
        "seek_points": pa.array([points.index if points else b""], pa.large_binary()),
        "tail": pa.array([points.tail if points else b""], pa.large_binary()),
    }
    batch = pa.record_batch(row).replace_schema_metadata({"pico_banana_tar": str(_VERSION)})
    with open(index, "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
