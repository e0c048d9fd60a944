"""Parquet files as they are written: pages, row groups, and reading them again."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pico_banana.convert.options import ROW_GROUP_BYTES
from pico_banana.convert.output.parquet_file import ParquetFile
from pico_banana.convert.output.store import Store
from pico_banana.schema import CONFIGS, arrow_schema, columns
from tests.page_index import pages


def image(data: bytes) -> dict[str, Any]:
    return {"bytes": data, "path": f"{hashlib.sha256(data).hexdigest()[:8]}.png"}


def make_row(config: str, number: int, rng: random.Random, size: int) -> dict[str, Any]:
    """A row with values of the right types; about one in ten is null."""
    turns = rng.randint(1, 4)
    values: dict[str, Any] = {
        "string": f"text {number}",
        "int32": number,
        "attribution": dict.fromkeys(("author", "author_url", "title", "license", "landing_url")),
    }
    row: dict[str, Any] = {}
    for column in columns(config):
        if column.kind == "image":
            row[column.name] = image(rng.randbytes(size)) if rng.random() > 0.1 else None
        elif column.kind == "images":
            row[column.name] = [
                image(rng.randbytes(size)) if rng.random() > 0.1 else None for _ in range(turns)
            ]
        elif column.kind.endswith("s"):
            row[column.name] = [values[column.kind[:-1]]] * turns
        else:
            row[column.name] = values[column.kind] if rng.random() > 0.1 else None
    return row


def write(folder: Path, config: str, rows: list[dict[str, Any]]) -> Path:
    store = Store(str(folder))
    with store.writing("x.parquet") as file, ParquetFile(file, config, {}) as parquet:
        for row in rows:
            parquet.add(row)
    path = folder / "x.parquet"
    assert file.size_bytes == path.stat().st_size
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    return path


@pytest.mark.parametrize("count", [0, 1, 2, 7])
@pytest.mark.parametrize("config", CONFIGS)
def test_rows_are_read_again_as_they_were_written(tmp_path: Path, config: str, count: int) -> None:
    for seed in range(10):
        rng = random.Random(seed)
        rows = [make_row(config, n, rng, 50) for n in range(count)]
        path = write(tmp_path, config, rows)
        assert pq.ParquetFile(path).read().to_pylist() == rows
        assert pq.ParquetFile(path).num_row_groups == min(count, 1)
        assert pq.read_schema(path).equals(arrow_schema(config))


@pytest.mark.parametrize("size", [50, 100_000])
@pytest.mark.parametrize("config", CONFIGS)
def test_the_offset_index_addresses_each_image(tmp_path: Path, config: str, size: int) -> None:
    rng = random.Random(size)
    rows = [make_row(config, n, rng, size) for n in range(12)]
    path = write(tmp_path, config, rows)
    found = {name: listed for _, name, listed in pages(path)}
    data = path.read_bytes()
    for column in columns(config):
        if column.kind not in ("image", "images"):
            continue
        element = ".list.element" if column.kind == "images" else ""
        listed = found[f"{column.name}{element}.bytes"]
        starts = [page.first_row for page in listed]
        for page, end in zip(listed, [*starts[1:], len(rows)], strict=True):
            held = data[page.offset : page.offset + page.size_bytes]
            values = [row[column.name] for row in rows[page.first_row : end]]
            # A row without an image may share the next one's page; two rows with one never do.
            assert sum(any(v) if isinstance(v, list) else bool(v) for v in values) <= 1
            for value in values:
                # Uncompressed: the published bytes stand in the page as they are.
                for one in value if isinstance(value, list) else [value]:
                    assert one is None or one["bytes"] in held


def test_row_groups_hold_at_most_64_mib_of_images(tmp_path: Path) -> None:
    rng = random.Random(5)
    rows = [make_row("multi_turn", n, rng, 9_000_000) for n in range(6)]
    made = pq.ParquetFile(write(tmp_path, "multi_turn", rows))
    assert made.num_row_groups > 1
    place = 0
    for group in range(made.num_row_groups):
        count = made.metadata.row_group(group).num_rows
        held = rows[place : place + count]
        place += count
        images = [row["input_image"] for row in held]
        images += [one for row in held for one in row["edited_images"]]
        assert sum(len(one["bytes"]) for one in images if one) <= ROW_GROUP_BYTES or count == 1
    assert place == len(rows)
