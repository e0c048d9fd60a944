"""Carry out shards: fetch their images, make examples, write one Parquet file, then its ledger."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL
import pyarrow as pa
import pyarrow.compute as pc

from pico_banana import __version__
from pico_banana.errors import OutputError, WorkError
from pico_banana.fetching.inspect import Fetched
from pico_banana.fetching.links import Links
from pico_banana.fetching.sources import ImageRef, Sources
from pico_banana.input_sources import SOURCES
from pico_banana.missing import Missing
from pico_banana.open_images.index import Photo
from pico_banana.reading.examples import Example, borne, image_refs, linked, make_example
from pico_banana.release.columns import columns_of, known_columns
from pico_banana.release.records import Line, Record, parse_line

from ..interpreter import without_collection
from ..options import ConvertSettings
from ..output.disk_budget import Writing
from ..output.ledger import Ledger, MissingEntry, ShardLedger, stretches
from ..output.parquet_file import Buffers, LinkedFile, ParquetFile
from ..output.store import HashingFile, Store
from ..planning.plan import Part
from ..planning.task import ShardTask
from .old_shard import OldShard

if TYPE_CHECKING:  # it takes long to import, and where images are links nothing is fetched
    from pico_banana.fetching.fetcher import Fetcher

__all__ = ["ShardWriter"]

Found = list[Fetched | Missing]

_BATCH_ROWS = 5000
_BATCH_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class _Begun:
    """A shard whose images are under way: its records, their images, and what it was before."""

    task: ShardTask
    parts: list[Part]
    refs: list[list[ImageRef]]
    old: OldShard | None

    def to_fetch(self) -> list[list[ImageRef]]:
        """The images of each record that are to be fetched."""
        old = self.old
        if old is None:
            return self.refs
        parts = zip(self.parts, self.refs, strict=True)
        return [old.to_fetch(line.number or 0, record, refs) for (line, record, _), refs in parts]

    def found(self, first: Found, results: Iterator[Found]) -> Iterator[Found]:
        """What was found of each record's images: fetched, or taken from the old file."""
        parts = zip(self.parts, self.refs, strict=True)
        for place, ((line, record, _), refs) in enumerate(parts):
            came = next(results) if place else first
            yield self.old.found(line.number or 0, record, refs, came) if self.old else came


