"""Compare the index of the image list, and a look-up of all sft inputs, with a plain dictionary.

`python -m benchmarks.index` makes a list of 1,743,042 photos and 257,730 records, lets both ways
run in turn, each in a process of its own, and prints seconds, peak memory and their ratio.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.open_images_list import RECORDS, ROWS, make_list, make_records

_CHUNK = 4096


def by_dictionary(folder: Path) -> int:
    """Map each address to its ImageID, as the release's README does; return the matched inputs."""
    with (folder / "list.csv").open(encoding="utf-8", newline="") as file:
        ids = {row["OriginalURL"]: row["ImageID"] for row in csv.DictReader(file)}
    with (folder / "sft.jsonl").open(encoding="utf-8") as file:
        wanted = {json.loads(line)["open_image_input_url"] for line in file}
    return sum(url in ids for url in wanted)


def by_index(folder: Path) -> int:
    """Make the index and look the inputs up; return the matched ones."""
    import orjson  # noqa: PLC0415  (imports count: each way pays for its own)

    from pico_banana.image_list import write_index  # noqa: PLC0415
    from pico_banana.open_images import Index  # noqa: PLC0415

    path = folder / "list.arrow"
    path.unlink(missing_ok=True)
    write_index(str(folder / "list.csv"), "list.csv", str(path))
    with (folder / "sft.jsonl").open("rb") as file:
        wanted = [*{orjson.loads(line)["open_image_input_url"]: None for line in file}]
    index = Index(str(path))
    chunks = (wanted[at : at + _CHUNK] for at in range(0, len(wanted), _CHUNK))
    return sum(row is not None for chunk in chunks for row in index.rows(chunk))


WAYS = {"dictionary": by_dictionary, "index": by_index}


def run(way: str, folder: Path) -> dict[str, float]:
    """Run one way in a new process; return its seconds, peak bytes and matches."""
    words = [sys.executable, "-m", "benchmarks.index", "--way", way, "--folder", str(folder)]
    made = subprocess.run(words, capture_output=True, check=True, text=True)  # noqa: S603
    found: dict[str, float] = json.loads(made.stdout)
    return found


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.index", description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--records", type=int, default=RECORDS)
    parser.add_argument("--folder", type=Path, help="keep the list there")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        begun_s = time.perf_counter()
        matched = WAYS[given.way](given.folder)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        seconds = time.perf_counter() - begun_s
        sys.stdout.write(json.dumps({"s": seconds, "peak": peak, "matched": matched}))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        if not (folder / "sft.jsonl").exists():
            make_records(
                folder / "sft.jsonl", make_list(folder / "list.csv", given.rows), given.records
            )
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(given.runs):
            for way in WAYS:
                found[way].append(run(way, folder))
    if len({one["matched"] for runs in found.values() for one in runs}) != 1:
        sys.exit(f"all runs must match the same inputs, but got {found}")
    for way, runs in found.items():
        seconds = statistics.median(one["s"] for one in runs)
        peak = max(one["peak"] for one in runs)
        sys.stdout.write(f"{way:<12} {seconds:6.2f} s   peak {peak / 1e9:.2f} GB\n")
    ratios = [a["s"] / b["s"] for a, b in zip(*found.values(), strict=True)]
    sys.stdout.write(
        f"index is {statistics.median(ratios):.1f} times as fast (median of {given.runs})\n"
    )


if __name__ == "__main__":
    main()
