"""What is planned: which records are taken, how they are cut into shards, and their digests."""

from __future__ import annotations

import dataclasses
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import orjson

from pico_banana.open_images.index import Index, Photo
from pico_banana.reading.estimate import SampleMeans, sample_places
from pico_banana.release.records import BadRecord, Line, Record, parse_line
from pico_banana.release.selection import Unmatched

from ..output.ledger import LEDGER_FORMAT, stretches
from .refill import Refill
from .task import PackedLines, PackedPhotos, ShardTask

__all__ = [
    "Part",
    "Plan",
    "PlannedShard",
    "differences",
]

Part = tuple[Line, Record, Photo | None]
"""A planned record: its line, what it says, and what Open Images says of its input."""


@dataclass
class PlannedShard:
    """One shard of a plan: where its records lie, not the records themselves.

    Attributes:
        split: train or validation.
        numbers: line numbers of its records, ascending.
        offsets: where these lines begin in the JSONL file.
        rows: their photos' rows in the index, -1 where a photo is not listed.
        resolved: what the manifest says of the paths that its lines need it for.
        is_usual: whether all its lines were found to be as `pico_banana.release.columns` takes
            them.
        digest: see `ShardDigest`; hex once the plan is made.
        name: file name without `.parquet`, once the plan is made.
    """

    split: str
    digest: str = ""
    name: str = ""
    numbers: array[int] = field(default_factory=lambda: array("q"))
    offsets: array[int] = field(default_factory=lambda: array("q"))
    rows: array[int] = field(default_factory=lambda: array("q"))
    resolved: dict[str, str] = field(default_factory=dict)
    is_usual: bool = True

    def __len__(self) -> int:
        """The number of records."""
        return len(self.numbers)


