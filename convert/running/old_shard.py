"""Take from the old file of a shard that is made anew what it still gives."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from pico_banana.errors import OutputError, WorkError
from pico_banana.fetching.inspect import Fetched
from pico_banana.fetching.sources import ImageRef
from pico_banana.missing import Missing, MissingReason
from pico_banana.reading.examples import image_columns, images_of
from pico_banana.release.records import Record

from ..output.ledger import Ledger, line_numbers
from ..output.store import Store
from ..planning.refill import Refill

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["OldShard"]

Found = Fetched | Missing
Row = dict[str, Any]


class OldShard:
    """The images of a finished shard that is made anew: of a record at a time, in order.

    What is in the shard's Parquet file is taken from there, a row group at a time. What is missing
    for a reason that is not tried again stays missing. All else is to be fetched.

    Args:
        store: the output.
        config: whose shard it is.
        refill: what is tried again.
    """

    def __init__(self, store: Store, config: str, refill: Refill) -> None:
        self._store, self._config, self._refill = store, config, refill
        ledger = refill.ledger
        self._name = Ledger(store, config).parquet_name(ledger.shard)
        self._with_row = set(line_numbers(ledger.written))
        self._missing = {entry.line: entry.images for entry in ledger.missing}
        self._marks = {
            (mark["line"], mark["url"]): mark["mark"]
            for mark in ledger.marks
            if not mark["mark"].startswith("original_")  # held against the list again
        }
        self._rows = self._read()
        runs = (itertools.repeat(way, count) for way, count in ledger.ways)
        self._ways = itertools.chain.from_iterable(runs)

    def __enter__(self) -> Self:
        """Return itself; the old Parquet file is opened with its first row."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the old Parquet file."""
        self._rows.close()

    def to_fetch(self, line: int, record: Record, refs: Sequence[ImageRef]) -> list[ImageRef]:
        """Return those of a record's images that the shard does not give.

        Args:
            line: the record's line.
            record: the record.
            refs: its `image_refs`.
        """
        before = [*self._before(line, record, refs)]
        wanted = self._wanted(line, record, before)
        return [ref for ref, is_wanted in zip(refs, wanted, strict=True) if is_wanted]

    def found(
        self, line: int, record: Record, refs: Sequence[ImageRef], fetched: Sequence[Found]
    ) -> list[Found]:
        """Return what `make_example` takes, an entry for each of `refs`.

        Args:
            line: the record's line; records come in the shard's order, each once.
            record: the record.
            refs: its `image_refs`.
            fetched: what came of `to_fetch`.

        Raises:
            WorkError: the old Parquet file cannot be read, or does not fit its ledger.
        """
        kept = iter(self._next_row(line) if line in self._with_row else ())
        came = iter(fetched)
        found: list[Found] = []
        before = [*self._before(line, record, refs)]
        wanted = self._wanted(line, record, before)
        for ref, image, is_wanted in zip(refs, before, wanted, strict=True):
            if not is_wanted:
                stays = self._stays(ref, image) if image else None
                found.append(stays or self._had(line, ref, kept))
                continue
            result = next(came)
            if image and isinstance(result, Missing):
                result = result._replace(tries=image["tries"] + result.tries)
            found.append(result)
        return found

    def _before(
        self, line: int, record: Record, refs: Sequence[ImageRef]
    ) -> Iterator[dict[str, Any] | None]:
        """For each image, how the ledger lists it as missing, or None where it does not.

        The ledger lists them in the order of `refs`. An address may stand in a column twice; it
        is then in both places, or missing in both: within a shard an address is fetched once.
        """
        listed = deque(self._missing.get(line, ()))
        for column, ref in zip(image_columns(self._config, record), refs, strict=True):
            is_next = listed and (listed[0]["column"], listed[0]["url"]) == (column, ref.url)
            yield listed.popleft() if is_next else None

    def _wanted(
        self, line: int, record: Record, before: Sequence[dict[str, Any] | None]
    ) -> list[bool]:
        """Which images are fetched: those that are tried again, and what only a row would keep.

        An example that gets no row, whatever is found now, needs no others.
        """
        lasting = [
            image["column"] for image in before if image and not self._refill.is_tried(image)
        ]
        rejected = lasting.count("rejected_images")
        is_hopeless = len(lasting) > rejected or 0 < len(record.rejected) == rejected
        needs_others = line not in self._with_row and not is_hopeless
        return [self._refill.is_tried(image) if image else needs_others for image in before]

    @staticmethod
    def _stays(ref: ImageRef, image: dict[str, Any]) -> Missing:
        reason = MissingReason(image["reason"])
        return Missing(ref.url, reason, image["tries"], None, "found missing before")

    def _had(self, line: int, ref: ImageRef, kept: Iterator[Fetched]) -> Fetched:
        """An image of the row, or that of an example without one, which nobody will look at."""
        if line in self._with_row:
            return self._of_row(ref, kept)
        return Fetched(ref.url, ref.name, b"", {}, None, "", 0)

    def _of_row(self, ref: ImageRef, kept: Iterator[Fetched]) -> Fetched:
        image = next(kept, None)
        if image is None or image.url != ref.url:
            path = self._store.path(self._name)
            raise WorkError(
                f"{path} must hold {ref.url}, as its ledger says, but it does not; delete the "
                "file and run the same command again to have it made anew"
            )
        return image

    def _next_row(self, line: int) -> list[Fetched]:
        """The images of the next row, in the order of `image_refs`; nulls are left out."""
        row, way = next(self._rows, {}), next(self._ways, None)
        kept = []
        for column, image, measures in images_of(row, self._config) if row else ():
            if image is not None:
                url = measures["url"]
                mark = self._marks.get((line, url))
                came = (way or "") if column == "input_image" else "cdn"
                kept.append(Fetched(url, image["path"], image["bytes"], measures, mark, came, 0))
        return kept

    def _read(self) -> Generator[Row, None, None]:
        """The rows of the old Parquet file; at most a row group's bytes are in memory."""
        try:
            with self._store.reading(self._name) as file:
                parquet = pq.ParquetFile(file)
                for number in range(parquet.num_row_groups):
                    for row in parquet.iter_batches(1, [number]):
                        yield row.to_pylist()[0]
        except (OSError, OutputError) as error:
            raise WorkError(
                f"{self._store.path(self._name)} was whole when work on it began, but cannot be "
                f"read any more ({error}); finished shards are kept, run the same command again "
                "to continue"
            ) from error
