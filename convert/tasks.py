"""Hand over what one shard is made of: its lines and photos, packed for another process."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from pico_banana.columns import Numbers
from pico_banana.open_images import Index, Photo, photo_columns, photos_of
from pico_banana.records import MAX_LINE_BYTES, Line, line_of

from .ledger import stretches
from .options import ConvertSettings
from .retry import Retry

__all__ = ["PackedLines", "PackedPhotos", "ShardDigest", "ShardTask", "places_of"]


class PackedLines(NamedTuple):
    """Lines as few large objects: 50,000 small ones take long to pickle, and much memory.

    Attributes:
        offsets: where each begins in the JSONL file.
        numbers: their numbers, ascending.
        starts, ends: where each lies in `text`.
        text: the bytes of all.
    """

    offsets: array[int]
    numbers: array[int]
    starts: array[int]
    ends: array[int]
    text: bytes

    @classmethod
    def read(cls, file: BinaryIO, offsets: array[int], numbers: array[int]) -> PackedLines:
        """Read lines that were found at these offsets; those that follow each other, in one go."""
        starts, ends = array("q"), array("q")
        texts: list[bytes] = []
        size = 0
        for first, last in stretches(numbers):
            begin = len(starts)
            mine = offsets[begin : begin + last - first + 1]
            file.seek(mine[0])
            text = file.read(mine[-1] - mine[0]) + file.readline(MAX_LINE_BYTES + 2)
            starts.extend([size + offset - mine[0] for offset in mine])
            ends.extend([start - 1 for start in starts[begin + 1 :]])
            ends.append(size + len(text.removesuffix(b"\n")))
            texts.append(text)
            size += len(text)
        return cls(offsets, numbers, starts, ends, b"".join(texts))

    def lines(self, begin: int = 0, end: int | None = None) -> Iterator[Line]:
        """Yield the lines from one place to another, in order."""
        mine = slice(begin, end)
        for offset, number, start, stop in zip(*[one[mine] for one in self[:4]], strict=True):
            yield line_of(offset, self.text[start:stop], number)

    def canonical(self) -> bytes:
        """Return the lines as a digest takes them: without mark and carriage returns, all ended."""
        if b"\r" in self.text or (self.offsets and self.offsets[0] == 0):
            return b"".join([(line.raw or b"") + b"\n" for line in self.lines()])
        return self.text if self.text.endswith(b"\n") or not self.text else self.text + b"\n"


class PackedPhotos(NamedTuple):
    """What Open Images says of inputs, each photo once.

    Attributes:
        known: the photos, in the order in which records have them first; see `photo_columns`.
        places: of each record, the place of its photo in `known`, -1 for None.
    """

    known: pa.RecordBatch
    places: Numbers

    @classmethod
    def of(cls, rows: Numbers, index: Index | None) -> PackedPhotos:
        """Return the photos at these rows of an index, -1 for None."""
        known, places = places_of(rows)
        return cls(photo_columns([]) if index is None else index.columns(known), places)

    def columns(self, begin: int, end: int) -> pa.RecordBatch:
        """Return the photos of the records from one place to another, null for None."""
        mine = self.places[begin:end]
        return self.known.take(pa.array(mine, mask=mine < 0))

    def photos(self) -> Iterator[Photo | None]:
        """Yield each record's photo, in order; one that several share is the same object."""
        known = [*photos_of(self.known)]
        yield from (None if place < 0 else known[place] for place in self.places.tolist())


def places_of(rows: Numbers) -> tuple[Numbers, Numbers]:
    """Return the distinct rows in the order in which they come first, and each one's place there.

    A row of -1 has the place -1.
    """
    is_known = rows >= 0
    distinct, first, inverse = np.unique(rows[is_known], return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    places = np.full(len(rows), -1)
    places[is_known] = rank[inverse]
    return distinct[order], places


class ShardDigest:
    """The digest of what a shard is made from; equal for equal records, photos and settings."""

    def __init__(self, settings: ConvertSettings, config: str) -> None:
        content = {"config": config, **settings.what_decides_bytes()}
        self._content = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
        self._text = hashlib.sha256()

    def add(self, text: bytes) -> None:
        """Add lines, without mark and carriage returns, each ended."""
        self._text.update(text)

    def hexdigest(self, resolved: Mapping[str, str], photos: PackedPhotos) -> str:
        """Return the digest as hex.

        Args:
            resolved: what the manifest says of the paths that the lines need it for.
            photos: what Open Images says of the inputs.
        """
        digest = hashlib.sha256(self._content)
        digest.update(self._text.digest())
        digest.update(orjson.dumps(sorted(resolved.items())))
        digest.update(photos.places.astype("<i8").tobytes())
        for name in photos.known.schema.names:
            for part in _content_of(photos.known[name]):
                digest.update(part)
        return digest.hexdigest()


def _content_of(column: pa.Array) -> Iterator[Any]:
    """What a column of photos holds, as bytes: null is told from every value."""
    if pa.types.is_integer(column.type):
        yield np.ascontiguousarray(pc.fill_null(column, -1).to_numpy(), "<i8")
        return
    lengths = pc.fill_null(pc.binary_length(column), -1).to_numpy()
    yield np.ascontiguousarray(lengths, "<i4")
    _, offsets, values = column.buffers()
    if values is not None and len(column):
        edges = np.frombuffer(offsets, np.int32)
        yield memoryview(values)[edges[column.offset] : edges[column.offset + len(column)]]


@dataclass(frozen=True)
class ShardTask:
    """All that a worker needs to carry out one shard, wherever it runs.

    Attributes:
        config: sft, preference or multi_turn.
        shard: the shard's name.
        digest: what was planned.
        packed_lines: its records' lines.
        packed_photos: what Open Images says of their inputs.
        resolved: what the manifest says of the paths that the lines need it for.
        retry: what is tried again of a shard that was finished before, None for any other.
    """

    config: str
    shard: str
    digest: str
    packed_lines: PackedLines
    packed_photos: PackedPhotos
    resolved: dict[str, str]
    retry: Retry | None = None

    def __len__(self) -> int:
        """The number of records."""
        return len(self.packed_lines.numbers)

    def found_digest(self, settings: ConvertSettings) -> str:
        """Return the digest of what is here; another one than was planned means it has changed."""
        digest = ShardDigest(settings, self.config)
        digest.add(self.packed_lines.canonical())
        return digest.hexdigest(self.resolved, self.packed_photos)

    def parts(self) -> Iterator[tuple[Line, Photo | None]]:
        """Yield each record's line and photo, in order."""
        return zip(self.packed_lines.lines(), self.packed_photos.photos(), strict=True)
