"""Plan a conversion: which records are taken, how they are cut into shards, and their digests.

A plan reads the JSONL once, looks photos up in the index, and touches no image.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import itertools
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

import orjson

from pico_banana.errors import ReleaseError
from pico_banana.open_images import Index, Photo
from pico_banana.records import BadRecord, Line, Record, parse_line, split_lines
from pico_banana.release import Manifest
from pico_banana.schema import category_of
from pico_banana.selection import SPLITS, Selection

from .ledger import LEDGER_FORMAT, stretches
from .options import ConvertSettings
from .retry import Retry
from .tasks import PackedLines, PackedPhotos, ShardTask

__all__ = [
    "Part",
    "Plan",
    "PlannedShard",
    "ShardDigest",
    "differences",
    "make_plan",
    "without_collection",
]

_CHUNK_LINES = 4096
_MOST_BAD = 1_000_000  # a plan lists each, at some 400 bytes of memory
_NO_ROW = -1

Part = tuple[Line, Record, Photo | None]
"""A planned record: its line, what it says, and what Open Images says of its input."""


class ShardDigest:
    """The digest of what a shard is made from; equal for equal records, photos and settings."""

    def __init__(self, settings: ConvertSettings, config: str) -> None:
        content = {"config": config, **settings.what_decides_bytes()}
        self._digest = hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS))

    def add(self, parts: Iterable[Part]) -> None:
        """Add records: their lines, the paths they resolved to, and what Open Images says."""
        before, known = None, b""
        pieces: list[bytes] = []
        for line, record, photo in parts:
            paths = "\0".join(record.edited + record.rejected).encode()
            if photo is not before:  # several edits of a photo follow each other
                before, known = photo, orjson.dumps(tuple(photo)) if photo else b""
            raw = line.raw or b""
            sizes = b"%d %d %d\n" % (len(raw), len(paths), len(known))
            pieces += (sizes, raw, paths, known)
        self._digest.update(b"".join(pieces))

    def hexdigest(self) -> str:
        """Return the digest as hex."""
        return self._digest.hexdigest()


@dataclass
class PlannedShard:
    """One shard of a plan: where its records lie, not the records themselves.

    Attributes:
        split: train or validation.
        numbers: line numbers of its records, ascending.
        offsets: where these lines begin in the JSONL file.
        rows: their photos' rows in the index, -1 where a photo is not listed.
        digest: see `ShardDigest`; hex once the plan is made.
        name: file name without `.parquet`, once the plan is made.
    """

    split: str
    digest: str = ""
    name: str = ""
    numbers: array[int] = field(default_factory=lambda: array("q"))
    offsets: array[int] = field(default_factory=lambda: array("q"))
    rows: array[int] = field(default_factory=lambda: array("q"))

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
        lines: its lines, blank ones left out.
        blank: numbers of blank lines.
        bad: the lines that are no record.
        filtered: numbers of lines that a filter left out.
        left_out: numbers of lines that offset, limit or exclude_ids left out.
        resolved: paths that the manifest resolved.
        odd: records by what is odd about them.
        edit_types: planned records by edit type.
        unlisted: planned records whose photo has no ImageID.
        unmatched: how many of `ids` and `exclude_ids` are no record's; of those given.
        shards: the shards, by split and index.
    """

    config: str
    settings: dict[str, Any]
    jsonl: str
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
    unmatched: dict[str, int] = field(default_factory=dict)
    shards: list[PlannedShard] = field(default_factory=list)
    estimated_bytes: int = 0

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

    def tasks(
        self, names: set[str], index: Index | None, retries: Mapping[str, Retry]
    ) -> Iterator[ShardTask]:
        """Yield the tasks of the named shards, in the plan's order; lines are read as it goes.

        Args:
            names: which shards.
            index: Open Images' image list, None without one.
            retries: by shard, what is tried again of those that were finished before.
        """
        with open(self.jsonl, "rb") as file:
            for shard in self.shards:
                if shard.name in names:
                    task = self._task(shard, file, index)
                    yield dataclasses.replace(task, retry=retries.get(shard.name))

    def photos(self, shard: PlannedShard, index: Index | None) -> list[Photo | None]:
        """Return what Open Images says of each of a shard's inputs."""
        if index is None:
            return [None] * len(shard)
        return index.photos([None if row == _NO_ROW else row for row in shard.rows])

    def _task(self, shard: PlannedShard, file: BinaryIO, index: Index | None) -> ShardTask:
        lines = PackedLines.read(file, shard.offsets, shard.numbers)
        resolved: dict[str, str] = {}
        if self.resolved:
            # A task takes what its own lines look up, not the config's thousands.
            def resolve(path: str) -> str | None:
                found = self.resolved.get(path)
                if found is not None:
                    resolved[path] = found
                return found

            for line in lines.lines():
                parse_line(self.config, line, resolve)
        photos = _packed(shard, index)
        return ShardTask(self.config, shard.name, shard.digest, lines, photos, resolved)


