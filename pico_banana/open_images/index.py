"""Map a photo's URL to its Open Images ImageID and attribution, by an index of the image list.

The index (see `image_list`) is mapped into memory and searched by a checksum of the photo's file
name: nothing is loaded, and all processes share its pages.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pico_banana.arrow import Flags, flags_of, numbers_of, strings_of
from pico_banana.errors import ReleaseError
from pico_banana.open_images.make_index import (
    INDEX_VERSION,
    ROWS,
    Keys,
    keys_of,
    with_keys,
    write_batches,
    write_index,
)
from pico_banana.storage.cache import Fetching, cache_folder, kept, local_name
from pico_banana.storage.remote import RemoteFile
from pico_banana.urls import photo_of

__all__ = [
    "IMAGE_ID",
    "Index",
    "Photo",
    "Rows",
    "index_path",
    "is_image_id",
    "mapped_index",
    "open_index",
    "photo_columns",
    "photos_of",
]

IMAGE_ID = r"\A[0-9a-f]{16}\z"
"""What an ImageID matches, as Arrow spells it."""

_IMAGE_ID_LENGTH, _HEX = 16, "0123456789abcdef"
_MOST_LOOKED_AT = 256  # each value maps some 64 KiB around it
_MOST_ROWS = 1 << 20
_MOST_URLS = 262_144  # looked up at once: 1 GiB if each was as long as a URL may be

Rows = np.ndarray[Any, np.dtype[np.int64]]


class Photo(NamedTuple):
    """What Open Images says of one photo; unknown values are None.

    `original_md5` is base64 and `original_size` bytes, both of the *Flickr original*, not of the
    Open Images file. `url` is the original's address as it is listed.
    """

    image_id: str
    author: str | None
    author_url: str | None
    title: str | None
    license: str | None
    landing_url: str | None
    original_md5: str | None
    original_size: int | None
    url: str | None

    def attribution(self) -> dict[str, str | None]:
        """Return the `attribution` column's value."""
        return {
            "author": self.author,
            "author_url": self.author_url,
            "title": self.title,
            "license": self.license,
            "landing_url": self.landing_url,
        }

    def match(self, url: str) -> str:
        """Return how a URL leads to this photo.

        "exact" where it is listed so, "name" where it is spelled otherwise but has the same
        photo's file name.
        """
        return "exact" if url == self.url else "name"

    def mark_of_original(self, data: bytes) -> str | None:
        """Return in which way a Flickr original is not the listed one, None where it is.

        "original_size_differs", or else "original_md5_differs". An unknown value differs from
        nothing, nor does one that is no MD5.
        """
        if self.original_size and len(data) != self.original_size:
            return "original_size_differs"
        try:
            listed = base64.b64decode(self.original_md5 or "", validate=True)
        except ValueError:
            return None
        digest = hashlib.md5(data, usedforsecurity=False).digest()
        differs = len(listed) == len(digest) and listed != digest
        return "original_md5_differs" if differs else None


_PHOTO_COLUMNS = pa.schema(
    {name: pa.int64() if name == "original_size" else pa.string() for name in Photo._fields}
)


