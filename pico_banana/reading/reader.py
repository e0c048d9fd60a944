"""Read a config's examples range by range: what the loader is made of.

A range is a stretch of bytes of the JSONL file. Ranges are known without reading the file, so
that many readers can begin at once; only with `offset` or `limit` it is read first, up to the
last record taken.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
from array import array
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pico_banana.errors import MissingImageError
from pico_banana.fetching.fetcher import Fetcher
from pico_banana.fetching.links import Links
from pico_banana.fetching.prepare import prepare_tars
from pico_banana.fetching.sources import ImageRef, Sources
from pico_banana.open_images.index import Index, Photo, index_path, mapped_index, photo_columns
from pico_banana.open_images.tars import Tars, check_open_images
from pico_banana.reading.estimate import Sample
from pico_banana.reading.examples import Example, borne, image_refs, linked, make_example
from pico_banana.reading.load_report import LoadReport
from pico_banana.release.columns import columns_of
from pico_banana.release.files import Release, state_of
from pico_banana.release.records import BadRecord, Record
from pico_banana.release.selection import Selection, Unmatched
from pico_banana.schema import category_of
from pico_banana.settings import Settings
from pico_banana.storage.cache import Progress
from pico_banana.storage.remote import RemoteFile

__all__ = ["RANGES", "Counted", "Range", "Reader"]

RANGES = 64
"""How many ranges a config is cut into: enough for many workers, few enough to be large."""

_index_paths: dict[str, str | None] = {}
"""Where the index of an image list lies: asked once in a process, not with every range."""

_CHUNK_RECORDS = 32
_NO_END = 2**63 - 1
_TOLD_BAD = 10
_log = logging.getLogger("pico_banana")


class Range(NamedTuple):
    """A stretch of bytes of a JSONL file: [start, end)."""

    start: int
    end: int


class Picked(NamedTuple):
    """A selected record, and what Open Images says of its input."""

    record: Record
    photo: Photo | None


class Counted(NamedTuple):
    """What a selection holds.

    Attributes:
        records: how many.
        images: how many images of each kind they need.
        sample: some of them, with their photos; the same at each call.
    """

    records: int
    images: Counter[str]
    sample: list[Picked]


class Reader:
    """Reads one config of a release as the settings say.

    It pickles; the index is opened, and connections are made, once in each process.

    Args:
        config: sft, preference or multi_turn.
        settings: what to read, and from where.
        local: read the JSONL from a copy in the cache folder, fetched once, instead of by ranges
            from where it lies.
        progress: gives a function that is told the bytes fetched of what it is named.

    Attributes:
        config, settings: as given.
    """

    def __init__(self, config: str, settings: Settings, *, local: bool, progress: Progress) -> None:
        self.config, self.settings, self._progress = config, settings, progress
        self._release = Release(settings)
        check_open_images(settings)
        self._file = self._release.jsonl(config)
        if local:
            with progress(f"fetching records of {config}") as told:
                self._file = RemoteFile(self._file.kept("jsonl", told), {})

    def ranges(self) -> list[Range]:
        """Return the ranges that hold the selected records, `RANGES` of them.

        With `offset` or `limit` they cover just the records that these take, so that the ranges'
        readers need not count, and each holds one at least.
        """
        edges = self._edges()
        last = len(edges) - 1
        if not last:
            return [Range(0, 0)]
        count = min(RANGES, last)
        cuts = [edges[last * n // count] for n in range(count + 1)]
        return [Range(*pair) for pair in itertools.pairwise(cuts)]

    def _edges(self) -> Sequence[int]:
        """Where a range may begin or end, ascending: after each byte, or before each record."""
        selection = Selection(self.settings)
        if self.settings.offset or self.settings.limit is not None:
            return self._taken(selection)
        size = self._file.size_bytes()
        return (0, _NO_END) if size is None else range(size + 1)

    def _taken(self, selection: Selection) -> array[int]:
        """The first byte of each record that offset and limit take, and an end behind the last."""
        found = array("q")
        for place, picked in enumerate(self._kept(Range(0, _NO_END), selection)):
            line = picked.record.line
            assert line is not None
            if selection.end is not None and place >= selection.end:
                break
            if place >= self.settings.offset:
                found.append(line.offset)
        # A line belongs to the range in which its first byte lies.
        found.append(found[-1] + 1 if found else 0)
        return found

    def count(self) -> Counted:
        """Return how many records and images the settings select; reads the whole JSONL file."""
        images: Counter[str] = Counter()
        sample = Sample[Picked]()
        for picked in itertools.chain.from_iterable(map(self._picked, self.ranges())):
            sample.add(picked)
            images["input"] += 1
            images["edited"] += len(picked.record.edited)
            images["rejected"] += len(picked.record.rejected)
        return Counted(images["input"], images, sample.taken)

    def unmatched(self) -> Unmatched:
        """Return which of `ids` and `exclude_ids` are no record's; reads until all are found."""
        unmatched = Unmatched(self.settings)
        if not unmatched:
            return unmatched
        index = self._index()
        found = self._release.records(self.config, 0, _NO_END, file=self._file)
        records = (record for record in found if not isinstance(record, BadRecord))
        for chunk in _chunks(records):
            unmatched.see(record.id for record in chunk)
            if index is not None:
                photos = index.photos(index.rows([record.input_url for record in chunk]))
                unmatched.see(map(_image_id, photos))
            if not unmatched:
                break
        return unmatched

    def examples(
        self, ranges: Sequence[Range], split: str, report: LoadReport, *, strict: bool
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield key and row of each example of a split, in the order of the file.

        Images of the records ahead are fetched meanwhile; none where `images` is url or none. The
        key is the offset of the record's line in bytes, and unique.

        Args:
            ranges: which ranges to read.
            split: train or validation.
            report: told what became of the images.
            strict: raise for an image that is missing for a transient reason, since what is made
                of the rows keeps the hole for ever.

        Raises:
            MissingImageError: see `strict`, and `on_missing="fail"`.
        """
        if self.settings.images != "bytes":
            for key, row in self._linked(ranges, split):
                report.examples += 1
                yield key, row
            return
        sources, selection = Sources(self.settings), Selection(self.settings)
        begun: deque[tuple[Picked, list[ImageRef]]] = deque()
        tars = Tars(self.settings)

        def batches() -> Iterator[list[list[ImageRef]]]:
            for reading in _merged(ranges):
                for chunk in _chunks(self._picked(reading)):
                    mine = [picked for picked in chunk if selection.split(picked.record) == split]
                    known = [picked.photo.image_id for picked in mine if picked.photo is not None]
                    for note in prepare_tars(tars, self.settings, known, self._progress):
                        _log.warning("%s", note)
                    refs = [image_refs(picked.record, picked.photo, sources) for picked in mine]
                    begun.extend(zip(mine, refs, strict=True))
                    yield refs

        for found in map(borne, _fetcher(self.settings).in_order(batches())):
            (record, photo), refs = begun.popleft()
            example = make_example(self.config, record, photo, found, self.settings.on_missing)
            report.note(refs, found)
            if strict:
                _refuse_transient(record, example)
            if example.row is not None:
                report.examples += 1
                assert record.line is not None
                yield record.line.offset, example.row

    def _linked(self, ranges: Sequence[Range], split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Key and row of each example, without any image's bytes."""
        links, selection = Links(self.settings), Selection(self.settings)
        picked = itertools.chain.from_iterable(map(self._picked, ranges))
        mine = (taken for taken in picked if selection.split(taken.record) == split)
        for chunk in _chunks(mine):
            records = columns_of([taken.record for taken in chunk])
            photos = photo_columns([taken.photo for taken in chunk])
            rows = linked(self.config, records, photos, links).to_pylist()
            for taken, row in zip(chunk, rows, strict=True):
                assert taken.record.line is not None
                yield taken.record.line.offset, row

    def _picked(self, reading: Range) -> Iterator[Picked]:
        """The selected records of a range; `ranges` has seen to offset and limit."""
        selection = Selection(self.settings)
        for picked in self._kept(reading, selection):
            if not selection.excludes(picked.record, _image_id(picked.photo)):
                yield picked

    def _kept(self, reading: Range, selection: Selection) -> Iterator[Picked]:
        """The records of a range that pass the filters, with their photos."""
        index = self._index()
        for chunk in _chunks(self._good(reading, selection)):
            photos: list[Photo | None] = [None] * len(chunk)
            if index is not None:
                photos = index.photos(index.rows([record.input_url for record in chunk]))
            for record, photo in zip(chunk, photos, strict=True):
                if selection.passes_ids(record, _image_id(photo)):
                    yield Picked(record, photo)

    def _index(self) -> Index | None:
        """The index, which is looked up, and fetched, with the first record of a process."""
        place = self._release.mirror(self.settings.open_images_metadata)
        key = state_of(place, place)
        if key not in _index_paths:
            with self._progress("fetching Open Images' image list (about 600 MB, once)") as told:
                options = self.settings.storage_options
                _index_paths[key] = index_path(place, options, told)
        path = _index_paths[key]
        return None if path is None else mapped_index(path)

    def _good(self, reading: Range, selection: Selection) -> Iterator[Record]:
        bad = 0
        for record in self._release.records(self.config, *reading, file=self._file):
            if isinstance(record, BadRecord):
                bad += 1
                if bad <= _TOLD_BAD:
                    where = f"{self._file.shown}, {record.line.where}"
                    _log.warning("left out: %s: %s: %s", where, record.reason.value, record.detail)
            elif selection.passes_types(record, category_of(record.edit_type)):
                yield record
        if bad > _TOLD_BAD:
            _log.warning("left out: %d bad lines more in this range", bad - _TOLD_BAD)


def _merged(ranges: Sequence[Range]) -> list[Range]:
    """Ranges that follow each other as one: each costs some round trips to begin with."""
    found: list[Range] = []
    for reading in ranges:
        if found and found[-1].end == reading.start:
            found[-1] = Range(found[-1].start, reading.end)
        else:
            found.append(reading)
    return found


def _image_id(photo: Photo | None) -> str | None:
    return photo.image_id if photo else None


def _chunks(found: Iterator[Any]) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for record in found:
        chunk.append(record)
        if len(chunk) == _CHUNK_RECORDS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _refuse_transient(record: Record, example: Example) -> None:
    for column, hole in example.missing:
        if hole.reason.is_transient:
            raise MissingImageError(
                f"{column} of {record.id} could not be fetched after {hole.tries} tries: "
                f"{hole.url} is {hole.reason.value} ({hole.detail}). Nothing is cached; load again "
                "later, or use `pico-banana convert`, which continues where it was",
                hole.url,
                hole.reason.value,
            )


@functools.cache
def _fetcher_of(settings: str) -> Fetcher:
    return Fetcher(Settings.model_validate(json.loads(settings)))


def _fetcher(settings: Settings) -> Fetcher:
    """One fetcher a process and way to fetch: one made per range would drain at its end.

    It stays for the life of the process, with the budgets that it keeps for its hosts; what is
    selected makes no other one.
    """
    selection = dict.fromkeys(("edit_types", "edit_categories", "ids", "exclude_ids", "limit"))
    usual = {"offset": 0, "validation": 0.0, "on_missing": "skip"}
    made = settings.model_copy(update={**selection, **usual})
    # Not by pydantic, whose JSON holds no name that is not UTF-8.
    return _fetcher_of(json.dumps(made.model_dump(mode="json")))
