"""Carry out shards: fetch their images, make examples, write one Parquet file, then its ledger."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import pyarrow as pa

from pico_banana import __version__
from pico_banana.errors import WorkError
from pico_banana.examples import Example, image_refs, make_example
from pico_banana.fetch import Fetched, Fetcher
from pico_banana.missing import Missing
from pico_banana.records import Line, Record, parse_line
from pico_banana.sources import ImageRef, Sources

from .ledger import Ledger, MissingEntry, ShardLedger, stretches
from .options import ConvertSettings
from .parquet import ParquetFile
from .plan import ShardDigest, ShardTask
from .store import Store

__all__ = ["ShardWriter"]

Found = list[Fetched | Missing]


class ShardWriter:
    """Carries out shards one after the other, fetching the next one's images meanwhile.

    Args:
        settings: as planned.
        store: the output.
        fetcher: fetches the images.
        seen: told after each record whether it has a row, and whether an image is missing.
    """

    def __init__(
        self,
        settings: ConvertSettings,
        store: Store,
        fetcher: Fetcher,
        seen: Callable[[bool, bool], None],
    ) -> None:
        self._settings, self._store, self._fetcher, self._seen = settings, store, fetcher, seen
        self._sources = Sources(settings)

    def carry_out(self, tasks: Iterable[ShardTask | None]) -> Iterator[ShardLedger]:
        """Yield the ledger of each task's shard when its Parquet file and ledger are written.

        A None among the tasks means "none yet, finish what is there first".

        Raises:
            WriteError: the output cannot be written.
            MissingImageError: an image is missing and must not be.
        """
        begun: deque[tuple[ShardTask, list[Record]]] = deque()

        def batches() -> Iterator[Sequence[Sequence[ImageRef]] | None]:
            for task in tasks:
                if task is None:
                    yield None
                    continue
                records = self._records(task)
                begun.append((task, records))
                pairs = zip(records, task.photos, strict=True)
                # A shard that exclude_ids emptied still has its turn.
                yield [image_refs(*pair, self._sources) for pair in pairs] or [[]]

        results = self._fetcher.in_order(batches())
        for first in results:
            task, records = begun.popleft()
            yield self._write(task, records, first, results)

    def _records(self, task: ShardTask) -> list[Record]:
        """Parse a task's lines again; they must be what the plan saw."""
        digest = ShardDigest(self._settings, task.config)
        records = []
        for line, photo in zip(task.lines, task.photos, strict=True):
            record = parse_line(task.config, line, task.resolved.get)
            if isinstance(record, Record):
                digest.add(line, record, photo)
                records.append(record)
        if digest.hexdigest() != task.digest:
            raise WorkError(
                f"the records of {task.config}/{task.shard} are not those that were planned: the "
                "JSONL file or the index has changed underneath; run the same command again"
            )
        return records

    def _write(
        self, task: ShardTask, records: list[Record], first: Found, results: Iterator[Found]
    ) -> ShardLedger:
        account = _Account()
        ledger = Ledger(self._store, task.config)
        with (
            self._store.writing(ledger.parquet_name(task.shard)) as file,
            ParquetFile(file, task.config, self._settings.images) as parquet,
        ):
            for place, record in enumerate(records):
                found = next(results) if place else first
                example = make_example(
                    task.config, record, task.photos[place], found, self._settings.on_missing
                )
                if example.row is not None:
                    parquet.add(example.row)
                account.add(task.lines[place], record, example, found)
                self._seen(example.row is not None, bool(example.missing))
        made = account.ledger(task, parquet.rows, file.size_bytes, file.sha256)
        ledger.write_shard(made)
        return made


class _Account:
    """What became of a shard's records, as it is written."""

    def __init__(self) -> None:
        self._written: list[int] = []
        self._without_row: list[int] = []
        self._missing: list[MissingEntry] = []
        self._ways: list[str | None] = []
        self._edit_types: Counter[str | None] = Counter()
        self._input_sources: Counter[str | None] = Counter()
        self._marks: list[dict[str, Any]] = []

    def add(self, line: Line, record: Record, example: Example, found: Found) -> None:
        number = line.number or 0
        if example.missing:
            images = [
                {"column": column, "url": one.url, "reason": one.reason.value, "tries": one.tries}
                for column, one in example.missing
            ]
            has_row = example.row is not None
            self._missing.append(MissingEntry(number, record.id, has_row, images))
        if example.row is None:
            self._without_row.append(number)
            return
        self._written.append(number)
        self._ways.append(example.way)
        self._edit_types[record.edit_type] += 1
        self._input_sources[example.row["input_source"]] += 1
        self._marks += [
            {"line": number, "url": one.url, "mark": one.facts.mark}
            for one in found
            if isinstance(one, Fetched) and one.facts.mark
        ]

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
            ways=[[way, len(list(run))] for way, run in groupby(self._ways)],
            edit_types=_listed(self._edit_types),
            input_sources=_listed(self._input_sources),
            marks=self._marks,
            writers={"pico_banana_400k": __version__, "pyarrow": pa.__version__},
        )


def _listed(counts: Counter[str | None]) -> list[list[Any]]:
    """Counts as [name, count] pairs, by name; a name may be None, which no JSON key can be."""
    return [[name, counts[name]] for name in sorted(counts, key=lambda name: (name is None, name))]
