"""Hand over what one shard is made of: its lines and photos, packed for another process."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from pico_banana.arrow import flags_of, numbers_of, values_of
from pico_banana.open_images.index import Index, Photo, photo_columns, photos_of
from pico_banana.release.columns import Numbers
from pico_banana.release.records import MAX_LINE_BYTES, Line, line_of

from ..options import ConvertSettings
from ..output.ledger import stretches
from .refill import Refill

__all__ = ["PackedLines", "PackedPhotos", "ShardDigest", "ShardTask", "places_of"]


class PackedLines(NamedTuple):
    """Lines as few large objects: 50,000 small ones take long to pickle, and much memory.

    Attributes:
        offsets: where each begins in the JSONL file.
        numbers: their numbers, ascending.
        starts, ends: where each lies in `text`.
        text: the bytes of all.
    """

    offsets: Numbers
    numbers: Numbers
    starts: Numbers
    ends: Numbers
    text: bytes

    @classmethod
    def read(cls, file: BinaryIO, offsets: Numbers, numbers: Numbers) -> PackedLines:
        """Read lines that were found at these offsets; those that follow each other, in one go."""
        starts, ends = np.zeros_like(offsets), np.zeros_like(offsets)
        texts: list[bytes] = []
        begin = size = 0
        for first, last in stretches(numbers):
            end = begin + last - first + 1
            mine = offsets[begin:end]
            file.seek(mine[0])
            texts.append(file.read(mine[-1] - mine[0]))
            texts.append(file.readline(MAX_LINE_BYTES + 2))
            starts[begin:end] = mine - mine[0] + size
            size = int(starts[end - 1]) + len(texts[-1])
            ends[begin : end - 1] = starts[begin + 1 : end] - 1
            ends[end - 1] = size - texts[-1].endswith(b"\n")
            begin = end
        return cls(offsets, numbers, starts, ends, b"".join(texts))

    def lines(self, begin: int = 0, end: int | None = None) -> Iterator[Line]:
        """Yield the lines from one place to another, in order."""
        mine = [column[begin:end].tolist() for column in self[:4]]
        for offset, number, start, stop in zip(*mine, strict=True):
            yield line_of(offset, self.text[start:stop], number)

    def canonical(self) -> bytes:
        """Return the lines as a digest takes them: without mark and carriage returns, all ended."""
        if b"\r" in self.text or self.text.startswith(codecs.BOM_UTF8):
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
        places = numbers_of(mine)
        return self.known.take(pc.if_else(pc.less(places, 0), None, places))

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
        yield flags_of(column.is_valid()).tobytes()
        yield values_of(pc.fill_null(column, 0)).astype("<i8").tobytes()
        return
    yield values_of(pc.fill_null(pc.binary_length(column), -1)).astype("<i4").tobytes()
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
        is_usual: whether all lines are as `pico_banana.release.columns` takes them.
        refill: what is tried again of a shard that was finished before, None for any other.
    """

    config: str
    shard: str
    digest: str
    packed_lines: PackedLines
    packed_photos: PackedPhotos
    resolved: dict[str, str]
    is_usual: bool
    refill: Refill | None = None

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