def photo_columns(photos: Sequence[Photo | None]) -> pa.RecordBatch:
    """Return photos as columns named as `Photo`'s fields; None is null in all of them."""
    unknown = [None] * len(Photo._fields)
    columns = [*zip(*(photo or unknown for photo in photos), strict=True)] or [()] * len(unknown)
    arrays = [
        pa.array(values, kind) for values, kind in zip(columns, _PHOTO_COLUMNS.types, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=_PHOTO_COLUMNS)


def photos_of(columns: pa.RecordBatch) -> Iterator[Photo]:
    """Yield the photos that columns hold."""
    return itertools.starmap(Photo, zip(*columns.to_pydict().values(), strict=True))


def is_image_id(text: str) -> bool:
    """Whether a text is an Open Images ImageID: 16 hexadecimal digits."""
    return len(text) == _IMAGE_ID_LENGTH and not text.strip(_HEX)


class Index:
    """The photos of Open Images' image list, searched by URL; safe to use in several threads.

    A row is a photo's place in the list, from 0. Nothing is loaded: the file is mapped, and its
    pages are given back again and again, so that a process does not seem to hold the whole file.
    """

    def __init__(self, path: str) -> None:
        """Map the index file at `path`; `ReleaseError` where it is none of this version."""
        self.path = path
        try:
            with open(path, "rb") as file:
                self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            reader = pa.ipc.open_file(pa.py_buffer(self._mapped))
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        except (pa.ArrowInvalid, OSError, ValueError) as error:
            raise ReleaseError(f"{path} is no index: {error}", path) from None
        if (reader.schema.metadata or {}).get(b"pico_banana_index") != b"%d" % INDEX_VERSION:
            raise ReleaseError(f"{path} is no index of this version; make it anew", path)
        self._starts = np.cumsum([0, *[batch.num_rows for batch in batches]])
        self._sections = [
            _Section(batch, int(start)) for batch, start in zip(batches, self._starts, strict=False)
        ]
        self._looked_at = 0.0

    def __len__(self) -> int:
        """The number of photos."""
        return int(self._starts[-1])

    def rows(self, urls: Sequence[str]) -> list[int | None]:
        """Return, for each URL, its photo's row or None.

        A URL matches exactly first, then by the photo's file name, where only the spelling of the
        host differs (`farm5`, `c8`) or http stands for https.
        """
        found, _ = self.matches(urls)
        return [None if row < 0 else row for row in found.tolist()]

    def matches(self, urls: Sequence[str] | pa.StringArray) -> tuple[Rows, Flags]:
        """Return, for each URL, its photo's row or -1, and whether it is listed exactly so.

        As `rows`, and the faster the more URLs come at once.
        """
        parts = []
        for start in range(0, max(len(urls), 1), _MOST_URLS):
            mine = urls[start : start + _MOST_URLS]
            parts.append(self._matches(mine if isinstance(mine, pa.Array) else strings_of(mine)))
        rows, is_exact = zip(*parts, strict=True)
        return np.concatenate(rows), np.concatenate(is_exact)

    def _matches(self, urls: pa.StringArray) -> tuple[Rows, Flags]:
        wanted = _Wanted(urls)
        for section in self._sections:
            section.find(wanted)
            self._give_back(len(urls) / len(self._sections))
        is_exact = wanted.exact >= 0
        return np.where(is_exact, wanted.exact, wanted.same_name), is_exact

    def photos(self, rows: Iterable[int | None]) -> list[Photo | None]:
        """Return the photos at these rows; None stays None."""
        rows = list(rows)
        known = np.array(sorted({row for row in rows if row is not None}), np.int64)
        photos: dict[int, Photo] = {}
        for taken, mine in self._taken(known, list(Photo._fields)):
            photos.update(zip(mine.tolist(), photos_of(taken), strict=True))
        return [None if row is None else photos[row] for row in rows]

    def columns(self, rows: Rows) -> pa.RecordBatch:
        """Return the photos at these rows, in this order, as columns named as `Photo`'s fields."""
        known, places = np.unique(rows, return_inverse=True)
        taken = [batch for batch, _ in self._taken(known, list(Photo._fields))]
        table = pa.Table.from_batches(taken, _PHOTO_COLUMNS).combine_chunks()
        (batch,) = table.to_batches() or [photo_columns([])]
        return batch.take(numbers_of(places))

    def image_ids(self, rows: Rows) -> list[str | None]:
        """Return the ImageIDs of the photos at these rows, which must be ascending."""
        return [
            image_id
            for taken, _ in self._taken(rows, ["image_id"])
            for image_id in taken.column(0).to_pylist()
        ]

    def write_rows(self, rows: Rows, path: str) -> None:
        """Write an index of the photos at these rows alone, which must be ascending.

        Raises `OSError` where it cannot be written.
        """
        names = self._sections[0].names
        taken = [batch for batch, _ in self._taken(rows, names)]
        table = pa.Table.from_batches(taken or [self._sections[0].taken(rows, names)])
        columns = [column.combine_chunks() for column in table.columns]
        whole = pa.RecordBatch.from_arrays(columns, names=names)
        # Few sections are searched faster than many.
        starts = range(0, max(len(rows), 1), _MOST_ROWS)
        write_batches(path, (with_keys(whole.slice(start, _MOST_ROWS)) for start in starts))

    def _taken(self, rows: Rows, names: list[str]) -> Iterator[tuple[pa.RecordBatch, Rows]]:
        """These columns at ascending rows, a batch for each section that has some of the rows."""
        edges = np.searchsorted(rows, self._starts)
        for section, (first, last) in zip(self._sections, itertools.pairwise(edges), strict=True):
            if first < last:
                yield section.taken(rows[first:last], names), rows[first:last]
                self._give_back(int(last - first) * len(names))

    def _give_back(self, looked_at: float) -> None:
        """Unmap the file's pages once many were looked at; the system's cache keeps them.

        Else they would count as this process's, and a cluster would end it for its size.
        """
        self._looked_at += looked_at
        if self._looked_at > _MOST_LOOKED_AT and hasattr(mmap, "MADV_DONTNEED"):
            self._looked_at = 0.0
            self._mapped.madvise(mmap.MADV_DONTNEED)


class _Wanted:
    """URLs that are looked for, and their rows as far as they are found, else -1.

    Attributes:
        keys: their keys, ascending, which are searched several times as fast.
        order: the places of their URLs.
        exact: by place, the row where the URL is listed.
        same_name: by place, the first row where its photo is listed under another URL.
    """

    def __init__(self, urls: pa.StringArray) -> None:
        self._urls = urls
        keys = keys_of(self._urls)
        self.order = np.argsort(keys)
        self.keys = keys[self.order]
        self.exact, self.same_name = np.full(len(urls), -1), np.full(len(urls), -1)

    def compare(self, places: Rows, listed: pa.StringArray, rows: Rows) -> None:
        """Hold the URLs at these places against those that are listed at these rows.

        Of several rows for one place the first counts.
        """
        equal = pc.equal(listed, self._urls.take(numbers_of(places)))
        is_equal = flags_of(pc.and_kleene(equal, pc.is_valid(listed)))
        found = np.flatnonzero(is_equal & (self.exact[places] < 0))[::-1]
        self.exact[places[found]] = rows[found]
        others = np.flatnonzero(~is_equal & (self.same_name[places] < 0))
        texts = listed.take(numbers_of(others)).to_pylist()
        for place, row, text in zip(places[others], rows[others], texts, strict=True):
            if text and self.same_name[place] < 0:
                name = photo_of(self._urls[int(place)].as_py())
                if name and name == photo_of(text):
                    self.same_name[place] = row


class _Section:
    """One record batch of an index."""

    def __init__(self, batch: pa.RecordBatch, start: int) -> None:
        self._batch, self._urls, self._start = batch, batch["url"], start
        self._keys = np.frombuffer(batch["key"].buffers()[1], np.uint64)[: batch.num_rows]
        self._licenses = batch["license"]
        self.names = [name for name in batch.schema.names if name != "key"]

    def find(self, wanted: _Wanted) -> None:
        """Look for the wanted URLs."""
        is_small = len(wanted.keys) < len(self._keys)
        pairs = _pairs(wanted.keys, self._keys) if is_small else _pairs(self._keys, wanted.keys)
        for pair in pairs:
            ours, theirs = pair[::-1] if is_small else pair
            rows = (self._keys[ours] & ROWS).astype(np.int64)
            listed = self._urls.take(numbers_of(rows))
            wanted.compare(wanted.order[theirs], listed, rows + self._start)

    def taken(self, rows: Rows, names: list[str]) -> pa.RecordBatch:
        """The rows of the list, some columns of them."""
        rows = rows - self._start
        at = numbers_of(rows)
        columns = [
            self._licenses_at(rows) if name == "license" else self._batch[name].take(at)
            for name in names
        ]
        return pa.RecordBatch.from_arrays(columns, names=names)

    def _licenses_at(self, rows: Rows) -> pa.StringArray:
        ends = self._licenses.run_ends
        runs = np.frombuffer(ends.buffers()[1], np.int32)[: len(ends)]
        places = np.searchsorted(runs, rows, side="right")
        return self._licenses.values.take(numbers_of(places))


def _pairs(few: Keys, many: Keys) -> Iterator[tuple[Rows, Rows]]:
    """The pairs of places in two ascending arrays of keys that hold the same checksum.

    A place of `few` comes with one place of `many` at a time, with lower ones first.
    """
    if not len(few):
        return
    last = len(many) - 1
    there = np.minimum(np.searchsorted(many, few & ~ROWS), last)
    here = np.flatnonzero(_are_alike(many[there], few))
    there = there[here]
    while len(here):
        yield here, there
        after = np.minimum(there + 1, last)
        goes_on = _are_alike(many[after], many[there]) & (after > there)
        here, there = here[goes_on], after[goes_on]


def _are_alike(some: Keys, others: Keys) -> Flags:
    """Which keys are of the same checksum, whatever their rows."""
    alike: Flags = (some ^ others) <= ROWS
    return alike


@functools.lru_cache(maxsize=4)
def _mapped(path: str, _changed: float) -> Index:
    return Index(path)


def mapped_index(path: str) -> Index:
    """Return the index file at a path, mapped once in each process."""
    return _mapped(path, os.path.getmtime(path))


def index_path(
    place: str, storage_options: Mapping[str, Any], progress: Fetching | None = None
) -> str | None:
    """Return the path of an image list's index, made and cached at first; None for `none`.

    Args:
        place: URL or path of the CSV (also `.gz`), or path of an index.
        storage_options: passed on to fsspec.
        progress: told the bytes fetched, or of a local CSV the bytes read, where an index is made.

    Raises:
        ReleaseError: the list cannot be read, or lacks columns.
    """
    if place == "none":
        return None
    source = RemoteFile(place, storage_options)
    name = local_name(place, f"{source.identity()} v{INDEX_VERSION}")
    made = os.path.join("open_images", name + ".arrow")
    if not os.path.exists(os.path.join(cache_folder(), made)):
        with source.reading() as read:
            is_index = read(6) == b"ARROW1"
        if is_index:
            return source.kept("open_images", progress)
    return kept(made, lambda temporary: _make(source, temporary, progress))


def open_index(
    place: str, storage_options: Mapping[str, Any], progress: Fetching | None = None
) -> Index | None:
    """Return the index of an image list; see `index_path` for arguments and errors."""
    path = index_path(place, storage_options, progress)
    return None if path is None else mapped_index(path)


def _make(source: RemoteFile, path: str, progress: Fetching | None) -> None:
    with source.fetched("open_images", progress) as csv:
        # Bytes that need not be fetched are told as they are read.
        write_index(csv, source.shown, path, progress if source.is_local else None)