class ShardWriter:
    """Carries out shards one after the other, fetching the next one's images meanwhile.

    Args:
        settings: as planned.
        store: the output.
        fetcher: fetches the images; None where `images` is url or none, for then none is.
        seen: told of rows, records with a missing image, and records since it was told before.
        say: told what a person should know.
        writing: bounds the Parquet bytes in the output; None where nothing does.
    """

    def __init__(
        self,
        settings: ConvertSettings,
        store: Store,
        fetcher: Fetcher | None,
        seen: Callable[[int, int, int], None],
        say: Callable[[str], None],
        writing: Writing | None = None,
    ) -> None:
        self._settings, self._store, self._fetcher = settings, store, fetcher
        self._seen, self._say, self._writing = seen, say, writing
        self._sources, self._links = Sources(settings), Links(settings)
        self._buffers: Buffers = {}

    def carry_out(self, tasks: Iterable[ShardTask | None]) -> Iterator[ShardLedger]:
        """Yield the ledger of each task's shard when its Parquet file and ledger are written.

        A None among the tasks means "none yet, finish what is there first".

        Raises:
            WriteError: the output cannot be written.
            MissingImageError: an image is missing and must not be.
            WorkError: the old file of a shard that is made anew cannot be read.
        """
        fetcher = self._fetcher
        if fetcher is None:
            for task in tasks:
                if task is not None:
                    yield self._write(task, None, self._link)
            return
        begun: deque[_Begun] = deque()

        def batches() -> Iterator[Sequence[Sequence[ImageRef]] | None]:
            for task in tasks:
                if task is None:
                    yield None
                    continue
                begun.append(self._begin(task))
                # A shard that exclude_ids emptied still has its turn.
                yield begun[-1].to_fetch() or [[]]

        results = fetcher.in_order(batches())
        for first in results:
            shard = begun.popleft()
            founds = shard.found(first, results)
            yield self._write(shard.task, shard.old, functools.partial(self._fetch, shard, founds))

    def _begin(self, task: ShardTask) -> _Begun:
        self._check_unchanged(task)
        parts = [*_parts(task)]
        refs = [image_refs(record, photo, self._sources) for _, record, photo in parts]
        return _Begun(task, parts, refs, self._old(task))

    def _old(self, task: ShardTask) -> OldShard | None:
        """What a shard that is made anew keeps of its old file; nothing of one that is damaged."""
        if task.refill is None:
            return None
        ledger = Ledger(self._store, task.config)
        try:
            if ledger.is_intact(task.refill.ledger):
                return OldShard(self._store, task.config, task.refill)
        except OutputError as error:
            raise WorkError(str(error)) from error
        self._say(
            f"{self._store.path(ledger.parquet_name(task.shard))} must have the sha256 of its "
            "ledger to be built on, but it was changed or is damaged; all its images are fetched "
            "anew"
        )
        return None

    def _check_unchanged(self, task: ShardTask) -> None:
        """Refuse lines and photos that are not what the plan saw."""
        if task.found_digest(self._settings) != task.digest:
            raise WorkError(
                f"the records of {task.config}/{task.shard} are not those that were planned: the "
                "JSONL file or the index has changed underneath; run the same command again"
            )

    def _write(
        self,
        task: ShardTask,
        old: OldShard | None,
        add: Callable[[ShardTask, HashingFile, _Account], int],
    ) -> ShardLedger:
        """Write a shard's Parquet file, which `add` fills and counts, then its ledger."""
        account = _Account()
        ledger = Ledger(self._store, task.config)
        with (
            self._taking(task) as take,
            self._store.writing(ledger.parquet_name(task.shard), take) as file,
        ):
            with old or contextlib.nullcontext():
                rows = add(task, file, account)
            made = account.ledger(task, rows, file.size_bytes, file.sha256)
            if task.refill is not None:
                ledger.write_next(task.refill.ledger, made)
        ledger.write_shard(made)
        return made

    @contextlib.contextmanager
    def _taking(self, task: ShardTask) -> Iterator[Callable[[int], None] | None]:
        """Give what takes a shard's bytes from the disk's budget, where there is one."""
        if self._writing is None:
            yield None
            return
        expected_bytes = len(task) * self._settings.bytes_of_record(task.config)
        with self._writing(expected_bytes) as take:
            yield take

    def _fetch(
        self,
        shard: _Begun,
        founds: Iterator[Found],
        task: ShardTask,
        file: HashingFile,
        account: _Account,
    ) -> int:
        """Add a shard's examples to its Parquet file and its account, as their images come."""
        with ParquetFile(file, task.config, self._buffers) as parquet:
            for (line, record, photo), found in zip(shard.parts, map(borne, founds), strict=True):
                example = make_example(task.config, record, photo, found, self._settings.on_missing)
                if example.row is not None:
                    parquet.add(example.row)
                account.add(line, record, photo, example, found)
                self._seen(int(example.row is not None), int(bool(example.missing)), 1)
        return parquet.rows

    def _link(self, task: ShardTask, file: HashingFile, account: _Account) -> int:
        """Add a shard's examples to its Parquet file and its account, without images' bytes."""
        self._check_unchanged(task)
        images = self._settings.images
        with LinkedFile(file, task.config, images) as parquet, without_collection():
            for numbers, records, photos in _columns(task):
                batch = linked(task.config, records, photos, self._links)
                parquet.add(batch)
                account.add_linked(numbers, records, photos, batch)
                self._seen(len(numbers), 0, len(numbers))
        return parquet.rows


def _parts(task: ShardTask) -> Iterator[Part]:
    """A task's records, parsed again."""
    for line, photo in task.parts():
        record = parse_line(task.config, line, task.resolved.get)
        if isinstance(record, Record):
            yield line, record, photo


