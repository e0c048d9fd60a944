"""Find photos in Open Images' tars, and read them there: `train_*.tar` and `train_*.tar.gz`.

Each tar has an index (see `tar_index`), which is mapped, so that all processes share it. Nothing
is unpacked to a disk.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import NamedTuple

import numpy as np

from pico_banana.errors import ReleaseError, WorkError
from pico_banana.open_images.packed import ReadableAt, SeekPoints
from pico_banana.open_images.tar_index import (
    first_sizes,
    found_index,
    index_path,
    mapped,
    stamp_of,
)
from pico_banana.settings import Settings
from pico_banana.storage.cache import Fetching, Progress
from pico_banana.storage.disk import listed

__all__ = ["Member", "Tar", "Tars", "check_open_images", "tars_of"]

_TAR = re.compile(r"train_.*\.tar(\.gz)?", re.DOTALL)
_DIGIT = re.compile(r"train_([0-9a-f])\.tar")


def _untold(_: str) -> AbstractContextManager[Fetching]:
    return nullcontext(lambda *_: None)


def tars_of(folder: str) -> list[str]:
    """Return the paths of a folder's tars, plain ones before packed ones of the same name.

    Raises:
        OSError: the folder cannot be read.
    """
    names = [name for name in listed(folder) if _TAR.fullmatch(name)]
    return [os.path.join(folder, name) for name in names]


def check_open_images(settings: Settings) -> None:
    """Raise `ReleaseError` where `open_images` is needed and is no folder that can be read.

    A folder that is not there would make every photo look as if it were not listed; so would
    one without tars where nothing else may be asked.
    """
    root, sources = settings.open_images, settings.sources
    if root is None or not {"folder", "tar"} & set(sources):
        return
    try:
        tars = tars_of(root)
        can_search = os.access(root, os.X_OK)
    except OSError:
        can_search = False
    if not can_search:
        raise ReleaseError(
            "open_images must be a folder that can be read and holds train_0/<ImageID>.jpg, "
            f"train/<ImageID>.jpg, <ImageID>.jpg or tars, train_*.tar.gz, but got {root}",
            root,
        )
    if "folder" not in sources and not tars:
        raise ReleaseError(
            "open_images must hold tars, train_*.tar or train_*.tar.gz, for input_sources "
            f"names `tar`, but {root} has none",
            root,
        )


class Member(NamedTuple):
    """A photo in a tar: where it begins and how long it is, in bytes, unpacked."""

    tar: Tar
    offset: int
    size_bytes: int


class Tar:
    """One tar of photos, searched by ImageID.

    Made by `Tar.indexed`; opened for reading with the first photo that is read.

    Attributes:
        path: the tar.
        notes: what a person should know of it: what is cut off, damaged, or not used.
    """

    def __init__(self, path: str, index: str) -> None:
        """Map a tar's index file, which must be of the tar as it is."""
        self.path = path
        row = mapped(index)
        self._ids = row["id"].values.to_numpy()
        self._offsets, self._sizes = row["offset"].values, row["size"].values
        facts = json.loads(row["facts"].as_py())
        self.notes: list[str] = facts["notes"]
        self._points: SeekPoints | None = None
        if facts["points"] is not None:
            seek_points, tail = row["seek_points"].as_buffer(), row["tail"].as_buffer()
            packed_bytes, unpacked_bytes = facts["points"]
            self._points = SeekPoints(seek_points, packed_bytes, unpacked_bytes, tail)
        self._stamp: list[int] = facts["stamp"]
        self._lock = threading.Lock()
        self._file: ReadableAt | None = None

    def __len__(self) -> int:
        """The number of photos."""
        return len(self._ids)

    def find(self, image_id: str) -> Member | None:
        """Return where a photo lies, None where the tar has it not."""
        wanted = np.uint64(int(image_id, 16))
        place = int(np.searchsorted(self._ids, wanted))
        if place == len(self._ids) or self._ids[place] != wanted:
            return None
        return Member(self, self._offsets[place].as_py(), self._sizes[place].as_py())

    def read(self, member: Member) -> bytes:
        """Return a photo's bytes.

        Raises:
            ReleaseError: the tar was changed since it was indexed.
            DamageError: it is damaged.
            OSError: it cannot be read.
        """
        with self._lock:
            if self._file is None:
                if stamp_of(self.path) != self._stamp:
                    raise ReleaseError(
                        f"the tar {self.path} was changed since it was indexed; run the same "
                        "command again",
                        self.path,
                    )
                self._file = ReadableAt(self.path, self._points)
        return self._file.read_at(member.offset, member.size_bytes)

    def close(self) -> None:
        """Close the tar."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    @classmethod
    def indexed(cls, path: str, progress: Progress) -> Tar:
        """Return a tar, after it is indexed where it is not.

        Raises:
            ReleaseError: it cannot be read or is no tar, or no index can be written.
        """
        return cls(path, index_path(path, progress))


class Tars:
    """The tars of a folder, each of them indexed when a photo is first looked for in it.

    Used in the process that made it; safe to use in several threads.

    Args:
        settings: say where the tars lie, if they are a source at all.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        folder = settings.open_images if "tar" in settings.sources else None
        try:
            self._paths = tars_of(folder) if folder is not None else []
        except OSError as error:
            raise WorkError(
                f"open_images {folder} cannot be read: {error}; finished shards are kept, run the "
                "same command again when it can be"
            ) from None
        # Open Images packs the ImageIDs that begin with x as train_x.
        digits = {path: _DIGIT.match(os.path.basename(path)) for path in self._paths}
        self._by_digit = {
            own: [path for path, digit in digits.items() if digit is None or digit[1] == own]
            for own in "0123456789abcdef"
        }
        self._tars: dict[str, Tar] = {}
        self._first_sizes: dict[str, Iterator[int]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """The number of tars."""
        return len(self._paths)

    def find(self, image_id: str, progress: Progress = _untold) -> Member | None:
        """Return where a photo lies, None where no tar has it.

        Raises:
            ReleaseError: see `Tar.indexed`.
        """
        for path in self._by_digit[image_id[0]]:
            member = self._tar(path, progress).find(image_id)
            if member is not None:
                return member
        return None

    def likely_size(self, image_id: str) -> int | None:
        """Return a photo's size in bytes, None where no tar has it; indexes no tar.

        Of a tar that has no index yet, the size of its next photo stands for that of this one.
        """
        for path in self._by_digit[image_id[0]]:
            with self._lock, suppress(OSError):
                if path not in self._tars and path not in self._first_sizes:
                    index = found_index(path)
                    if index is None:
                        self._first_sizes[path] = first_sizes(path)
                    else:
                        self._tars[path] = Tar(path, index)
                if path in self._first_sizes:
                    size = next(self._first_sizes[path], None)
                else:
                    member = self._tars[path].find(image_id)
                    size = None if member is None else member.size_bytes
                if size is not None:
                    return size
        return None

    def close(self) -> None:
        """Close all tars."""
        for tar in self._tars.values():
            tar.close()

    @property
    def opened(self) -> dict[str, Tar]:
        """The tars that were looked into so far, by path."""
        return dict(self._tars)

    def is_ready(self, image_id: str) -> bool:
        """Whether every tar that may hold a photo was looked into."""
        return all(path in self._tars for path in self._by_digit[image_id[0]])

    def _tar(self, path: str, progress: Progress) -> Tar:
        with self._lock:
            if path not in self._tars:
                self._tars[path] = Tar.indexed(path, progress)
            return self._tars[path]
