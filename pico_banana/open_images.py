"""Map a photo's URL to its Open Images ImageID and attribution, by an index of the image list.

The index is an Arrow file sorted by the photo's number (the digits its file name begins with),
mapped into memory and searched: nothing is loaded, and all processes share its pages.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from pico_banana.cache import Fetching, RemoteFile, kept, local_name
from pico_banana.errors import ReleaseError
from pico_banana.records import photo_of

__all__ = ["Index", "Photo", "index_path", "is_image_id", "mapped_index", "open_index"]

INDEX_VERSION = 1
_IMAGE_ID = re.compile(r"[0-9a-f]{16}")
_COLUMNS = {
    "OriginalURL": "url",
    "ImageID": "image_id",
    "Author": "author",
    "AuthorProfileURL": "author_url",
    "Title": "title",
    "License": "license",
    "OriginalLandingURL": "landing_url",
    "OriginalMD5": "original_md5",
    "OriginalSize": "original_size",
    "Rotation": "rotation",
}


class Photo(NamedTuple):
    """What Open Images says of one photo; unknown values are None.

    `original_md5` is base64 and `original_size` bytes, both of the *Flickr original*, not of the
    Open Images file.
    """

    image_id: str
    author: str | None
    author_url: str | None
    title: str | None
    license: str | None
    landing_url: str | None
    original_md5: str | None
    original_size: int | None

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


_DIGITS = re.compile(r"[0-9]{1,18}(?![0-9])")


def _key(name: str) -> int:
    """The sort key of a photo's file name: its number, or a negative checksum where it has none."""
    digits = _DIGITS.match(name)
    return int(digits[0]) if digits else -1 - zlib.crc32(name.encode())


def _keys(urls: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.int64]]:
    """`_key(photo_of(url))` of a whole column at once."""
    found = pc.extract_regex(
        urls, r"^[^?#]*/(?P<digits>[0-9]{1,18})(?:[^0-9/?#][^/?#]*)?(?:[?#]|$)"
    )
    digits = pc.struct_field(found, "digits")
    missing = pc.is_null(digits)
    # A copy: what Arrow gives out must not be written to.
    known = pc.fill_null(pc.cast(digits, pa.int64()), 0)
    keys: np.ndarray[Any, np.dtype[np.int64]] = known.to_numpy().copy()
    for row in np.flatnonzero(missing):
        keys[row] = _key(photo_of(urls[int(row)].as_py() or ""))
    return keys


def _read_list(csv: str, *, use_threads: bool) -> pa.Table:
    return pyarrow.csv.read_csv(
        csv,
        read_options=pyarrow.csv.ReadOptions(use_threads=use_threads),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            include_columns=list(_COLUMNS),
            column_types={name: pa.string() for name in _COLUMNS} | {"OriginalSize": pa.int64()},
            strings_can_be_null=True,
            null_values=[""],
        ),
    )


def _fault_of(csv: str) -> str:
    """What is wrong with a list, and in which row: Arrow knows it only where one thread reads."""
    try:
        _read_list(csv, use_threads=False)
    except pa.ArrowInvalid as error:
        return str(error)
    return "it cannot be read twice alike"


def _build(csv: str, place: str, path: str) -> None:
    """Write the index of the image list in the file `csv`, which came from `place`, to `path`."""
    try:
        table = _read_list(csv, use_threads=True)
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        said = _fault_of(csv) if isinstance(error, pa.ArrowInvalid) else error
        raise ReleaseError(
            f"{place} must be Open Images' image list, a CSV with the columns "
            f"{', '.join(_COLUMNS)}, but: {said}",
            place,
        ) from None
    if not table.num_rows:
        raise ReleaseError(f"{place} must be Open Images' image list, but has no row", place)
    table = table.rename_columns(list(_COLUMNS.values()))
    keys = _keys(table["url"])
    # A stable sort keeps the list's order among equal keys, so every machine makes one index.
    order = np.argsort(keys, kind="stable")
    table = table.take(pa.array(order)).combine_chunks()
    table = table.add_column(0, "key", pa.array(keys[order]))
    table = table.replace_schema_metadata({"pico_banana_index": str(INDEX_VERSION)})
    try:
        with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=table.num_rows)
    except OSError as error:
        raise ReleaseError(
            f"the index of {place} cannot be written: {error}; it takes about 600 MB, set "
            "PICO_BANANA_CACHE to a folder with room for it",
            place,
        ) from None


class Index:
    """The photos of Open Images' image list, searched by URL; safe to use in several threads."""

    def __init__(self, path: str) -> None:
        """Map the index file at `path`; `ReleaseError` where it is none of this version."""
        self.path = path
        try:
            self._table = pa.ipc.open_file(pa.memory_map(path)).read_all()
        except (pa.ArrowInvalid, OSError) as error:
            raise ReleaseError(f"{path} is no index: {error}", path) from None
        version = (self._table.schema.metadata or {}).get(b"pico_banana_index")
        if version != b"%d" % INDEX_VERSION or self._table["key"].num_chunks != 1:
            raise ReleaseError(f"{path} is no index of this version; make it anew", path)
        # The one chunk that was written: to combine chunks would load and copy them.
        self._keys = self._table["key"].chunk(0).to_numpy()
        self._urls = self._table["url"].chunk(0)

    def __len__(self) -> int:
        """The number of photos."""
        return int(self._table.num_rows)

    def rows(self, urls: Sequence[str]) -> list[int | None]:
        """Return, for each URL, its photo's row or None.

        A URL matches exactly first, then by the photo's file name, where only the spelling of the
        host differs (`farm5`, `c8`) or http stands for https.
        """
        wanted = np.array([_key(photo_of(url)) for url in urls], dtype=np.int64)
        first = np.searchsorted(self._keys, wanted, side="left")
        last = np.searchsorted(self._keys, wanted, side="right")
        return [
            self._row(*found) for found in zip(urls, first.tolist(), last.tolist(), strict=True)
        ]

    def _row(self, url: str, first: int, last: int) -> int | None:
        same_name = None
        name = photo_of(url)
        for row in range(first, last):
            listed = self._urls[row].as_py()
            if listed == url:
                return row
            if same_name is None and name and photo_of(listed or "") == name:
                same_name = row
        return same_name

    def photos(self, rows: Iterable[int | None]) -> list[Photo | None]:
        """Return the photos at these rows; None stays None."""
        rows = list(rows)
        known = sorted({row for row in rows if row is not None})
        taken = self._table.select(Photo._fields).take(pa.array(known, pa.int64())).to_pydict()
        photos = dict(zip(known, map(Photo, *taken.values()), strict=True)) if known else {}
        return [None if row is None else photos[row] for row in rows]


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
        _build(source.kept("", None), source.shown, path)
        return
    csv = path + (".csv.gz" if source.shown.endswith(".gz") else ".csv")
    try:
        source.copy(csv, progress)
        _build(csv, source.shown, path)
    finally:
        if os.path.exists(csv):
            os.unlink(csv)
