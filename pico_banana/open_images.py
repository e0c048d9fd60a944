"""Map a photo's URL to its Open Images ImageID and attribution, by an index of the image list.

The index (see `image_list`) is mapped into memory and searched by the photo's number, the digits
that its file name begins with: nothing is loaded, and all processes share its pages.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pico_banana.cache import Fetching, RemoteFile, kept, local_name
from pico_banana.errors import ReleaseError
from pico_banana.image_list import INDEX_VERSION, Keys, keys_of, write_index
from pico_banana.records import photo_of

__all__ = ["Index", "Photo", "index_path", "is_image_id", "mapped_index", "open_index"]

_IMAGE_ID = re.compile(r"[0-9a-f]{16}")


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


def is_image_id(text: str) -> bool:
    """Whether a text is an Open Images ImageID: 16 hexadecimal digits."""
    return _IMAGE_ID.fullmatch(text) is not None


class Index:
    """The photos of Open Images' image list, searched by URL; safe to use in several threads.

    A row is a photo's place in the list, from 0. Nothing is loaded: the file is mapped.
    """

    def __init__(self, path: str) -> None:
        """Map the index file at `path`; `ReleaseError` where it is none of this version."""
        self.path = path
        try:
            reader = pa.ipc.open_file(pa.memory_map(path))
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        except (pa.ArrowInvalid, OSError) as error:
            raise ReleaseError(f"{path} is no index: {error}", path) from None
        if (reader.schema.metadata or {}).get(b"pico_banana_index") != b"%d" % INDEX_VERSION:
            raise ReleaseError(f"{path} is no index of this version; make it anew", path)
        self._sections = [_Section(batch) for batch in batches]
        self._starts = np.cumsum([0, *[batch.num_rows for batch in batches]])

    def __len__(self) -> int:
        """The number of photos."""
        return int(self._starts[-1])

    def rows(self, urls: Sequence[str]) -> list[int | None]:
        """Return, for each URL, its photo's row or None.

        A URL matches exactly first, then by the photo's file name, where only the spelling of the
        host differs (`farm5`, `c8`) or http stands for https.
        """
        wanted = pa.array(urls, pa.string())
        keys = keys_of(wanted)
        exact, same_name = np.full(len(urls), -1), np.full(len(urls), -1)
        for start, section in zip(self._starts, self._sections, strict=False):
            section.find(wanted, keys, exact, same_name, int(start))
        found = np.where(exact >= 0, exact, same_name)
        return [None if row < 0 else row for row in found.tolist()]

    def photos(self, rows: Iterable[int | None]) -> list[Photo | None]:
        """Return the photos at these rows; None stays None."""
        rows = list(rows)
        known = np.array(sorted({row for row in rows if row is not None}), np.int64)
        photos: dict[int, Photo] = {}
        edges = np.searchsorted(known, self._starts)
        for section, start, (first, last) in zip(
            self._sections, self._starts, itertools.pairwise(edges), strict=False
        ):
            if first < last:
                mine = known[first:last]
                photos.update(zip(mine.tolist(), section.photos(mine - start), strict=True))
        return [None if row is None else photos[row] for row in rows]


class _Section:
    """One record batch of an index."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch, self._urls = batch, batch["url"]
        self._keys, self._rows = batch["key"].to_numpy(), batch["row"].to_numpy()

    def find(
        self, wanted: pa.StringArray, keys: Keys, exact: Keys, same_name: Keys, start: int
    ) -> None:
        """Fill in the rows, counted from `start`, of wanted URLs that were not found before."""
        first = np.searchsorted(self._keys, keys, side="left")
        last = np.searchsorted(self._keys, keys, side="right")
        places = np.flatnonzero((last > first) & (exact < 0))
        if not len(places):
            return
        rows = self._rows[first[places]]
        equal = pc.equal(self._urls.take(pa.array(rows)), wanted.take(pa.array(places)))
        is_equal = pc.fill_null(equal, False).to_numpy(zero_copy_only=False)
        exact[places[is_equal]] = rows[is_equal] + start
        for place in places[~is_equal].tolist():
            url = wanted[place].as_py()
            name = photo_of(url)
            for row in self._rows[first[place] : last[place]].tolist():
                listed = self._urls[row].as_py()
                if listed == url:
                    exact[place] = row + start
                    break
                if same_name[place] < 0 and name and listed and photo_of(listed) == name:
                    same_name[place] = row + start

    def photos(self, rows: Keys) -> Iterator[Photo]:
        taken = self._batch.select(list(Photo._fields)).take(pa.array(rows)).to_pydict()
        return itertools.starmap(Photo, zip(*taken.values(), strict=True))


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
        progress: told the bytes fetched, where the CSV must be fetched.

    Raises:
        ReleaseError: the list cannot be read, or lacks columns.
    """
    if place == "none":
        return None
    source = RemoteFile(place, storage_options)
    with source.reading() as read:
        is_index = read(6) == b"ARROW1"
    if is_index:
        return source.kept("open_images", progress)
    name = local_name(place, f"{source.identity()} v{INDEX_VERSION}")
    return kept(
        os.path.join("open_images", name + ".arrow"),
        lambda temporary: _make(source, temporary, progress),
    )


def open_index(
    place: str, storage_options: Mapping[str, Any], progress: Fetching | None = None
) -> Index | None:
    """Return the index of an image list; see `index_path` for arguments and errors."""
    path = index_path(place, storage_options, progress)
    return None if path is None else mapped_index(path)


def _make(source: RemoteFile, path: str, progress: Fetching | None) -> None:
    if source.is_local:
        write_index(source.kept("", None), source.shown, path)
        return
    csv = path + (".csv.gz" if source.shown.endswith(".gz") else ".csv")
    try:
        source.copy(csv, progress)
        write_index(csv, source.shown, path)
    finally:
        if os.path.exists(csv):
            os.unlink(csv)
