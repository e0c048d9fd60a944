"""Decide which records are taken, in which order, and in which split; pure, no I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from pico_banana.release.records import Record
from pico_banana.settings import Settings

__all__ = ["SPLITS", "Selection", "Unmatched", "split_of"]

SPLITS = ("train", "validation")
_SHOWN = 10


def split_of(photo: str, validation: float) -> str:
    """Return the split of a photo, by its file name (the last segment of its Flickr URL).

    A photo is in validation where the first 8 bytes, big-endian, of the sha256 of its name,
    divided by 2^64, are less than the share. So a photo is on one side in all configs, and a
    growing share moves photos only from train to validation.
    """
    if not validation:
        return "train"
    digest = hashlib.sha256(photo.encode()).digest()
    return "validation" if int.from_bytes(digest[:8], "big") / 2**64 < validation else "train"


@dataclass(frozen=True)
class Selection:
    """Which records the settings ask for: filters first, then offset and limit."""

    settings: Settings

    @cached_property
    def ids(self) -> frozenset[str] | None:
        """The ids or ImageIDs to keep; None keeps all."""
        return None if self.settings.ids is None else frozenset(self.settings.ids)

    @cached_property
    def exclude_ids(self) -> frozenset[str]:
        """The ids or ImageIDs to leave out, after the cut into shards."""
        return frozenset(self.settings.exclude_ids or ())

    @property
    def has_types(self) -> bool:
        """Whether records are filtered by edit type or category."""
        return self.settings.edit_types is not None or self.settings.edit_categories is not None

    @cached_property
    def takes_all(self) -> bool:
        """Whether every record is taken, into one split."""
        asked = self.settings
        cut = (asked.ids, asked.exclude_ids, asked.offset, asked.limit, asked.validation)
        return not (self.has_types or any(cut))

    @property
    def end(self) -> int | None:
        """How many kept records are looked at before the rest is left out; None: all."""
        limit = self.settings.limit
        return None if limit is None else self.settings.offset + limit

    def passes_types(self, record: Record, category: str | None) -> bool:
        """Whether a record passes the filters by edit type and category."""
        kinds, categories = self.settings.edit_types, self.settings.edit_categories
        if kinds is not None and record.edit_type not in kinds:
            return False
        return categories is None or category in categories

    def passes_ids(self, record: Record, image_id: str | None) -> bool:
        """Whether a record passes the filter by ids; `image_id` is its photo's, if known."""
        return self.ids is None or record.id in self.ids or image_id in self.ids

    def takes(self, place: int) -> bool:
        """Whether offset and limit take the record at this place (from 0) among the kept ones."""
        return place >= self.settings.offset and (self.end is None or place < self.end)

    def split(self, record: Record) -> str:
        """Return the split of a taken record; see `split_of`."""
        share = self.settings.validation
        return split_of(record.photo, share) if share else "train"

    def excludes(self, record: Record, image_id: str | None) -> bool:
        """Whether a taken record is left out of its shard."""
        return record.id in self.exclude_ids or image_id in self.exclude_ids


class Unmatched:
    """Which of `ids` and `exclude_ids` are no record's, whatever else is selected.

    A typing error in a list of takedowns leaves in what must go.
    """

    def __init__(self, settings: Settings) -> None:
        self._knows_photos = settings.open_images_metadata != "none"
        self._left = {
            "ids": set(settings.ids or ()),
            "exclude_ids": set(settings.exclude_ids or ()),
        }

    def __bool__(self) -> bool:
        """Whether there are any left."""
        return any(self._left.values())

    def see(self, ids: Iterable[str | None]) -> None:
        """Take out the ids and ImageIDs of records, of whichever config."""
        seen = {*ids}
        for left in self._left.values():
            left.difference_update(seen)

    def intersect(self, other: Unmatched) -> None:
        """Keep what is no record's of another config either."""
        for name, left in self._left.items():
            left.intersection_update(other._left[name])

    def told(self, configs: str) -> Iterator[str]:
        """Say of each list how many are no record's of these configs, and name the first ten."""
        for name, left in self._left.items():
            if left:
                some = ", ".join(sorted(left)[:_SHOWN])
                more = f" and {len(left) - _SHOWN:,} more" if len(left) > _SHOWN else ""
                why = "" if self._knows_photos else "; without an image list no ImageID matches"
                yield f"{name}: {len(left):,} match no record of {configs}: {some}{more}{why}"
