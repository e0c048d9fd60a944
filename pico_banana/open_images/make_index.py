"""Make an index of Open Images' image list: a CSV of 600 MB, read a section at a time.

An index is an Arrow IPC file. Each of its record batches holds the rows of one section in the
list's order, and beside them, in ascending order, the column `key`: each is a checksum of a
photo's file name and, in its lowest bits, the photo's row in the batch. So nothing is sorted but
numbers, and memory does not grow with the list. The licence, which is the same over long
stretches, is written once a stretch.
"""

from __future__ import annotations

import csv
import itertools
import os
import re
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from pico_banana.arrow import Flags, numbers_of
from pico_banana.errors import ReleaseError
from pico_banana.storage.cache import Fetching
from pico_banana.urls import photo_of

__all__ = [
    "INDEX_VERSION",
    "ROWS",
    "Keys",
    "keys_of",
    "with_keys",
    "write_batches",
    "write_index",
]

INDEX_VERSION = 3
ROWS = np.uint64(2**24 - 1)
"""The bits of a key that hold a row; a section has fewer rows than they can count."""

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
_MOST_ROW_BYTES = 64 * 1024 * 1024
_BLOCK_BYTES = 2 * 1024 * 1024  # what Arrow parses at once: it should fit a core's cache
_THREADS = min(4, os.cpu_count() or 1)
_GIVES_WAY = 10
_ROW = re.compile(r"Row #(\d+)")
_NOT_BLANK = re.compile(rb"\S")

Keys = np.ndarray[Any, np.dtype[np.uint64]]

_NAME_BYTES = 16
_TAILS = np.array([[_NAME_BYTES], [8]])  # where a name's last words begin, counted from its end
_MIX = np.array([[0x9E3779B97F4A7C15], [0xC2B2AE3D27D4EB4F]], np.uint64)  # odd, with bits all over
_ONES = np.uint64(0x0101010101010101)
_TOPS, _SLASHES = _ONES * np.uint64(128), _ONES * np.uint64(ord("/"))


def _key(url: str) -> int:
    """The key of a photo: a checksum of its file name's last 16 bytes, and no row."""
    name = photo_of(url).encode()[-_NAME_BYTES:].rjust(_NAME_BYTES, b"\0")
    words = np.frombuffer(name, "<u8")[:, None]
    return int((words * _MIX).sum() & ~ROWS)


def keys_of(urls: pa.StringArray) -> Keys:
    """Return the keys of a column of URLs, without rows: the same for all spellings of a host.

    As `_key` says, but for all rows at once.
    """
    count = len(urls)
    _, offsets, data = urls.buffers()
    if not count or data is None or data.size < 2 * _NAME_BYTES:
        return np.array([_key(url or "") for url in urls.to_pylist()], np.uint64)
    edges = np.frombuffer(offsets, np.int32)[urls.offset : urls.offset + count + 1].astype(np.int64)
    # The eight bytes that begin at each byte, as numbers.
    words = np.ndarray((data.size - 7,), "<u8", data, strides=(1,))
    tails = words[edges[1:] - _TAILS]
    keys: Keys = (tails * _MIX).sum(axis=0) & ~ROWS
    # Nearly every name has more bytes. The others are odd: they get the slow way.
    is_odd = (np.diff(edges) < _NAME_BYTES) | _hold_slash(tails) | _hold_query(data, edges)
    for row in np.flatnonzero(is_odd):
        keys[row] = _key(urls[int(row)].as_py() or "")
    return keys


def _hold_slash(words: np.ndarray[Any, Any]) -> Flags:
    """Which columns of numbers hold the byte of a slash."""
    # Where 1 is taken away from every byte, a zero byte alone gets a highest bit that it had not.
    other = words ^ _SLASHES
    found: Flags = ((other - _ONES) & ~other & _TOPS).any(axis=0)
    return found