@dataclass
class Plan:
    """What is selected from one config and how it is cut, known before any image is fetched.

    Attributes:
        config: sft, preference or multi_turn.
        settings: the content settings, without places and secrets.
        jsonl: a local copy of the JSONL file; `sha256` and `size_bytes` are that file's.
        unmatched: which of `ids` and `exclude_ids` are no record's.
        lines: its lines, blank ones left out.
        blank: numbers of blank lines.
        bad: the lines that are no record.
        filtered: numbers of lines that a filter left out.
        left_out: numbers of lines that offset, limit or exclude_ids left out.
        resolved: paths that the manifest resolved.
        odd: records by what is odd about them.
        edit_types: planned records by edit type.
        unlisted: planned records whose photo has no ImageID.
        shards: the shards, by split and index.
        images: planned images by kind, as `pico_banana.reading.estimate` has them.
        means: the mean sizes of a sample of them.
        estimated_bytes: about how large the Parquet files become.
        reckoned: how that was reckoned, in words.
    """

    config: str
    settings: dict[str, Any]
    jsonl: str
    unmatched: Unmatched
    sha256: str = ""
    size_bytes: int = 0
    lines: int = 0
    blank: array[int] = field(default_factory=lambda: array("q"))
    bad: list[BadRecord] = field(default_factory=list)
    filtered: array[int] = field(default_factory=lambda: array("q"))
    left_out: array[int] = field(default_factory=lambda: array("q"))
    resolved: dict[str, str] = field(default_factory=dict)
    odd: Counter[str] = field(default_factory=Counter)
    edit_types: Counter[str | None] = field(default_factory=Counter)
    unlisted: int = 0
    shards: list[PlannedShard] = field(default_factory=list)
    images: Counter[str] = field(default_factory=Counter)
    means: SampleMeans = field(default_factory=SampleMeans)
    estimated_bytes: int = 0
    reckoned: str = ""

    @property
    def records(self) -> int:
        """The number of planned records."""
        return sum(map(len, self.shards))

    def to_json(self) -> dict[str, Any]:
        """Return plan.json's value; the same from every run of the same plan."""
        return {
            "format": LEDGER_FORMAT,
            "config": self.config,
            "settings": self.settings,
            "jsonl": {"sha256": self.sha256, "size_bytes": self.size_bytes},
            "lines": self.lines,
            "blank": stretches(self.blank),
            "bad": [
                {"line": bad.line.number, "reason": bad.reason.value, "detail": bad.detail}
                for bad in self.bad
            ],
            "filtered": stretches(sorted(self.filtered)),
            "left_out": stretches(sorted(self.left_out)),
            "resolved": self.resolved,
            "odd": dict(self.odd),
            "shards": [
                {
                    "name": shard.name,
                    "split": shard.split,
                    "digest": shard.digest,
                    "lines": stretches(shard.numbers),
                }
                for shard in self.shards
            ],
        }

    def sample(self, index: Index | None) -> list[tuple[Record, Photo | None]]:
        """Return some of the planned records with their photos; the same at each call."""
        places = np.array(sample_places(self.records), np.int64)
        found: list[tuple[Record, Photo | None]] = []
        begin = 0
        with open(self.jsonl, "rb") as file:
            for shard in self.shards:
                end = begin + len(shard)
                mine = places[(places >= begin) & (places < end)] - begin
                begin = end
                offsets, numbers, rows = (
                    np.array(column, np.int64)[mine]
                    for column in (shard.offsets, shard.numbers, shard.rows)
                )
                lines = PackedLines.read(file, offsets, numbers).lines()
                for line, photo in zip(lines, PackedPhotos.of(rows, index).photos(), strict=True):
                    record = parse_line(self.config, line, shard.resolved.get)
                    if isinstance(record, Record):
                        found.append((record, photo))
        return found

    def tasks(
        self, names: set[str], index: Index | None, refills: Mapping[str, Refill]
    ) -> Iterator[ShardTask]:
        """Yield the tasks of the named shards, in the plan's order; lines are read as it goes.

        Args:
            names: which shards.
            index: Open Images' image list, None without one.
            refills: by shard, what is tried again of those that were finished before.
        """
        with open(self.jsonl, "rb") as file:
            for shard in self.shards:
                if shard.name in names:
                    task = self._task(shard, file, index)
                    yield dataclasses.replace(task, refill=refills.get(shard.name))

    def image_ids(self, shard: PlannedShard, index: Index | None) -> list[str | None]:
        """Return the ImageIDs of a shard's inputs, each once."""
        rows = np.unique(np.array(shard.rows, np.int64))
        return [] if index is None else index.image_ids(rows[rows >= 0])

    def _task(self, shard: PlannedShard, file: BinaryIO, index: Index | None) -> ShardTask:
        return ShardTask(
            self.config,
            shard.name,
            shard.digest,
            PackedLines.read(
                file, np.array(shard.offsets, np.int64), np.array(shard.numbers, np.int64)
            ),
            PackedPhotos.of(np.array(shard.rows, np.int64), index),
            shard.resolved,
            shard.is_usual,
        )


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return in words how a new plan differs from an old one, both as plan.json's values.

    Plans that differ by `exclude_ids` alone do not differ: only the shards that it touches are
    made again.
    """
    found = [
        f"{name}: {_short(old['settings'].get(name))} before, {_short(value)} now"
        for name, value in orjson.loads(orjson.dumps(new["settings"])).items()
        if name != "exclude_ids" and old["settings"].get(name) != value
    ]
    if not found and old["jsonl"] != new["jsonl"]:
        found.append("the release's JSONL file has changed")
    old_shards = {shard["name"]: shard for shard in old["shards"]}
    if not found and [*old_shards] != [shard["name"] for shard in new["shards"]]:
        found.append("the cut into shards")
    if not found and any(
        shard["digest"] != old_shards[shard["name"]]["digest"]
        for shard in new["shards"]
        if shard["lines"] == old_shards[shard["name"]]["lines"]
    ):
        found.append("what Open Images says of the photos (open_images_metadata)")
    return found


def _short(value: Any) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= 80 else f"{text[:77]}..."  # noqa: PLR2004
