"""Publish to the stand-in Hub as a user would, and look at what each commit leaves there."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from pico_banana.convert.demo.sample_release import SampleRelease
from tests.commands import Ended, pico_banana, release_flags
from tests.fake_hub import TOKEN, Commit, FakeHub

REPO = "me/pico"


def convert(
    release: SampleRelease,
    hub: FakeHub,
    out: Path,
    *words: Any,
    configs: tuple[str, ...] = ("sft",),
    shard: int = 2,
    token: str = TOKEN,
) -> Ended:
    """Run `convert … --publish` to its end; the token must be shown nowhere."""
    ended = pico_banana(
        *words_of(release, out, *words, configs=configs, shard=shard), env=env_of(hub, out, token)
    )
    assert token not in ended.out + ended.err
    return ended


def env_of(hub: FakeHub, out: Path, token: str = TOKEN) -> dict[str, str]:
    return hub.env(out.parent / "huggingface", token)


def words_of(
    release: SampleRelease,
    out: Path,
    *words: Any,
    configs: tuple[str, ...] = ("sft",),
    shard: int = 2,
) -> list[Any]:
    return [
        *("convert", *configs, *release_flags(release), "--output", out),
        *("--records-per-shard", str(shard), "--publish", REPO, *words),
    ]


def parquet_of(commit: Commit) -> dict[str, str]:
    """The sha256 of each Parquet file that a commit leaves, by path."""
    return {
        path: hashlib.sha256(data).hexdigest()
        for path, data in commit.files.items()
        if path.endswith(".parquet")
    }


def committed(hub: FakeHub) -> Counter[str]:
    """How often each Parquet file was committed."""
    commits = hub.repos[REPO].commits
    return Counter(path for one in commits for path in one.added if path.endswith(".parquet"))


def check_loadable(commit: Commit) -> int:
    """A commit's card must agree with its files, and each file with its ledger; return its rows."""
    card = yaml.safe_load(commit.files["README.md"].decode().split("---\n")[1])
    infos = card.get("dataset_info", [])
    infos = {one["config_name"]: one for one in ([infos] if isinstance(infos, dict) else infos)}
    total = 0
    for config in card.get("configs", ()):
        stated = {
            one["name"]: one["num_examples"] for one in infos[config["config_name"]]["splits"]
        }
        for one in config["data_files"]:
            patterns = [one["path"]] if isinstance(one["path"], str) else one["path"]
            paths = [
                path
                for path in commit.files
                if any(fnmatch.fnmatch(path, pattern) for pattern in patterns)
            ]
            rows = 0
            for path in paths:
                data = commit.files[path]
                ledger = json.loads(commit.files[f"_ledger/{path.replace('.parquet', '.json')}"])
                assert ledger["sha256"] == hashlib.sha256(data).hexdigest()
                rows += pq.ParquetFile(BytesIO(data)).metadata.num_rows
            assert rows == stated[one["split"]]
            total += rows
    return total


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[list[int]]:
    """Give the largest sum of Parquet bytes seen in a folder, half-written ones too, in a list.

    What two looks after each other find was there together in between, at least so large.
    """
    largest, is_over = [0], threading.Event()

    def look() -> dict[int, int]:
        found = {}
        with contextlib.suppress(OSError):
            for entry in os.scandir(folder):
                with contextlib.suppress(OSError):
                    if ".parquet" in entry.name:
                        found[entry.inode()] = entry.stat().st_size
        return found

    def watch() -> None:
        before = look()
        while not is_over.wait(0.002):
            now = look()
            both = (size for inode, size in before.items() if now.get(inode, -1) >= size)
            largest[0] = max(largest[0], sum(both))
            before = now

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield largest
    finally:
        is_over.set()
        thread.join()
