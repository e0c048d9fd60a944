"""Keep account of what is planned, finished and missing: one file a plan, one a shard."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from pico_banana.errors import OutputError
from pico_banana.release.columns import Numbers

from .store import Store, dump_json, sha256_of

__all__ = [
    "LEDGER_FORMAT",
    "Ledger",
    "MissingEntry",
    "ShardLedger",
    "Stretches",
    "line_numbers",
    "stretches",
]

LEDGER_FORMAT = 2
_PLAN_KEYS = ("settings", "jsonl", "lines", "blank", "bad", "filtered", "left_out", "shards")

Stretches = list[list[int]]
"""Line numbers as [first, last] pairs, both inclusive, ascending: `[[1, 250], [252, 252]]`."""


def stretches(numbers: Sequence[int] | Numbers) -> Stretches:
    """Return ascending numbers as stretches."""
    if not len(numbers):
        return []
    given = np.asarray(numbers)
    breaks = np.flatnonzero(np.diff(given) != 1)
    firsts, lasts = given[[0, *(breaks + 1)]], given[[*breaks, -1]]
    return [list(pair) for pair in zip(firsts.tolist(), lasts.tolist(), strict=True)]


def line_numbers(found: Sequence[Sequence[int]]) -> Iterator[int]:
    """Yield the numbers of stretches."""
    for first, last in found:
        yield from range(first, last + 1)


@dataclass(frozen=True)
class MissingEntry:
    """A record with missing images: its line and id, whether it has a row, and the images.

    Each of `images` has the keys column, url, reason and tries.
    """

    line: int
    id: str
    row: bool
    images: list[dict[str, Any]]


@dataclass(frozen=True)
class ShardLedger:
    """What became of every record of one finished shard.

    Attributes:
        shard: the Parquet file's name without `.parquet`.
        digest: what the shard was made from, as its plan says.
        rows: rows of the Parquet file.
        size_bytes: its size.
        sha256: its hash.
        written: lines that have a row.
        missing_lines: lines that have none, for want of an image.
        missing: every record with a missing image, rows or not.
        ways: by which way the rows' input images came, in row order: [way, how many].
        matches: how their addresses were found in the image list, likewise: exact, name (spelled
            otherwise, but the same photo's file name) or None.
        edit_types: rows by edit type: [type, rows]; the type is None where there is none.
        input_sources: rows by `input_source`, likewise.
        marks: images that were kept though unusual: line, url, mark.
        writers: versions of what wrote it.
    """

    shard: str
    digest: str
    rows: int
    size_bytes: int
    sha256: str
    written: Stretches
    missing_lines: Stretches
    missing: list[MissingEntry] = field(default_factory=list)
    ways: list[list[Any]] = field(default_factory=list)
    matches: list[list[Any]] = field(default_factory=list)
    edit_types: list[list[Any]] = field(default_factory=list)
    input_sources: list[list[Any]] = field(default_factory=list)
    marks: list[dict[str, Any]] = field(default_factory=list)
    writers: dict[str, str] = field(default_factory=dict)
    format: int = LEDGER_FORMAT

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ShardLedger:
        """Return the ledger that a JSON value holds; `TypeError` or `KeyError` for none."""
        missing = [MissingEntry(**entry) for entry in value["missing"]]
        return cls(**{**value, "missing": missing})


class Ledger:
    """The ledgers of one config in an output.

    Args:
        store: the output.
        config: whose they are.
        published: the sha256 of what a repository holds of it, by path: such a Parquet file need
            not be in the output.

    Attributes:
        config: whose they are.
        unsettled: shards, of those read so far, whose ledger carries the next one besides.
    """

    def __init__(
        self, store: Store, config: str, published: Mapping[str, str] | None = None
    ) -> None:
        self._store, self.config = store, config
        self._published = published or {}
        self.unsettled: set[str] = set()

    @property
    def folder(self) -> str:
        """The folder that holds this config's plan and ledgers."""
        return f"_ledger/{self.config}"

    def parquet_name(self, shard: str) -> str:
        """Return the name of a shard's Parquet file in the output."""
        return f"{self.config}/{shard}.parquet"

    def ledger_name(self, shard: str) -> str:
        """Return the name of a shard's ledger in the output."""
        return f"{self.folder}/{shard}.json"

    def has_plan(self) -> bool:
        """Whether there is a plan, of whatever version."""
        return self._store.size_bytes(f"{self.folder}/plan.json") is not None

    def read_plan(self) -> dict[str, Any] | None:
        """Return plan.json's value, None where there is none; `OutputError` for a broken one."""
        plan = self._store.read_json(f"{self.folder}/plan.json")
        path = self._store.path(f"{self.folder}/plan.json")
        if plan is None:
            return None
        found = plan.get("format") if isinstance(plan, dict) else None
        if found != LEDGER_FORMAT:
            raise OutputError(
                f"{path} is of format {found}, but this version reads {LEDGER_FORMAT}; use the "
                "version that wrote it, or --overwrite",
                path,
            )
        lacks = [name for name in _PLAN_KEYS if name not in plan]
        if lacks:
            raise OutputError(f"{path} is no plan: it lacks {lacks[0]!r}; use --overwrite", path)
        return cast("dict[str, Any]", plan)

    def delete_all(self) -> None:
        """Delete the files that the plan names, and no others; a broken plan names none."""
        try:
            plan = self.read_plan()
        except OutputError:
            plan = None
        for shard in plan["shards"] if plan else []:
            self._store.delete(self.parquet_name(shard["name"]))
            self._store.delete(self.ledger_name(shard["name"]))

    def write_plan(self, plan: dict[str, Any]) -> None:
        """Write plan.json, and make the folders for what follows it."""
        for folder in (self.folder, self.config):
            self._store.make_folder(folder)
        self._store.write(f"{self.folder}/plan.json", dump_json(plan))

    def read_shard(self, shard: str) -> ShardLedger | None:
        """Return a shard's ledger, None where there is none; `OutputError` for a broken one.

        Of a ledger and the next one that it carries: the one that the Parquet file fits.
        """
        name = self.ledger_name(shard)
        value = self._store.read_json(name)
        if value is None:
            return None
        try:
            carried = value.pop("next", None)
            ledger = ShardLedger.from_json(value)
            following = None if carried is None else ShardLedger.from_json(carried)
        except (TypeError, KeyError, AttributeError):
            raise OutputError(
                f"{self._store.path(name)} is no ledger of this version; delete it to have the "
                "shard made again",
                self._store.path(name),
            ) from None
        if following is None:
            return ledger
        self.unsettled.add(shard)
        return self._fitting(ledger, following)

    def _fitting(self, ledger: ShardLedger, following: ShardLedger) -> ShardLedger:
        """The ledger that the Parquet file is of; of two that say the same of it, the newer."""
        if ledger.size_bytes != following.size_bytes:
            size = self._store.size_bytes(self.parquet_name(ledger.shard))
            is_newer = size == following.size_bytes
            return following if is_newer or self.is_published(following) else ledger
        if ledger.sha256 == following.sha256 or self.is_intact(following):
            return following
        if self.is_published(following):
            return following
        return ledger

    def is_intact(self, ledger: ShardLedger) -> bool:
        """Return whether a shard's Parquet file has the ledger's sha256; reads all of it.

        Raises:
            OutputError: the file is there, but cannot be read.
        """
        name = self.parquet_name(ledger.shard)
        try:
            with self._store.reading(name) as file:
                return sha256_of(file) == ledger.sha256
        except (FileNotFoundError, NotADirectoryError):
            return False

    def write_shard(self, ledger: ShardLedger) -> None:
        """Write a shard's ledger; its Parquet file must be there already."""
        self._store.write(self.ledger_name(ledger.shard), dump_json(dataclasses.asdict(ledger)))

    def write_next(self, ledger: ShardLedger, following: ShardLedger) -> None:
        """Write a shard's ledger once more, carrying the one that comes next.

        Written just before another Parquet file takes the place of the shard's: whichever of the
        two is there after a kill, its ledger is there too.
        """
        value = {**dataclasses.asdict(ledger), "next": dataclasses.asdict(following)}
        self._store.write(self.ledger_name(ledger.shard), dump_json(value))

    def finished(self, shard: str, digest: str) -> ShardLedger | None:
        """Return a shard's ledger if it is finished: ledger, digest and Parquet agree."""
        ledger = self.read_shard(shard)
        if ledger is None or ledger.digest != digest:
            return None
        return ledger if self.is_there(ledger) or self.is_published(ledger) else None

    def is_there(self, ledger: ShardLedger) -> bool:
        """Return whether the output holds a shard's Parquet file, of the ledger's size."""
        return self._store.size_bytes(self.parquet_name(ledger.shard)) == ledger.size_bytes

    def is_published(self, ledger: ShardLedger) -> bool:
        """Return whether the repository holds a shard's Parquet file, of the ledger's sha256."""
        return self._published.get(self.parquet_name(ledger.shard)) == ledger.sha256