def _hold_query(data: pa.Buffer, edges: np.ndarray[Any, Any]) -> Flags:
    """Which rows hold a `?` or `#`, behind which a slash is no path's."""
    first = int(edges[0])
    inside = np.frombuffer(data, np.uint8)[first : int(edges[-1])]
    found = np.flatnonzero((inside == ord("?")) | (inside == ord("#"))) + first
    holds = np.zeros(len(edges) - 1, np.bool_)
    holds[np.searchsorted(edges, found, side="right") - 1] = True
    return holds


class _NoListError(ValueError):
    """What was read is no image list."""


def write_index(source: str, place: str, path: str, progress: Fetching | None = None) -> None:
    """Write the index of an image list.

    Args:
        source: local path of the CSV, also packed (`.gz`).
        place: where it came from, as it may be shown.
        path: where to write.
        progress: told the bytes of the source that were read, and its size.

    Raises:
        ReleaseError: it is no such list, with its row, or the index cannot be written.
    """
    try:
        rows = write_batches(path, _batches(source, progress))
    except (pa.ArrowInvalid, UnicodeDecodeError, csv.Error, _NoListError) as error:
        raise ReleaseError(
            f"{place} must be Open Images' image list, a CSV with the columns "
            f"{', '.join(_COLUMNS)}, but: {error}",
            place,
        ) from None
    except OSError as error:
        raise ReleaseError(
            f"the index of {place} cannot be written: {error}; it takes about 500 MB, set "
            "PICO_BANANA_CACHE to a folder with room for it",
            place,
        ) from None
    if not rows:
        raise ReleaseError(f"{place} must be Open Images' image list, but has no row", place)


def write_batches(path: str, batches: Iterable[pa.RecordBatch]) -> int:
    """Write batches of rows as an index, without a file where there are none; return the rows.

    A batch has the list's columns by the names of `open_images.Photo`, and `rotation`. Raises
    `OSError` where the file cannot be written.
    """
    rows = 0
    writer = None
    with open(path, "wb") as file:  # Arrow takes no name that is not UTF-8
        for batch in batches:
            if writer is None:
                schema = batch.schema.with_metadata({"pico_banana_index": str(INDEX_VERSION)})
                writer = pa.ipc.new_file(file, schema)
            writer.write_batch(batch)
            rows += batch.num_rows
        if writer is not None:
            writer.close()
    return rows


