"""Read a config's lines once and plan what becomes of them; touches no image.

Usual lines are planned by columns, thousands at a time; see `pico_banana.release.columns`.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pico_banana.arrow import numbers_of, strings_of, values_of
from pico_banana.errors import ReleaseError
from pico_banana.open_images.index import Index, Photo, photo_columns
from pico_banana.reading.estimate import SampleMeans
from pico_banana.release.columns import Block, Numbers, Usual, parsed, split_blocks
from pico_banana.release.files import Manifest
from pico_banana.release.records import BadRecord, Line, Record, parse_line
from pico_banana.release.selection import SPLITS, Selection, Unmatched
from pico_banana.schema import category_of

from ..interpreter import without_collection
from ..options import ConvertSettings
from ..signals import check
from .plan import Plan, PlannedShard
from .sizes import reckon
from .task import PackedPhotos, ShardDigest, places_of

__all__ = ["make_plan"]

_CHUNK_LINES = 4096
_MOST_BAD = 1_000_000  # a plan lists each, at some 400 bytes of memory
_NO_ROW = -1
_BLOCKS_AHEAD = 3
_T = TypeVar("_T")


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
            check()  # plans are made in threads, which get no signals
            block = file.read(size)
            digest.update(block)
            planner.plan.size_bytes += len(block)
            return block

        for parts in _ahead(planner.parts, split_blocks(read)):
            planner.add(parts, manifest)
    return planner.finish(digest.hexdigest(), manifest.found)


def _ahead(call: Callable[[Block], _T], blocks: Iterable[Block]) -> Iterator[_T]:
    """What a function returns of each block, called in a thread for some blocks ahead."""
    called: deque[Future[_T]] = deque()
    with ThreadPoolExecutor(2, thread_name_prefix="pico-banana-parsing") as pool:
        for block in blocks:
            called.append(pool.submit(call, block))
            if len(called) > _BLOCKS_AHEAD:
                yield called.popleft().result()
        while called:
            yield called.popleft().result()


class _Found(NamedTuple):
    """A record that passed the filters by type, and its photo with its row in the index."""

    line: Line
    record: Record
    resolved: Mapping[str, str]
    row: int | None
    photo: Photo | None


class _Cut(NamedTuple):
    """Records of one split that follow each other, as what a shard keeps of them.

    Attributes:
        numbers, offsets: as `PlannedShard` has them.
        rows: likewise; None where they are looked up in the end, all at once.
        text: gives the lines from one place to another, as a digest takes them.
        resolved: by place, what the manifest says of a record's paths.
        is_usual: whether all lines are as usual.
    """

    numbers: Numbers
    offsets: Numbers
    rows: Numbers | None
    text: Callable[[int, int], bytes]
    resolved: Mapping[int, Mapping[str, str]]
    is_usual: bool


class _Planner:
    """Takes lines in, block by block, and gives a plan."""

    def __init__(
        self, config: str, settings: ConvertSettings, jsonl: str, index: Index | None
    ) -> None:
        self.plan = Plan(config, _content(settings, config), jsonl, Unmatched(settings))
        self._config, self._settings, self._index = config, settings, index
        self._selection = Selection(settings)
        self._shard_size = settings.shard_size(config)
        self._kept = 0
        self._splits: dict[str, list[tuple[PlannedShard, ShardDigest]]] = {}
        self._taken: Counter[str] = Counter()
        self._outputs: list[pa.StringArray] = []
        self._urls: list[pa.StringArray] = []  # of records whose photos are looked up in the end

    def parts(self, block: Block) -> list[tuple[Block, Usual | None]]:
        """Return the parts of a block as `add` takes them; for any thread."""
        if not self._selection.takes_all:
            return [(block, None)]
        return [*parsed(self._config, block)]

    def add(self, parts: Sequence[tuple[Block, Usual | None]], manifest: Manifest) -> None:
        """Plan the next lines."""
        for part, usual in parts:
            if usual is None:
                self._add_each(part, manifest)
            else:
                self._add_usual(part, usual)

    def _add_usual(self, block: Block, usual: Usual) -> None:
        """Plan lines that are all records, and all taken."""
        records, starts = usual
        count = len(starts)
        self.plan.lines += count
        self._kept += count
        self._urls.append(records["input_url"])
        self._count_usual(records)
        text = block.text or b""
        edges = [*starts.tolist(), len(text)]
        numbers = np.arange(block.number, block.number + count)
        cut = _Cut(
            numbers, starts + block.offset, None, lambda i, j: text[edges[i] : edges[j]], {}, True
        )
        self._put("train", cut)

    def _add_each(self, block: Block, manifest: Manifest) -> None:
        """Plan lines of whatever kind."""
        lines = block.lines()
        while chunk := list(itertools.islice(lines, _CHUNK_LINES)):
            self._add_chunk(chunk, manifest)

    def _add_chunk(self, chunk: Sequence[Line], manifest: Manifest) -> None:
        plan, selection = self.plan, self._selection
        candidates: list[tuple[Line, Record, Mapping[str, str]]] = []
        filtered: list[Record] = []
        resolved: dict[str, str] = {}

        def resolve(path: str) -> str | None:
            found = manifest.resolve(path)
            if found is not None:
                resolved[path] = found
            return found

        for line in chunk:
            number = line.number or 0
            if line.raw is not None and (not line.raw or line.raw.isspace()):
                plan.blank.append(number)
                continue
            plan.lines += 1
            record = parse_line(self._config, line, resolve)
            mine, resolved = resolved, {} if resolved else resolved
            if isinstance(record, BadRecord):
                # The line's bytes are not needed any more, and there may be many.
                plan.bad.append(record._replace(line=line._replace(raw=None)))
                self._check_bad(record)
            elif not selection.has_types or selection.passes_types(
                record, category_of(record.edit_type)
            ):
                candidates.append((line, record, mine))
            else:
                plan.filtered.append(number)
                filtered.append(record)
        # Once the limit is reached only ids still need ImageIDs, to tell filtered from left out.
        is_full = selection.end is not None and self._kept >= selection.end
        needs_none = selection.takes_all or (is_full and selection.ids is None)
        records = [record for _, record, _ in candidates]
        wanted = [] if needs_none else records
        rows, photos = self._look_up(wanted)
        self._see(filtered + records, photos, filtered if wanted else filtered + records)
        placed: dict[str, list[_Found | None]] = {split: [] for split in SPLITS}
        for (line, record, known), row, photo in itertools.zip_longest(candidates, rows, photos):
            self._place(_Found(line, record, known, row, photo), placed)
        for split, places in placed.items():
            for is_excluded, run in itertools.groupby(places, lambda place: place is None):
                if is_excluded:
                    self._leave_out(split, len([*run]))
                else:
                    self._put_found(split, [place for place in run if place is not None])

    def _see(self, records: list[Record], photos: list[Photo | None], others: list[Record]) -> None:
        """Tell the lists of ids of records; `photos` are known, those of `others` looked up."""
        unmatched = self.plan.unmatched
        if unmatched:
            unmatched.see(record.id for record in records)
            seen = [*photos, *self._look_up(others)[1]]
            unmatched.see(photo.image_id for photo in seen if photo)

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
        rows = self._index.rows([record.input_url for record in records])
        return rows, self._index.photos(rows)

    def _place(self, found: _Found, placed: dict[str, list[_Found | None]]) -> None:
        """Decide a good record's fate: filtered, left out, or a place in a split.

        One that is excluded takes its place in the cut too, as None.
        """
        plan, selection = self.plan, self._selection
        number = found.line.number or 0
        image_id = found.photo.image_id if found.photo else None
        if not selection.passes_ids(found.record, image_id):
            plan.filtered.append(number)
            return
        self._kept += 1
        if not selection.takes(self._kept - 1):
            plan.left_out.append(number)
            return
        is_excluded = selection.excludes(found.record, image_id)
        placed[selection.split(found.record)].append(None if is_excluded else found)
        if is_excluded:
            plan.left_out.append(number)

    def _shard(self, split: str) -> tuple[PlannedShard, ShardDigest]:
        """The shard that a split's next record goes to."""
        shards = self._splits.setdefault(split, [])
        if self._taken[split] == len(shards) * self._shard_size:
            shards.append((PlannedShard(split), ShardDigest(self._settings, self._config)))
        return shards[-1]

    def _leave_out(self, split: str, count: int) -> None:
        """Let records take their places in the cut without being put there."""
        for _ in range(count):
            self._shard(split)
            self._taken[split] += 1

    def _put_found(self, split: str, found: Sequence[_Found]) -> None:
        """Put records of whatever kind into a split's shards."""
        self._count(found)
        raws = [taken.line.raw or b"" for taken in found]
        rows = None
        if self._selection.takes_all:
            self._urls.append(strings_of([taken.record.input_url for taken in found]))
        else:
            rows = np.array([_NO_ROW if taken.row is None else taken.row for taken in found])
            self.plan.unlisted += int((rows < 0).sum())
        cut = _Cut(
            np.array([taken.line.number for taken in found]),
            np.array([taken.line.offset for taken in found]),
            rows,
            lambda i, j: b"\n".join([*raws[i:j], b""]),
            {place: taken.resolved for place, taken in enumerate(found) if taken.resolved},
            False,
        )
        self._put(split, cut)

    def _put(self, split: str, cut: _Cut) -> None:
        """Put records into a split's shards."""
        begin, count = 0, len(cut.numbers)
        while begin < count:
            shard, digest = self._shard(split)
            end = min(count, begin + self._shard_size - self._taken[split] % self._shard_size)
            self._taken[split] += end - begin
            shard.numbers.frombytes(cut.numbers[begin:end].tobytes())
            shard.offsets.frombytes(cut.offsets[begin:end].tobytes())
            if cut.rows is not None:
                shard.rows.frombytes(cut.rows[begin:end].tobytes())
            digest.add(cut.text(begin, end))
            shard.is_usual &= cut.is_usual
            for place, resolved in cut.resolved.items():
                if begin <= place < end:
                    shard.resolved.update(resolved)
            begin = end

    def _count_usual(self, records: pa.RecordBatch) -> None:
        """Count what planned records are, as `_count` does, where none is odd in itself."""
        counts = records["edit_type"].value_counts().to_pylist()
        self._count_types({counted["values"]: counted["counts"] for counted in counts})
        edited = records["edited"]
        for kind in ("edited", "rejected"):
            self.plan.images[kind] += pc.sum(pc.list_value_length(records[kind])).as_py() or 0
        last = values_of(edited.offsets)[1:] - 1
        self._outputs.append(edited.values.take(numbers_of(last)))

    def _count(self, found: Sequence[_Found]) -> None:
        """Count what planned records are."""
        odd = self.plan.odd
        self._count_types(Counter([taken.record.edit_type for taken in found]))
        for taken in found:
            self.plan.images["edited"] += len(taken.record.edited)
            self.plan.images["rejected"] += len(taken.record.rejected)
            for kind in taken.record.odd:
                odd[kind] += 1
            for path in taken.record.edited + taken.record.rejected:
                if not path.startswith("images/"):
                    odd["unresolved_path"] += 1
                    break
        self._outputs.append(strings_of([taken.record.edited[-1] for taken in found]))

    def _count_types(self, types: Mapping[str | None, int]) -> None:
        self.plan.edit_types.update(types)
        for edit_type, count in types.items():
            if self._config != "multi_turn" and category_of(edit_type) is None:
                self.plan.odd["unknown_edit_type" if edit_type else "no_edit_type"] += count

    def finish(self, sha256: str, resolved: dict[str, str]) -> Plan:
        """Return the plan, with names and digests."""
        plan = self.plan
        plan.sha256, plan.resolved = sha256, dict(sorted(resolved.items()))
        outputs = pa.chunked_array(self._outputs, pa.string())
        if repeated := len(outputs) - pc.count_distinct(outputs).as_py():
            plan.odd["repeated_output_image"] = repeated
        made = [
            (f"{split}-{number:05d}-of-{len(shards):05d}", *planned)
            for split in SPLITS
            for shards in [self._splits.get(split, [])]
            for number, planned in enumerate(shards)
        ]
        self._find_rows([shard for _, shard, _ in made])
        found = self._photos([shard for _, shard, _ in made])
        for (name, shard, digest), photos in zip(made, found, strict=True):
            shard.name, shard.digest = name, digest.hexdigest(shard.resolved, photos)
            plan.shards.append(shard)
        plan.images["input"] = plan.records
        reckon(plan, self._settings, SampleMeans())
        return plan

    def _find_rows(self, shards: Sequence[PlannedShard]) -> None:
        """Look up the photos of records that were put into shards without."""
        if not self._urls:
            return
        distinct = pa.chunked_array(self._urls).combine_chunks().dictionary_encode()
        rows = np.full(len(distinct), _NO_ROW)
        if self._index is not None:  # several edits share a photo
            found, _ = self._index.matches(distinct.dictionary)
            rows = found[values_of(distinct.indices)]
        self.plan.unlisted = int((rows < 0).sum())
        begin = 0
        for shard in shards:
            shard.rows.frombytes(rows[begin : begin + len(shard)].tobytes())
            begin += len(shard)

    def _photos(self, shards: Sequence[PlannedShard]) -> Iterator[PackedPhotos]:
        """The photos of each shard; all are looked up at once, which takes as long as for one."""
        places = [places_of(np.array(shard.rows, np.int64)) for shard in shards]
        known = photo_columns([])
        if self._index is not None and places:
            known = self._index.columns(np.concatenate([distinct for distinct, _ in places]))
        begin = 0
        for distinct, mine in places:
            end = begin + len(distinct)
            yield PackedPhotos(known.slice(begin, end - begin), mine)
            begin = end


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