def _packed(shard: PlannedShard, index: Index | None) -> PackedPhotos:
    """What Open Images says of a shard's inputs, each photo once: several edits share one."""
    rows = sorted({row for row in shard.rows if row != _NO_ROW})
    known = [] if index is None else index.photos(rows)
    place_of = {row: place for place, row in enumerate(rows)} | {_NO_ROW: -1}
    places = array("q", [place_of[row] for row in shard.rows])
    return PackedPhotos([tuple(photo) for photo in known if photo is not None], places)


def make_plan(
    config: str, settings: ConvertSettings, jsonl: str, manifest: Manifest, index: Index | None
) -> Plan:
    """Return the plan of one config.

    Args:
        config: sft, preference or multi_turn.
        settings: what to select and how to cut it.
        jsonl: a local copy of the config's JSONL file.
        manifest: for paths that do not lie below `images/`.
        index: Open Images' image list, None without one.
    """
    planner = _Planner(config, settings, jsonl, index)
    try:
        opened = open(jsonl, "rb")  # noqa: SIM115
    except OSError as error:
        raise ReleaseError(f"{jsonl} cannot be read: {error}", jsonl) from None
    with opened as file, without_collection():
        digest = hashlib.sha256()

        def read(size: int) -> bytes:
            block = file.read(size)
            digest.update(block)
            planner.plan.size_bytes += len(block)
            return block

        lines = split_lines(read)
        while chunk := list(itertools.islice(lines, _CHUNK_LINES)):
            planner.add(chunk, manifest)
    return planner.finish(digest.hexdigest(), manifest.found)


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Hold Python's collector off: it would look through all that lives, again and again.

    For what makes many objects of which none refers to itself.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _Found(NamedTuple):
    """A record that passed the filters by type, and its photo with its row in the index."""

    line: Line
    record: Record
    row: int | None
    photo: Photo | None


