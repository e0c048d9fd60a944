"""Decide which records are taken, in which order, and in which split; pure, no I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from pico_banana.release.records import Record
from pico_banana.settings import Settings

__all__ = ["SPLITS", "Selection", "split_of"]

SPLITS = ("train", "validation")


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
    """Which records the user wants, from the settings: filters first, then offset and limit.

    Attributes:
        edit_types: exact edit types to keep; None keeps all.
        edit_categories: exact categories to keep; None keeps all.
        ids: ids or ImageIDs to keep; None keeps all.
        exclude_ids: ids or ImageIDs to leave out, after the cut into shards.
    """

    edit_types: frozenset[str] | None
    edit_categories: frozenset[str] | None
    ids: frozenset[str] | None
    exclude_ids: frozenset[str]
    offset: int
    limit: int | None
    validation: float

    @classmethod
    def of(cls, settings: Settings) -> Selection:
        """Return the selection that the settings ask for."""

        def chosen(values: Sequence[str] | None) -> frozenset[str] | None:
            return None if values is None else frozenset(values)

        return cls(
            edit_types=chosen(settings.edit_types),
            edit_categories=chosen(settings.edit_categories),
            ids=chosen(settings.ids),
            exclude_ids=frozenset(settings.exclude_ids or ()),
            offset=settings.offset,
            limit=settings.limit,
            validation=settings.validation,
        )

    @property
    def takes_all(self) -> bool:
        """Whether every record is taken, into one split."""
        return self == Selection(None, None, None, frozenset(), 0, None, 0.0)

    @property
    def end(self) -> int | None:
        """How many kept records are looked at before the rest is left out; None: all."""
        return None if self.limit is None else self.offset + self.limit

    def passes_types(self, record: Record, category: str | None) -> bool:
        """Whether a record passes the filters by edit type and category."""
        if self.edit_types is not None and record.edit_type not in self.edit_types:
            return False
        return self.edit_categories is None or category in self.edit_categories

    def passes_ids(self, record: Record, image_id: str | None) -> bool:
        """Whether a record passes the filter by ids; `image_id` is its photo's, if known."""
        return self.ids is None or record.id in self.ids or image_id in self.ids

    def takes(self, place: int) -> bool:
        """Whether offset and limit take the record at this place (from 0) among the kept ones."""
        return place >= self.offset and (self.limit is None or place < self.offset + self.limit)

    def split(self, record: Record) -> str:
        """Return the split of a taken record; see `split_of`."""
        return split_of(record.photo, self.validation) if self.validation else "train"

    def excludes(self, record: Record, image_id: str | None) -> bool:
        """Whether a taken record is left out of its shard."""
        return record.id in self.exclude_ids or image_id in self.exclude_ids
