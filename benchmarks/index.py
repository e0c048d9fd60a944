"""Compare the index of the image list, and its coverage of sft, with a plain dictionary.

`python -m benchmarks.index` makes a list of 1,743,042 photos and 257,730 records, lets both ways
run in turn, each in a process of its own, and prints seconds, peak memory and their ratio; then
the private memory that a process takes to look all inputs up, as the loader does.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.open_images_list import RECORDS, ROWS, make_list, make_records
from benchmarks.rows import HEAD, show

_CHUNK = 32  # as the loader looks them up


def by_dictionary(folder: Path) -> dict[str, float]:
    """Map each address to its ImageID, as the release's README does, and look the inputs up."""
    with (folder / "list.csv").open(encoding="utf-8", newline="") as file:
        ids = {row["OriginalURL"]: row["ImageID"] for row in csv.DictReader(file)}
    with (folder / "jsonl" / "sft.jsonl").open(encoding="utf-8") as file:
        wanted = {json.loads(line)["open_image_input_url"] for line in file}
    return {"matched": sum(url in ids for url in wanted)}


def by_index(folder: Path) -> dict[str, float]:
    """Make the index and report its coverage, as `pico-banana index sft` does."""
    from rich.console import Console  # noqa: PLC0415  (imports count: each way pays for its own)

    from pico_banana.convert.options import ConvertSettings  # noqa: PLC0415
    from pico_banana.convert.planning.coverage import report_index  # noqa: PLC0415
    from pico_banana.convert.screen import Shown  # noqa: PLC0415
    from pico_banana.settings import build_settings  # noqa: PLC0415

    given = {"cdn": str(folder), "open_images_metadata": str(folder / "list.csv")}
    settings = build_settings(ConvertSettings, given)
    report = report_index(["sft"], settings, Shown(Console(stderr=True)))
    (coverage,) = report.coverages
    return {"matched": coverage.exact + coverage.by_name}


def look_up(folder: Path) -> dict[str, float]:
    """Look all inputs up in the index that is there; return the memory that takes, in bytes."""
    import psutil  # noqa: PLC0415

    from pico_banana.open_images.index import open_index  # noqa: PLC0415

    with (folder / "jsonl" / "sft.jsonl").open(encoding="utf-8") as file:
        wanted = [*{json.loads(line)["open_image_input_url"]: None for line in file}]
    process = psutil.Process()
    before = process.memory_full_info().uss
    index = open_index(str(folder / "list.csv"), {})
    assert index is not None
    matched = most = 0
    for number, at in enumerate(range(0, len(wanted), _CHUNK)):
        photos = index.photos(index.rows(wanted[at : at + _CHUNK]))
        matched += sum(photo is not None for photo in photos)
        if number % 64 == 0:
            most = max(most, process.memory_full_info().uss - before)
    return {"matched": matched, "private": most}


WAYS = {"dictionary": by_dictionary, "index": by_index}


def run(way: str, folder: Path) -> dict[str, float]:
    """Run one way in a new process; return its seconds, peak bytes and matches."""
    words = [sys.executable, "-m", "benchmarks.index", "--way", way, "--folder", str(folder)]
    cache = folder / "cache"
    if way in WAYS:
        shutil.rmtree(cache, ignore_errors=True)
    environment = {**os.environ, "PICO_BANANA_CACHE": str(cache)}
    made = subprocess.run(  # noqa: S603
        words, capture_output=True, check=True, text=True, env=environment
    )
    found: dict[str, float] = json.loads(made.stdout)
    return found


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.index", description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--records", type=int, default=RECORDS)
    parser.add_argument("--folder", type=Path, help="keep the list there")
    parser.add_argument("--way", choices=[*WAYS, "look_up"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        begun_s = time.perf_counter()
        found_here = (WAYS | {"look_up": look_up})[given.way](given.folder)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        seconds = time.perf_counter() - begun_s
        sys.stdout.write(json.dumps({"s": seconds, "peak": peak, **found_here}))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        jsonl = folder / "jsonl" / "sft.jsonl"
        if not jsonl.exists():
            jsonl.parent.mkdir(exist_ok=True)
            make_records(jsonl, make_list(folder / "list.csv", given.rows), given.records)
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(given.runs):
            for way in WAYS:
                found[way].append(run(way, folder))
        looked_up = run("look_up", folder)
    if len({one["matched"] for runs in [*found.values(), [looked_up]] for one in runs}) != 1:
        sys.exit(f"all runs must match the same inputs, but got {found}")
    for way, runs in found.items():
        seconds = statistics.median(one["s"] for one in runs)
        peak = max(one["peak"] for one in runs)
        sys.stdout.write(f"{way:<12} {seconds:6.2f} s   peak {peak / 1e9:.2f} GB\n")
    ratios = [a["s"] / b["s"] for a, b in zip(*found.values(), strict=True)]
    sys.stdout.write(
        f"index is {statistics.median(ratios):.1f} times as fast (median of {given.runs})\n"
        f"look-ups of {looked_up['matched']:,} photos: at most {looked_up['private'] / 1e6:.1f} MB "
        "of private memory\n"
    )
    ours, peer = found["index"], found["dictionary"]
    sys.stdout.write(HEAD)
    show(
        f"index of {given.rows:,} photos, coverage of {given.records:,} records",
        f"{statistics.median(one['s'] for one in ours):.2f} s, "
        f"{max(one['peak'] for one in ours) / 1e9:.2f} GB",
        f"csv.DictReader {statistics.median(one['s'] for one in peer):.2f} s",
        f"{statistics.median(ratios):.1f} times as fast",
        "at least 4, 1 GB",
    )


if __name__ == "__main__":
    main()