class _Planner:
    """Takes lines in, chunk by chunk, and gives a plan."""

    def __init__(
        self, config: str, settings: ConvertSettings, jsonl: str, index: Index | None
    ) -> None:
        self.plan = Plan(config, _content(settings, config), jsonl)
        self._config, self._settings, self._index = config, settings, index
        self._selection = Selection.of(settings)
        self._shard_size = settings.shard_size(config)
        self._kept = 0
        self._splits: dict[str, list[tuple[PlannedShard, ShardDigest]]] = {}
        self._taken: Counter[str] = Counter()
        self._seen: set[str] = set()
        self._unmatched = {
            name: set(given)
            for name in ("ids", "exclude_ids")
            if (given := getattr(settings, name)) is not None
        }

    def add(self, chunk: Sequence[Line], manifest: Manifest) -> None:
        """Plan the next lines."""
        plan, selection = self.plan, self._selection
        every_type = selection.edit_types is None and selection.edit_categories is None
        candidates: list[tuple[Line, Record]] = []
        for line in chunk:
            number = line.number or 0
            if line.raw is not None and (not line.raw or line.raw.isspace()):
                plan.blank.append(number)
                continue
            plan.lines += 1
            record = parse_line(self._config, line, manifest.resolve)
            if isinstance(record, BadRecord):
                # The line's bytes are not needed any more, and there may be many.
                plan.bad.append(record._replace(line=line._replace(raw=None)))
                self._check_bad(record)
            elif every_type or selection.passes_types(record, category_of(record.edit_type)):
                candidates.append((line, record))
            else:
                plan.filtered.append(number)
        # Once the limit is reached only ids still need ImageIDs, to tell filtered from left out.
        is_full = selection.end is not None and self._kept >= selection.end
        wanted = [] if is_full and selection.ids is None else candidates
        rows, photos = self._look_up([record for _, record in wanted])
        found = [
            _Found(line, record, row, photo)
            for (line, record), row, photo in itertools.zip_longest(candidates, rows, photos)
        ]
        if selection.takes_all:
            self._kept += len(found)
            self._put("train", found)
        else:
            for one in found:
                self._place(one)

    def _check_bad(self, last: BadRecord) -> None:
        if len(self.plan.bad) > _MOST_BAD:
            raise ReleaseError(
                f"{self.plan.jsonl} must be a JSONL file of the release, but more than "
                f"{_MOST_BAD:,} of its lines are no records, as {last.line.where}: "
                f"{last.reason.value}: {last.detail}",
                self.plan.jsonl,
            )

    def _look_up(self, records: list[Record]) -> tuple[list[int | None], list[Photo | None]]:
        if self._index is None or not records:
            return [None] * len(records), [None] * len(records)
        urls = [record.input_url for record in records]
        unique = [*dict.fromkeys(urls)]  # several edits share a photo
        found = self._index.rows(unique)
        row_of = dict(zip(unique, found, strict=True))
        photo_of = dict(zip(unique, self._index.photos(found), strict=True))
        return [row_of[url] for url in urls], [photo_of[url] for url in urls]

    def _place(self, one: _Found) -> None:
        """Decide a good record's fate: filtered, left out, or a place in a shard."""
        plan, selection = self.plan, self._selection
        number = one.line.number or 0
        image_id = one.photo.image_id if one.photo else None
        for unmatched in self._unmatched.values():
            unmatched -= {one.record.id, image_id}
        if not selection.passes_ids(one.record, image_id):
            plan.filtered.append(number)
            return
        self._kept += 1
        if not selection.takes(self._kept - 1):
            plan.left_out.append(number)
            return
        split = selection.split(one.record)
        if selection.excludes(one.record, image_id):
            self._shard(split)
            self._taken[split] += 1
            plan.left_out.append(number)
            return
        self._put(split, [one])

    def _shard(self, split: str) -> tuple[PlannedShard, ShardDigest]:
        """The shard that a split's next record goes to."""
        shards = self._splits.setdefault(split, [])
        if self._taken[split] == len(shards) * self._shard_size:
            shards.append((PlannedShard(split), ShardDigest(self._settings, self._config)))
        return shards[-1]

    def _put(self, split: str, found: Sequence[_Found]) -> None:
        """Put records into a split's shards."""
        self._count(found)
        while found:
            shard, digest = self._shard(split)
            left = self._shard_size - self._taken[split] % self._shard_size
            mine, found = found[:left], found[left:]
            self._taken[split] += len(mine)
            shard.numbers.extend([one.line.number or 0 for one in mine])
            shard.offsets.extend([one.line.offset for one in mine])
            shard.rows.extend([_NO_ROW if one.row is None else one.row for one in mine])
            digest.add((one.line, one.record, one.photo) for one in mine)

    def _count(self, found: Sequence[_Found]) -> None:
        """Count what planned records are."""
        plan, odd = self.plan, self.plan.odd
        plan.unlisted += sum([one.photo is None for one in found])
        types = Counter([one.record.edit_type for one in found])
        plan.edit_types.update(types)
        for edit_type, count in types.items():
            if self._config != "multi_turn" and category_of(edit_type) is None:
                odd["unknown_edit_type" if edit_type else "no_edit_type"] += count
        for _, record, _, _ in found:
            for kind in record.odd:
                odd[kind] += 1
            for path in record.edited + record.rejected:
                if not path.startswith("images/"):
                    odd["unresolved_path"] += 1
                    break
        before = len(self._seen)
        self._seen.update([one.record.edited[-1] for one in found])
        if repeated := len(found) - (len(self._seen) - before):
            odd["repeated_output_image"] += repeated

    def finish(self, sha256: str, resolved: dict[str, str]) -> Plan:
        """Return the plan, with names and digests."""
        plan = self.plan
        plan.sha256, plan.resolved = sha256, dict(sorted(resolved.items()))
        plan.unmatched = {name: len(left) for name, left in self._unmatched.items() if left}
        for split in SPLITS:
            shards = self._splits.get(split, [])
            for number, (shard, digest) in enumerate(shards):
                shard.name = f"{split}-{number:05d}-of-{len(shards):05d}"
                shard.digest = digest.hexdigest()
                plan.shards.append(shard)
        plan.estimated_bytes = int(plan.records * self._settings.bytes_of_record(self._config))
        return plan


def _content(settings: ConvertSettings, config: str) -> dict[str, Any]:
    """The content settings as the plan keeps them: no places, no secrets, long lists as digests."""

    def digest_of(ids: Sequence[str] | None) -> dict[str, Any] | None:
        if ids is None:
            return None
        return {"count": len(ids), "sha256": hashlib.sha256("\n".join(ids).encode()).hexdigest()}

    return {
        **settings.what_decides_bytes(),
        "edit_types": settings.edit_types,
        "edit_categories": settings.edit_categories,
        "ids": digest_of(settings.ids),
        "exclude_ids": digest_of(settings.exclude_ids or None),
        "offset": settings.offset,
        "limit": settings.limit,
        "validation": settings.validation,
        "records_per_shard": settings.shard_size(config),
    }


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