def _columns(task: ShardTask) -> Iterator[tuple[Sequence[int], pa.RecordBatch, pa.RecordBatch]]:
    """A task's line numbers, records and photos by the thousand, fewer where lines are long."""
    lines, photos = task.packed_lines, task.packed_photos
    begin, count = 0, len(task)
    while begin < count:
        longest = int(np.searchsorted(lines.starts, lines.starts[begin] + _BATCH_BYTES))
        end = min(begin + _BATCH_ROWS, max(begin + 1, longest), count)
        if task.is_usual:
            text = lines.text[lines.starts[begin] : lines.ends[end - 1]] + b"\n"
            records = known_columns(task.config, text)
        else:
            parsed = [
                parse_line(task.config, line, task.resolved.get) for line in lines.lines(begin, end)
            ]
            records = columns_of([record for record in parsed if isinstance(record, Record)])
        yield lines.numbers[begin:end].tolist(), records, photos.columns(begin, end)
        begin = end


class _Account:
    """What became of a shard's records, as it is written."""

    def __init__(self) -> None:
        self._written: list[int] = []
        self._without_row: list[int] = []
        self._missing: list[MissingEntry] = []
        self._ways: list[str | None] = []
        self._matches: list[str | None] = []
        self._edit_types: Counter[str | None] = Counter()
        self._input_sources: Counter[str | None] = Counter()
        self._marks: list[dict[str, Any]] = []

    def add(
        self, line: Line, record: Record, photo: Photo | None, example: Example, found: Found
    ) -> None:
        number = line.number or 0
        if example.missing:
            images = [
                {
                    "column": column,
                    "url": hole.url,
                    "reason": hole.reason.value,
                    "tries": hole.tries,
                }
                for column, hole in example.missing
            ]
            has_row = example.row is not None
            self._missing.append(MissingEntry(number, record.id, has_row, images))
        if example.row is None:
            self._without_row.append(number)
            return
        self._written.append(number)
        self._ways.append(example.way)
        self._matches.append(photo.match(record.input_url) if photo else None)
        self._edit_types[record.edit_type] += 1
        self._input_sources[example.row["input_source"]] += 1
        self._marks += [
            {"line": number, "url": image.url, "mark": mark}
            for image in found
            if isinstance(image, Fetched)
            for mark in _marks(image, photo)
        ]

    def add_linked(
        self,
        numbers: Sequence[int],
        records: pa.RecordBatch,
        photos: pa.RecordBatch,
        batch: pa.RecordBatch,
    ) -> None:
        """Add records that all have a row, in a batch, and of whose images none is fetched."""
        self._written += numbers
        self._ways += [None] * len(numbers)
        is_exact = pc.fill_null(pc.equal(records["input_url"], photos["url"]), False)
        matches = pc.if_else(is_exact, "exact", "name")
        is_known = pc.is_valid(photos["image_id"])
        self._matches += pc.if_else(is_known, matches, None).to_pylist()
        self._edit_types.update(_counted(records["edit_type"]))
        self._input_sources.update(_counted(batch["input_source"]))

    def ledger(self, task: ShardTask, rows: int, size_bytes: int, sha256: str) -> ShardLedger:
        return ShardLedger(
            shard=task.shard,
            digest=task.digest,
            rows=rows,
            size_bytes=size_bytes,
            sha256=sha256,
            written=stretches(self._written),
            missing_lines=stretches(self._without_row),
            missing=self._missing,
            ways=_runs(self._ways),
            matches=_runs(self._matches),
            edit_types=_listed(self._edit_types),
            input_sources=_listed(self._input_sources),
            marks=self._marks,
            writers={
                "pico_banana_400k": __version__,
                "pillow": PIL.__version__,  # decides what of odd images is corrupt
                "pyarrow": pa.__version__,
            },
        )


def _counted(values: pa.Array) -> dict[str | None, int]:
    return {counted["values"]: counted["counts"] for counted in values.value_counts().to_pylist()}


def _marks(image: Fetched, photo: Photo | None) -> list[str]:
    """What is unusual of an image that was kept."""
    marks = [image.mark]
    if photo is not None and image.way in SOURCES and SOURCES[image.way].is_original:
        marks.append(photo.mark_of_original(image.data))
    return [mark for mark in marks if mark is not None]


def _runs(values: Sequence[str | None]) -> list[list[Any]]:
    """Values in order, equal ones that follow each other as one: [value, how many]."""
    return [[value, len(list(run))] for value, run in groupby(values)]


def _listed(counts: Counter[str | None]) -> list[list[Any]]:
    """Counts as [name, count] pairs, by name; a name may be None, which no JSON key can be."""
    return [[name, counts[name]] for name in sorted(counts, key=lambda name: (name is None, name))]
