"""Clients of the stand-in Hub: push to it, read from it, and look at what it holds."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.fake_hub import FakeHub
from tests.publish_commands import REPO

# The clients read HF_ENDPOINT when they are imported, hence processes of their own.
PUSH = """
import json, sys
import pico_banana_400k
from datasets import load_dataset

repo, configs, given, pushing = json.loads(sys.argv[1])
for config in configs:
    ds = load_dataset("pico_banana_400k", config, split="train", **given)
    ds.push_to_hub(repo, config, private=True, **pushing)
"""

READ = """
import hashlib, json, sys
import datasets

def undecoded(feature):
    if isinstance(feature, datasets.Image):
        return datasets.Image(decode=False)
    if isinstance(feature, list):  # before 4.0
        return [undecoded(one) for one in feature]
    if hasattr(feature, "feature"):
        return type(feature)(undecoded(feature.feature))
    return feature

def digested(value):
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, list):
        return [digested(one) for one in value]
    if isinstance(value, dict):
        return {name: digested(one) for name, one in value.items()}
    return value

repo, configs = json.loads(sys.argv[1])
found = {}
for config in configs:
    for way in ("map-style", "streaming"):
        ds = datasets.load_dataset(repo, config, split="train", streaming=way == "streaming")
        features = {name: undecoded(feature) for name, feature in ds.features.items()}
        ds = ds.cast(datasets.Features(features))
        found[f"{config} {way}"] = [digested(row) for row in ds]
ours = {"pico_banana_400k", "pico_banana"}
assert ours.isdisjoint(sys.modules), "the Hub's files must be read without this project"
print(json.dumps(found))
"""


def client(hub: FakeHub, folder: Path, script: str, arguments: Any = None) -> Any:
    """Run a script with the clients' libraries, in an empty folder; return what it printed."""
    (folder / "empty").mkdir(exist_ok=True)
    ended = subprocess.run(
        [sys.executable, "-c", script, json.dumps(arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **hub.env(folder / "huggingface")},
        cwd=folder / "empty",
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout or "null")


def held_rows(hub: FakeHub, config: str, split: str = "") -> list[dict[str, Any]]:
    """The rows of a config, or of a split of it, in the Parquet files that the Hub holds."""
    found: list[dict[str, Any]] = []
    for path, body in hub.repos[REPO].files.items():
        if path.startswith(f"{config}/{split}"):
            found += pq.read_table(BytesIO(body)).to_pylist()
    return found


def digested(value: Any) -> Any:
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, list):
        return [digested(one) for one in value]
    if isinstance(value, dict):
        return {name: digested(one) for name, one in value.items()}
    return value