def with_keys(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch of an index: the rows of a list, and their keys."""
    # The rows make all keys different, so there is one order, on every machine.
    keys = keys_of(batch["url"]) | np.arange(batch.num_rows, dtype=np.uint64)
    keys.sort()
    columns = [
        pc.run_end_encode(column) if name == "license" else column
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(
        [numbers_of(keys), *columns], names=["key", *batch.schema.names]
    )


def _batches(source: str, progress: Fetching | None) -> Iterator[pa.RecordBatch]:
    """The index's record batches, a section of the list each; some are made at once."""
    spare: list[bytearray] = []
    waiting: deque[tuple[memoryview, Future[pa.RecordBatch]]] = deque()
    rows = 0

    def finished() -> pa.RecordBatch:
        nonlocal rows
        section, made = waiting.popleft()
        try:
            batch = made.result()
        except pa.ArrowInvalid as error:
            # Arrow counts from 1 in what it is given, which is without header here.
            number = lambda row: f"Row #{int(row[1]) + rows + 1}"  # noqa: E731
            raise pa.ArrowInvalid(_ROW.sub(number, str(error), count=1)) from None
        rows += batch.num_rows
        if isinstance(section.obj, bytearray) and len(section.obj) == _SECTION_BYTES:
            spare.append(section.obj)
        return batch

    with (
        _opened(source, progress) as fill,
        ThreadPoolExecutor(
            _THREADS, thread_name_prefix="pico-banana-list", initializer=_give_way
        ) as pool,
    ):
        sections = _sections(fill, spare)
        header, rest = _header(next(sections, memoryview(b"")))
        for section in itertools.chain([rest], sections):
            if _NOT_BLANK.search(section):
                waiting.append((section, pool.submit(_batch, section, header)))
            if len(waiting) > _THREADS:
                yield finished()
        while waiting:
            yield finished()


def _give_way() -> None:
    """Let this thread take what others leave; else one that reads records ends long after it."""
    if sys.platform == "linux":  # elsewhere only processes have priorities
        with suppress(OSError):  # a sandbox may forbid it, and nothing but time depends on it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _GIVES_WAY)


@contextmanager
def _opened(source: str, progress: Fetching | None) -> Iterator[Callable[[memoryview], int]]:
    """Give a function that fills a buffer with a list's next bytes, and says how many it got."""
    try:
        opened = open(source, "rb", buffering=0)  # noqa: SIM115  (Arrow takes UTF-8 names only)
    except OSError as error:
        raise _NoListError(f"it cannot be opened: {error}") from None
    with opened, pa.PythonFile(opened, "r") as file:
        size_bytes = file.size()
        is_packed = source.endswith(".gz")
        stream = pa.CompressedInputStream(file, "gzip") if is_packed else file

        def fill(buffer: memoryview) -> int:
            filled = 0
            try:
                while filled < len(buffer) and (got := stream.readinto(buffer[filled:])):
                    filled += got
            except OSError as error:
                verb = "unpacked" if is_packed else "read"
                raise _NoListError(f"it cannot be {verb}: {error}") from None
            if progress is not None:
                progress(file.tell(), size_bytes)
            return filled

        yield fill


def _sections(fill: Callable[[memoryview], int], spare: list[bytearray]) -> Iterator[memoryview]:
    """Cut a CSV into sections of whole rows, the same ones on every machine.

    Buffers are taken from `spare`: new ones cost more than what is read into them.
    """
    buffer, filled, offset = bytearray(_SECTION_BYTES), 0, 0
    quotes, marks = 0, np.empty(_SECTION_BYTES, np.bool_)
    while got := fill(memoryview(buffer)[filled:]):
        marks = marks if len(marks) >= got else np.empty(got, np.bool_)
        text = np.frombuffer(buffer, np.uint8, got, filled)
        quotes += int(np.count_nonzero(np.equal(text, ord('"'), out=marks[:got])))
        end = _end_of_rows(buffer, filled, filled + got, is_quoted=quotes % 2 == 1)
        filled += got
        if end >= 0:
            left = buffer[end:filled]
            yield memoryview(buffer)[:end]
            offset += end
        elif filled > _MOST_ROW_BYTES:
            raise _NoListError(
                f"the row at byte {offset:,} has more than {_MOST_ROW_BYTES:,} bytes: is a quote "
                "not closed?"
            )
        else:
            left = buffer[:filled]
        if 2 * len(left) > _SECTION_BYTES:  # a long row needs a larger buffer
            buffer = bytearray(4 * len(left))
        else:
            buffer = spare.pop() if spare else bytearray(_SECTION_BYTES)
        buffer[: len(left)] = left
        filled = len(left)
    if filled:
        yield memoryview(buffer)[:filled]


def _end_of_rows(text: bytearray, start: int, stop: int, *, is_quoted: bool) -> int:
    """Where the last row that ends in text[start:stop] ends, -1 where none does.

    A line's end is a row's only outside of quotes; `is_quoted` says whether `stop` lies in some.
    """
    while (newline := text.rfind(b"\n", start, stop)) >= 0:
        is_quoted ^= text.count(b'"', newline, stop) % 2 == 1
        if not is_quoted:
            return newline + 1
        stop = newline
    return -1


def _header(section: memoryview) -> tuple[list[str], memoryview]:
    """The names of a list's columns, and what follows them in its first section."""
    if not section:
        raise _NoListError("it is empty")
    line = section.tobytes().partition(b"\n")[0]
    header = next(csv.reader([line.decode("utf-8-sig")]), [])
    if absent := [name for name in _COLUMNS if name not in header]:
        raise _NoListError(f"it has no column {', '.join(absent)}")
    return header, section[len(line) + 1 :]


def _batch(section: memoryview, header: list[str]) -> pa.RecordBatch:
    """The record batch of a section."""
    table = _read(section, header)
    columns = [column.combine_chunks() for column in table.columns]
    return with_keys(pa.RecordBatch.from_arrays(columns, names=list(_COLUMNS.values())))


def _read(section: memoryview, header: list[str]) -> pa.Table:
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
