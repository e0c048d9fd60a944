"""Make an index of Open Images' image list: a CSV of 600 MB, read a section at a time.

An index is an Arrow IPC file. Each of its record batches holds the rows of one section, in the
list's order, and two columns to find them by: `key`, the photos' keys in ascending order, and
`row`, the row of the batch that each of them is of. So nothing is sorted but numbers, and memory
does not grow with the list.
"""

from __future__ import annotations

import csv
import itertools
import os
import re
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv

from pico_banana.errors import ReleaseError
from pico_banana.records import photo_of

__all__ = ["INDEX_VERSION", "Keys", "keys_of", "write_index"]

INDEX_VERSION = 2
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
_SECTION_BYTES = 16 * 1024 * 1024
_THREADS = min(4, os.cpu_count() or 1)
_BLOCK_BYTES = 4 * 1024 * 1024
_ROW = re.compile(r"Row #(\d+)")

Keys = np.ndarray[Any, np.dtype[np.int64]]


_DIGITS = re.compile(r"[0-9]{1,18}(?![0-9])")
_MOST_DIGITS = 18
_SLASH, _ZERO, _NINE, _QUOTE = b'/09"'


def _key(url: str) -> int:
    """The key of a photo: its file name's number, or a negative checksum where it has none."""
    name = photo_of(url)
    digits = _DIGITS.match(name)
    return int(digits[0]) if digits else -1 - zlib.crc32(name.encode())


def keys_of(urls: pa.StringArray) -> Keys:
    """Return the keys of a column of URLs: the same for all spellings of a photo's host.

    As `_key` says, but for all rows at once: a number of up to 18 digits behind the last slash.
    """
    count = len(urls)
    if not count:
        return np.zeros(0, np.int64)
    _, offsets, data = urls.buffers()
    text = np.frombuffer(data or b"\0", np.uint8)
    edges = np.frombuffer(offsets, np.int32)[urls.offset : urls.offset + count + 1]
    first, ends = int(edges[0]), edges[1:].astype(np.int64)
    slashes = np.flatnonzero(text[first : int(edges[-1])] == _SLASH) + first
    place = np.searchsorted(slashes, ends) - 1
    # Without a slash of its own a row is odd: it gets the slow way.
    starts = np.where(place >= 0, slashes[place] + 1, 0) if len(slashes) else np.zeros_like(ends)
    is_odd = (starts <= edges[:-1]) | _holds_query(text, edges)
    keys = np.zeros(count, np.int64)
    digits = np.zeros(count, np.int64)
    alive = ~is_odd
    for step in range(_MOST_DIGITS + 1):
        at = starts + step
        alive = alive & (at < ends)
        byte = text[np.minimum(at, len(text) - 1)]
        alive &= (byte >= _ZERO) & (byte <= _NINE)
        if not alive.any():
            break
        digits += alive
        if step < _MOST_DIGITS:
            keys = np.where(alive, keys * 10 + (byte.astype(np.int64) - _ZERO), keys)
    for row in np.flatnonzero(is_odd | (digits == 0) | (digits > _MOST_DIGITS)):
        keys[row] = _key(urls[int(row)].as_py() or "")
    return keys


def _holds_query(text: np.ndarray[Any, Any], edges: np.ndarray[Any, Any]) -> Any:
    """Which rows hold a `?` or `#`, behind which a slash is no path's."""
    inside = text[int(edges[0]) : int(edges[-1])]
    found = np.flatnonzero((inside == ord("?")) | (inside == ord("#"))) + int(edges[0])
    holds = np.zeros(len(edges) - 1, bool)
    holds[np.searchsorted(edges, found, side="right") - 1] = True
    return holds


