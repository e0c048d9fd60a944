"""Examples as `datasets` streams them: fetched ahead across ranges, continued after any example.

The library's own iterable calls a generator once for each range, where everything fetched ahead
would come to its end, and continues in the middle of a range by making its examples again. This
one reads all its ranges as one, and its state is a place in the JSONL file.
"""

from __future__ import annotations

import copy
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets.iterable_dataset import SkipExamplesIterable, _BaseExamplesIterable

from pico_banana.input_sources import banning
from pico_banana.reading.load_report import LoadReport
from pico_banana.reading.reader import Range, Reader
from pico_banana.schema import arrow_schema
from pico_banana.settings import Settings

__all__ = ["ExamplesStream", "warn_of_paces"]

_log = logging.getLogger("pico_banana")


def warn_of_paces(settings: Settings, processes: int) -> None:
    """Warn where several processes, which know nothing of each other, would ask who bans."""
    banned_by = banning(settings.sources, settings.mirrors)
    for title in banned_by if processes > 1 and settings.images == "bytes" else ():
        warnings.warn(
            f"{title} is asked from {processes} processes, each at the pace of "
            "configs/fetch.yaml: together they ask more than it takes, and it bans who asks "
            "much. Use one process, or `pico-banana convert`, whose workers share one pace",
            stacklevel=2,
        )


class ExamplesStream(_BaseExamplesIterable):  # type: ignore[misc]  # datasets has no types
    """The examples of some ranges of a config, in the order of these ranges.

    A range is a shard in the library's words. The base class is the library's private one: it has
    no public one that a state can be kept in. What is used of it is the same from 2.21 to 5.2.

    Args:
        reader: reads the ranges.
        split: train or validation.
        ranges: which ranges.
    """

    _sleep_on_threads_shutdown = False  # 5.x asks for it

    def __init__(self, reader: Reader, split: str, ranges: Sequence[Range]) -> None:
        super().__init__()
        self._reader, self._split, self._ranges = reader, split, list(ranges)

    def _init_state_dict(self) -> dict[str, Any]:
        # `offset`: where in the range the first line begins that was not handed out.
        self._state_dict: dict[str, Any] | None = {
            "shard_idx": 0,
            "offset": None,
            "type": type(self).__name__,
        }
        return self._state_dict

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield key and row of each example from where the state is; images as {bytes, path}."""
        state = self._state_dict
        place = state["shard_idx"] if state else 0
        ranges = self._ranges[place:]
        if ranges and state and state["offset"] is not None:
            ranges[0] = Range(state["offset"], ranges[0].end)
        self._warn()
        report = LoadReport()
        try:
            for key, row in self._reader.examples(ranges, self._split, report, strict=False):
                while not self._ranges[place].start <= key < self._ranges[place].end:
                    place += 1
                if state:
                    state["shard_idx"], state["offset"] = place, key + 1
                yield key, row
            if state:
                state["shard_idx"], state["offset"] = len(self._ranges), None
        finally:
            for fault in report.faults():
                _log.warning("%s", fault)
            if report.missing:
                _log.warning("missing images: %s", report.counted)

    @property
    def iter_arrow(self) -> Callable[[], Iterator[tuple[int, pa.Table]]]:
        """Return a function that yields key and table of one row of each example.

        With it the library keeps images as the bytes that they are where it writes Parquet, and
        need not guess types.
        """
        return self._iter_arrow

    def _iter_arrow(self) -> Iterator[tuple[int, pa.Table]]:
        schema = arrow_schema(self._reader.config, images=self._reader.settings.images)
        for key, row in self:
            yield key, pa.Table.from_pylist([row], schema=schema)

    def _of(self, ranges: Sequence[Range]) -> ExamplesStream:
        return ExamplesStream(self._reader, self._split, ranges)

    def shuffle_data_sources(self, generator: np.random.Generator) -> ExamplesStream:
        """Return the same examples, in another order of the ranges."""
        order = copy.deepcopy(generator).permutation(len(self._ranges))
        return self._of([self._ranges[place] for place in order.tolist()])

    def shard_data_sources(self, *given: Any, **named: Any) -> ExamplesStream:
        """Return the part of one reader of several.

        The arguments are those of the version's `split_shard_indices_by_worker`.
        """
        places = self.split_shard_indices_by_worker(*given, **named)
        return self._of([self._ranges[place] for place in places])

    def reshard_data_sources(self) -> ExamplesStream:
        """Return the same: there are ranges enough."""
        return self._of(self._ranges)

    @property
    def num_shards(self) -> int:
        """The number of ranges."""
        return len(self._ranges)

    n_shards = num_shards  # its name before 3.0

    def _warn(self) -> None:
        """Warn, in the first of torch's workers, of what several must not do."""
        torch = sys.modules.get("torch.utils.data")
        worker = torch.get_worker_info() if torch is not None else None
        if worker is not None and worker.id == 0:
            warn_of_paces(self._reader.settings, worker.num_workers)


class _Numbers(_BaseExamplesIterable):  # type: ignore[misc]
    """0, 1, 2 as tables of one row, to see whether the library skips right."""

    _sleep_on_threads_shutdown = False

    def __iter__(self) -> Iterator[tuple[int, dict[str, int]]]:
        yield from ((number, {"number": number}) for number in range(3))

    @property
    def iter_arrow(self) -> Callable[[], Iterator[tuple[int, pa.Table]]]:
        return lambda: ((number, pa.Table.from_pylist([row])) for number, row in self)


def _mend_skip() -> None:
    """Let `skip` go by examples in versions where it leaves out too little by tables, as 4.8.5."""
    by_tables = SkipExamplesIterable(_Numbers(), 2).iter_arrow
    if by_tables is None:  # before 4.0 it never does
        return
    if [table["number"].to_pylist() for _, table in by_tables()] != [[2]]:
        SkipExamplesIterable.iter_arrow = None


_mend_skip()
