"""Hand over what one shard is made of: its lines and photos, packed for another process."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

from pico_banana.open_images import Photo
from pico_banana.records import MAX_LINE_BYTES, Line, line_of

from .ledger import stretches
from .retry import Retry

__all__ = ["PackedLines", "PackedPhotos", "ShardTask"]


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

    def lines(self) -> Iterator[Line]:
        """Yield the lines, in order."""
        for offset, number, start, end in zip(*self[:4], strict=True):
            yield line_of(offset, self.text[start:end], number)


class PackedPhotos(NamedTuple):
    """What Open Images says of inputs, each photo once.

    Attributes:
        known: the values of each photo: named tuples take three times as long to pickle.
        places: of each record, the place of its photo in `known`, -1 for None.
    """

    known: Sequence[tuple[Any, ...]]
    places: array[int]

    def photos(self) -> Iterator[Photo | None]:
        """Yield each record's photo, in order; one that several share is the same object."""
        before, photo = -1, None
        for place in self.places:
            if place != before:
                before, photo = place, None if place < 0 else Photo(*self.known[place])
            yield photo


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

    def parts(self) -> Iterator[tuple[Line, Photo | None]]:
        """Yield each record's line and photo, in order."""
        return zip(self.packed_lines.lines(), self.packed_photos.photos(), strict=True)
