"""Put the ledgers of an output, or of a repository, together: a report for each config."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pico_banana.schema import CONFIGS

from .ledger import Ledger, ShardLedger
from .store import Store

__all__ = ["ConfigReport", "read_reports"]


@dataclass(frozen=True)
class ConfigReport:
    """One config: its plan, and the ledgers of its finished shards, by name, in the plan's order.

    Attributes:
        config: sft, preference or multi_turn.
        plan: plan.json's value.
        by_name: the ledgers.
    """

    config: str
    plan: dict[str, Any]
    by_name: Mapping[str, ShardLedger]

    @classmethod
    def of(
        cls, config: str, plan: dict[str, Any], found: Iterable[ShardLedger | None]
    ) -> ConfigReport:
        """Return the report of a plan and the ledgers of its shards, None where one is not."""
        return cls(config, plan, {ledger.shard: ledger for ledger in found if ledger is not None})

    @property
    def ledgers(self) -> tuple[ShardLedger, ...]:
        """The ledgers, in the plan's order."""
        return tuple(self.by_name.values())

    @property
    def planned(self) -> int:
        """How many shards there will be."""
        return len(self.plan["shards"])

    @property
    def is_whole(self) -> bool:
        """Whether every shard is finished."""
        return len(self.by_name) == self.planned

    @property
    def images(self) -> str:
        """What the image columns hold: bytes, url or none."""
        return str(self.plan["settings"]["images"])

    @cached_property
    def splits(self) -> dict[str, list[ShardLedger]]:
        """The ledgers by split, splits without a row left out."""
        found: dict[str, list[ShardLedger]] = {}
        for shard in self.plan["shards"]:
            if shard["name"] in self.by_name:
                found.setdefault(shard["split"], []).append(self.by_name[shard["name"]])
        return {split: made for split, made in found.items() if sum(ledger.rows for ledger in made)}

    def planned_files(self, split: str) -> int:
        """Return how many files a split will have."""
        return sum(shard["split"] == split for shard in self.plan["shards"])

    @property
    def rows(self) -> int:
        """The number of examples."""
        return sum(ledger.rows for ledger in self.ledgers)

    def missing_images(self) -> Counter[str]:
        """Missing images by reason."""
        return Counter(
            image["reason"]
            for ledger in self.ledgers
            for entry in ledger.missing
            for image in entry.images
        )

    def counted(self, name: str) -> Counter[str | None]:
        """Rows by `edit_types` or `input_sources`."""
        total: Counter[str | None] = Counter()
        for ledger in self.ledgers:
            total.update({key: count for key, count in getattr(ledger, name)})  # noqa: C416
        return total


def read_reports(
    store: Store, published: Mapping[str, str] | None = None
) -> tuple[list[ConfigReport], list[str]]:
    """Return the finished configs of an output, and the names of shards that are not finished.

    Args:
        store: the output.
        published: the sha256 of what a repository holds of it, by path.
    """
    reports, unfinished = [], []
    for config in CONFIGS:
        ledger = Ledger(store, config, published)
        plan = ledger.read_plan()
        if plan is None:
            continue
        made = [ledger.finished(shard["name"], shard["digest"]) for shard in plan["shards"]]
        names = [shard["name"] for shard in plan["shards"]]
        unfinished += [
            f"{config}/{n}" for n, finished in zip(names, made, strict=True) if finished is None
        ]
        if None not in made:
            reports.append(ConfigReport.of(config, plan, made))
    return reports, unfinished
