"""Write the dataset's card, README.md, from plans and ledgers alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from pico_banana.errors import WriteError
from pico_banana.schema import CONFIGS
from pico_banana.storage.lock import hold

from .card_body import card_body, pushed_body
from .finished import ConfigReport
from .ledger import ShardLedger
from .store import Store

__all__ = ["CARD_NAME", "card_of", "card_of_pushed", "data_files", "write_card"]

CARD_NAME = "README.md"


def write_card(store: Store, reports: Sequence[ConfigReport]) -> None:
    """Write the card of an output; equal plans and ledgers give equal bytes.

    One convert at a time: those of other configs end here too.
    """
    card = card_of(reports, "PATH_OR_REPO")
    if not store.is_local:
        store.write(CARD_NAME, card)
        return
    path = store.path("_ledger/.lock")
    try:
        with hold(path):
            store.sweep("")
            store.write(CARD_NAME, card)
    except OSError as error:
        raise WriteError(
            f"{path} cannot be written: {error}; mend it and run the same command again", path
        ) from None


def card_of(reports: Sequence[ConfigReport], place: str) -> bytes:
    """Return the card of what is finished.

    Args:
        reports: the configs, each with the shards that are there.
        place: what `load_dataset` is given in the card.
    """
    rows = sum(report.rows for report in reports)
    return _card(rows, _loadable(reports), card_body(reports, place))


def card_of_pushed(old: str, place: str) -> bytes:
    """Return the card of a repository that `push_to_hub` made, which has no ledgers.

    Args:
        old: its card, whose `configs` and `dataset_info` are kept.
        place: what `load_dataset` is given in the card.
    """
    from huggingface_hub import DatasetCard  # noqa: PLC0415  (slow to import)

    data: dict[str, Any] = DatasetCard(old).data.to_dict()  # type: ignore[no-untyped-call]
    infos = data.get("dataset_info") or []
    rows = {
        str(info["config_name"]): {
            str(split["name"]): int(split["num_examples"]) for split in info["splits"]
        }
        for info in ([infos] if isinstance(infos, dict) else infos)
        if info.get("config_name") in CONFIGS
    }
    kept = {name: value for name, value in data.items() if name in ("configs", "dataset_info")}
    total = sum(sum(splits.values()) for splits in rows.values())
    return _card(total, kept, pushed_body(rows, place))


def _card(rows: int, loadable: dict[str, Any], body: str) -> bytes:
    """The card, its front matter as `DatasetCardData` writes it, which takes long to import."""
    data = {
        "language": "en",
        "license": "cc-by-nc-nd-4.0",
        "size_categories": [_size_category(rows)],
        "source_datasets": ["extended|other-open-images"],
        "task_categories": ["image-to-image"],
        "pretty_name": "Pico-Banana-400K",
        "tags": ["image-editing", "instruction-based-editing", "pico-banana-400k", "open-images"],
        **loadable,
    }
    front = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n{body}".encode()


def _loadable(reports: Sequence[ConfigReport]) -> dict[str, Any]:
    """`configs` and `dataset_info`; a config or split without a row cannot be loaded.

    As `datasets` writes them (MetadataConfigs, DatasetInfosDict), which takes a second to import.
    """
    configs, infos = [], []
    loadable = [report for report in reports if report.splits]
    for report in sorted(loadable, key=lambda report: report.config):
        splits = report.splits
        files = [
            {"split": split, "path": data_files(report, split, made)}
            for split, made in splits.items()
        ]
        config: dict[str, Any] = {"config_name": report.config, "data_files": files}
        if report is loadable[0]:
            config["default"] = True
        configs.append(config)
        sizes = {split: sum(ledger.size_bytes for ledger in made) for split, made in splits.items()}
        rows = {split: sum(ledger.rows for ledger in made) for split, made in splits.items()}
        total = sum(sizes.values())
        infos.append(
            {
                "config_name": report.config,
                "splits": [
                    {"name": split, "num_bytes": sizes[split], "num_examples": rows[split]}
                    for split in splits
                ],
                "download_size": total,
                "dataset_size": total,
            }
        )
    if not loadable:
        return {}
    return {"configs": configs, "dataset_info": infos if len(infos) > 1 else infos[0]}


def data_files(report: ConfigReport, split: str, made: Sequence[ShardLedger]) -> str | list[str]:
    """Return the files of a split as one pattern, or one by one where some of them have no row.

    `datasets` 4.8.5 fails on a file without a row before one with rows: "IndexError: list index
    out of range" (huggingface/datasets#8397).
    """
    if all(ledger.rows for ledger in made):
        return f"{report.config}/{split}-*-of-{report.planned_files(split):05d}.parquet"
    return [f"{report.config}/{ledger.shard}.parquet" for ledger in made if ledger.rows]


def _size_category(rows: int) -> str:
    bounds = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K")]
    return next((name for bound, name in bounds if rows < bound), "100K<n<1M")
