"""Estimate what a selection's images take, by the sizes of a sample of them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from pico_banana.fetching.sources import ImageRef, Sources
from pico_banana.open_images.index import Photo
from pico_banana.reading.examples import image_refs
from pico_banana.release.records import Record
from pico_banana.settings import ConfigSpec, Settings

__all__ = ["KINDS", "Mean", "Sample", "SampleMeans", "sample_places"]

KINDS = ("input", "edited", "rejected")
"""The kinds of images, each with a mean of its own; those of all turns are one kind."""

_MOST_ASKED = 64
"""Most requests for the images of one kind: the mean of so many is within some per cent."""

_SAMPLE_RECORDS = 4 * _MOST_ASKED
_SEED = 400
Taken = TypeVar("Taken")


class Mean(NamedTuple):
    """The mean size of some images in bytes, and of how many."""

    images: int
    size_bytes: float


@dataclass(frozen=True)
class SampleMeans:
    """The mean sizes of the images of a sample, by kind; what has none goes by averages.

    Attributes:
        by_kind: the means of the kinds whose sizes were told.
        was_asked: whether anything was asked for.
    """

    by_kind: Mapping[str, Mean] = field(default_factory=dict)
    was_asked: bool = False

    @classmethod
    def ask(
        cls, samples: Sequence[Sequence[tuple[Record, Photo | None]]], settings: Settings
    ) -> list[SampleMeans]:
        """Return the means of several samples, all asked for at once; see `ask_sizes`."""
        if not samples:
            return []
        from pico_banana.fetching.sizes import ask_sizes  # noqa: PLC0415  (slow to import)

        sources, rng = Sources(settings), random.Random(_SEED)  # noqa: S311  (no secret)
        groups = [group for sample in samples for group in _groups(sample, sources)]
        chosen = [rng.sample(refs, min(len(refs), _MOST_ASKED)) for refs in groups]
        told = [
            Mean(len(sizes), sum(sizes) / len(sizes)) if sizes else None
            for sizes in ask_sizes(chosen, settings, _MOST_ASKED)
        ]
        parts = [told[at : at + len(KINDS)] for at in range(0, len(told), len(KINDS))]
        return [
            cls({kind: mean for kind, mean in zip(KINDS, part, strict=True) if mean}, True)
            for part in parts
        ]

    def size_of(self, kind: str, spec: ConfigSpec) -> float:
        """Return the mean size of an image of a kind, in bytes."""
        if kind in self.by_kind:
            return self.by_kind[kind].size_bytes
        return spec.input_bytes if kind == "input" else spec.edited_bytes

    def size_bytes(self, counts: Mapping[str, int], spec: ConfigSpec) -> float:
        """Return how many bytes so many images of each kind take."""
        return sum(count * self.size_of(kind, spec) for kind, count in counts.items())

    def told(self, counts: Mapping[str, int]) -> str:
        """Return in words how so many images of each kind are reckoned."""
        averages = "by averages of the whole release"
        images = sum(mean.images for kind, mean in self.by_kind.items() if counts.get(kind))
        if not images:
            return f"{averages}, for no sizes were told" if self.was_asked else averages
        rest = [kind for kind, count in counts.items() if count and kind not in self.by_kind]
        others = f", {' and '.join(rest)} images {averages}" if rest else ""
        return f"by the sizes of {images:,} images{others}"


def _groups(
    sample: Iterable[tuple[Record, Photo | None]], sources: Sources
) -> tuple[list[ImageRef], ...]:
    """The images of a sample by kind."""
    found: tuple[list[ImageRef], ...] = tuple([] for _ in KINDS)
    for record, photo in sample:
        inputs, *edits = image_refs(record, photo, sources)
        last = len(record.edited)
        for refs, mine in zip(found, ([inputs], edits[:last], edits[last:]), strict=True):
            refs.extend(mine)
    return found


class Sample(Generic[Taken]):
    """Takes some of many records, each with equal chances; the same of the same records.

    Attributes:
        taken: those that were taken so far.
    """

    def __init__(self) -> None:
        self.taken: list[Taken] = []
        self._rng, self._seen = random.Random(_SEED), 0  # noqa: S311  (no secret)

    def add(self, record: Taken) -> None:
        """See the next record."""
        self._seen += 1
        if len(self.taken) < _SAMPLE_RECORDS:
            self.taken.append(record)
        elif (place := self._rng.randrange(self._seen)) < _SAMPLE_RECORDS:
            self.taken[place] = record


def sample_places(records: int) -> list[int]:
    """Return the places of a sample among so many records, ascending; the same at each call."""
    rng = random.Random(_SEED)  # noqa: S311  (no secret)
    return sorted(rng.sample(range(records), min(records, _SAMPLE_RECORDS)))
