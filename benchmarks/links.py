"""Compare writing the link edition of all three configs with parsing their JSONL.

`python -m benchmarks.links` makes a list of 1,743,042 photos and 386,203 records, serves the
records on loopback, and lets the ways run in turn, each in a process of its own: the json module
over all lines, `pico-banana plan all` and `pico-banana convert all --images url`, records and index
in the cache. It
prints rows of a Markdown table; memory is that of all processes together, what is not shared, of a
run more.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
from pathlib import Path

from benchmarks.open_images_list import MULTI_TURN, PREFERENCE, RECORDS, make_list, make_release
from benchmarks.rows import HEAD, Peak, alternate, median_ratio, run, show

_PARSE = """
import json, sys
for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        print(sum(1 for line in file if json.loads(line)))
"""


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def compare(folder: Path, cdn: str, runs: int) -> None:
    """Let the ways run in turn, and print what they took."""
    env = {**os.environ, "PICO_BANANA_CACHE": str(folder / "cache")}
    metadata = folder / "list.csv"
    flags = ["--cdn", cdn, "--open-images-metadata", str(metadata), "--images", "url"]
    program = [sys.executable, "-m", "pico_banana.convert"]
    out = folder / "out"
    parse = [sys.executable, "-c", _PARSE]
    files = sorted((folder / "jsonl").iterdir())
    commands: dict[str, list[object]] = {
        "parse sft": [*parse, folder / "jsonl" / "sft.jsonl"],
        "plan sft": [*program, "plan", "sft", *flags],
        "parse": [*parse, *files],
        "plan": [*program, "plan", "all", *flags],
        "links": [*program, "convert", "all", *flags, "--output", out],
    }
    run(commands["plan"], env)  # fetches the records and makes the index, once

    def once(way: str) -> float:
        shutil.rmtree(out, ignore_errors=True)
        return run(commands[way], env)

    found = alternate({way: functools.partial(once, way) for way in commands}, runs)
    counts = [json.loads(path.read_bytes())["rows"] for path in out.glob("_ledger/*/train-*.json")]
    records = RECORDS + PREFERENCE + MULTI_TURN
    if sum(counts) != records:
        sys.exit(f"{records:,} rows must be written, but got {sum(counts):,}")
    size = sum(path.stat().st_size for path in out.glob("*/*.parquet"))
    peak = Peak()
    shutil.rmtree(out, ignore_errors=True)
    run(commands["links"], env, peak.watch)
    sys.stdout.write(HEAD)
    for what, way, parsed, bar in (
        (f"plan of {RECORDS:,} sft records", "plan sft", "parse sft", "at most 3"),
        (f"plan of all three configs, {records:,} records", "plan", "parse", "at most 3"),
        ("link edition of all three configs", "links", "parse", "at most 4, 1 GB"),
    ):
        ours = f"{statistics.median(found[way]):.2f} s"
        if way == "links":
            ours += f", {peak.together / 1e9:.2f} GB; {size / 1e6:,.0f} MB in {len(counts)} files"
        beside = f"json module {statistics.median(found[parsed]):.2f} s"
        show(what, ours, beside, f"{median_ratio(found[way], found[parsed]):.1f} times", bar)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.links", description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep list, records and index there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = given.folder or Path(temporary)
        if not (folder / "jsonl").exists():
            make_release(folder, make_list(folder / "list.csv"))
        handler = functools.partial(_QuietHandler, directory=str(folder))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            compare(folder, f"http://127.0.0.1:{server.server_port}", given.runs)
            server.shutdown()


if __name__ == "__main__":
    main()