def write_index(source: str, place: str, path: str) -> None:
    """Write the index of an image list.

    Args:
        source: local path of the CSV, also packed (`.gz`).
        place: where it came from, as it may be shown.
        path: where to write.

    Raises:
        ReleaseError: it is no such list, with its row, or the index cannot be written.
    """
    try:
        rows = _write(source, path)
    except (pa.ArrowInvalid, pa.ArrowKeyError, UnicodeDecodeError, csv.Error) as error:
        raise ReleaseError(
            f"{place} must be Open Images' image list, a CSV with the columns "
            f"{', '.join(_COLUMNS)}, but: {error}",
            place,
        ) from None
    except OSError as error:
        raise ReleaseError(
            f"the index of {place} cannot be written: {error}; it takes about 600 MB, set "
            "PICO_BANANA_CACHE to a folder with room for it",
            place,
        ) from None
    if not rows:
        raise ReleaseError(f"{place} must be Open Images' image list, but has no row", place)


def _write(source: str, path: str) -> int:
    rows = 0
    with pa.input_stream(source, compression="detect") as stream, pa.OSFile(path, "wb") as file:
        writer = None
        for batch in _batches(stream):
            if writer is None:
                schema = batch.schema.with_metadata({"pico_banana_index": str(INDEX_VERSION)})
                writer = pa.ipc.new_file(file, schema)
            writer.write_batch(batch)
            rows += batch.num_rows
        if writer is not None:
            writer.close()
    return rows


def _batches(stream: BinaryIO) -> Iterator[pa.RecordBatch]:
    """The index's record batches, a section of the list each; some are made at once."""
    sections = _sections(stream)
    first = next(sections, b"")
    header = next(csv.reader([first.partition(b"\n")[0].decode("utf-8-sig")]), [])
    rest = itertools.chain([first.partition(b"\n")[2]], sections)
    waiting: deque[tuple[bytes, Future[pa.RecordBatch]]] = deque()
    rows = 0
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="pico-banana-list") as pool:
        ended = False
        while waiting or not ended:
            while not ended and len(waiting) <= _THREADS:
                section = next(rest, None)
                ended = section is None
                if section is not None and section.strip():
                    waiting.append((section, pool.submit(_batch, section, header)))
            if waiting:
                section, made = waiting.popleft()
                try:
                    batch = made.result()
                except pa.ArrowInvalid as error:
                    # Arrow counts from 1 in what it is given, which is without header here.
                    number = lambda row: f"Row #{int(row[1]) + rows + 1}"  # noqa: B023, E731
                    raise pa.ArrowInvalid(_ROW.sub(number, str(error))) from None
                rows += batch.num_rows
                yield batch


def _sections(stream: BinaryIO) -> Iterator[bytes]:
    """Cut a CSV into sections of whole rows: a line's end is a row's only outside of quotes."""
    left = b""
    while block := stream.read(_SECTION_BYTES):
        text = left + block
        end = len(text)
        quotes = np.flatnonzero(np.frombuffer(text, np.uint8) == _QUOTE)
        while (end := text.rfind(b"\n", 0, end)) >= 0:
            if np.searchsorted(quotes, end) % 2 == 0:
                break
        left = text[end + 1 :]
        if end >= 0:
            yield text[: end + 1]
    if left:
        yield left


def _batch(section: bytes, header: list[str]) -> pa.RecordBatch:
    """The record batch of a section."""
    table = _read(section, header).rename_columns(list(_COLUMNS.values())).combine_chunks()
    (batch,) = table.to_batches() or [pa.RecordBatch.from_pylist([], table.schema)]
    keys = keys_of(batch["url"])
    # A stable sort keeps the list's order among equal keys, so every machine makes one index.
    order = np.argsort(keys, kind="stable")
    found = [pa.array(keys[order]), pa.array(order.astype(np.int32))]
    names = ["key", "row", *batch.schema.names]
    return pa.RecordBatch.from_arrays([*found, *batch.columns], names=names)


def _read(section: bytes, header: list[str]) -> pa.Table:
    return pyarrow.csv.read_csv(
        pa.BufferReader(section),
        read_options=pyarrow.csv.ReadOptions(
            # Sections are read at once, each by one thread: then Arrow names a row that is wrong.
            use_threads=False,
            block_size=_BLOCK_BYTES,
            column_names=header,
        ),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            include_columns=list(_COLUMNS),
            column_types={name: pa.string() for name in _COLUMNS} | {"OriginalSize": pa.int64()},
            strings_can_be_null=True,
            null_values=[""],
        ),
    )
