"""DuckDB and Polars read what is published, and the viewer can: columns without their images."""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from io import BytesIO
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

from pico_banana.convert.demo.sample_release import SampleRelease
from tests.fake_hub import FakeHub
from tests.hub_clients import client
from tests.publish_commands import REPO, convert

VIEWER_BYTES = 286 * 1024 * 1024  # the most that the Hub's viewer reads of a row group

# DuckDB's own hf:// needs an extension that it fetches from its makers.
DUCKDB = """
import datetime, json
import duckdb
from huggingface_hub import HfFileSystem

class Files(HfFileSystem):
    def modified(self, path):  # it asks for it, and the library has none
        return datetime.datetime(2026, 1, 1)

# No threads of its own: one that still holds a file when Python ends is a crash.
con = duckdb.connect(config={"threads": 1})
con.register_filesystem(Files(block_size=16384))
found = con.execute(
    "SELECT edit_type, count(*) FROM read_parquet('hf://datasets/me/pico/sft/*.parquet') GROUP BY 1"
).fetchall()
con.close()
print(json.dumps(dict(found)))
"""

POLARS = """
import json
import polars as pl
import pyarrow.dataset
from huggingface_hub import HfFileSystem

files = HfFileSystem(block_size=16384)
data = pyarrow.dataset.dataset("datasets/me/pico/sft", filesystem=files, format="parquet")
found = pl.scan_pyarrow_dataset(data).group_by("edit_type").len().collect()
print(json.dumps(dict(found.iter_rows())))
"""


def test_duckdb_and_polars_count_without_reading_images(own_release: SampleRelease, tmp_path: Path):
    picture = tmp_path / "noise.png"
    Image.frombytes("RGB", (640, 400), random.Random(1).randbytes(640 * 400 * 3)).save(picture)
    for path in own_release.cdn.glob("images/positive-edit/*.png"):
        path.unlink()
        os.link(picture, path)
    with FakeHub() as hub:
        words = ("--limit", "24")
        assert convert(own_release, hub, tmp_path / "out", *words, shard=12).code == 0
        files = {p: data for p, data in hub.repos[REPO].files.items() if p.endswith(".parquet")}
        for script in (DUCKDB, POLARS):
            before = len(hub.log)
            found = client(hub, tmp_path, script)
            read = 0
            for one in hub.log[before:]:
                if one.method == "GET" and one.path.endswith(".parquet"):
                    first, last = re.findall(r"\d+", one.headers["Range"])
                    read += int(last) - int(first) + 1
            stored = sum(map(len, files.values()))
            assert sum(found.values()) == 24
            assert 0 < read < stored / 10, (read, stored)
            types = Counter(
                name
                for data in files.values()
                for name in pq.read_table(BytesIO(data))["edit_type"].to_pylist()
            )
            assert found == types
    for data in files.values():
        metadata = pq.ParquetFile(BytesIO(data)).metadata
        for group in range(metadata.num_row_groups):
            assert metadata.row_group(group).total_byte_size < VIEWER_BYTES
