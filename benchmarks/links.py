"""Compare writing the link edition of all three configs with parsing their JSONL.

`python -m benchmarks.links` makes a list of 1,743,042 photos and 386,203 records, serves the
records on loopback, and lets the ways run in turn, each in a process of its own: the json module
over all lines, `pico-banana plan all` and `pico-banana convert all --images url`, records and index
in the cache. It
prints seconds and their ratio, then, of a run more, the peak memory of all processes together (what
is not shared) and of the largest one.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.server
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks.open_images_list import MULTI_TURN, PREFERENCE, RECORDS, make_list, make_release

_EVERY_S = 0.02
_PARSE = """
import json, sys
for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        print(sum(1 for line in file if json.loads(line)))
"""
Watch = Callable[[psutil.Process], None]


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Peak:
    """The most memory that a process and its children had, of what was seen of them."""

    def __init__(self) -> None:
        self.together = self.largest = 0

    def watch(self, process: psutil.Process) -> None:
        """Look once."""
        sizes = []
        for one in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):  # just ended
                sizes.append(one.memory_full_info().uss)
        self.together = max(self.together, sum(sizes))
        self.largest = max([self.largest, *sizes])


def run(words: list[str], env: dict[str, str], watch: Watch | None = None) -> float:
    """Run a command to its end; return its seconds."""
    begun_s = time.perf_counter()
    with subprocess.Popen(  # noqa: S603
        words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        while watch is not None and process.poll() is None:
            try:
                watch(psutil.Process(process.pid))
            except psutil.NoSuchProcess:
                break
            time.sleep(_EVERY_S)
        _, said = process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(words)} ended with code {process.returncode}: {said}")
    return time.perf_counter() - begun_s


def compare(folder: Path, cdn: str, runs: int) -> None:
    """Let the ways run in turn, and print what they took."""
    env = {**os.environ, "PICO_BANANA_CACHE": str(folder / "cache")}
    metadata = folder / "list.csv"
    flags = ["--cdn", cdn, "--open-images-metadata", str(metadata), "--images", "url"]
    program = [sys.executable, "-m", "pico_banana.convert"]
    out = folder / "out"
    parse = [sys.executable, "-c", _PARSE, *map(str, sorted((folder / "jsonl").iterdir()))]
    plan = [*program, "plan", "all", *flags]
    write = [*program, "convert", "all", *flags, "--output", str(out)]
    run(plan, env)  # fetches the records and makes the index, once
    ways = {"parse": parse, "plan": plan, "links": write}
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(runs):
        for way, words in ways.items():
            shutil.rmtree(out, ignore_errors=True)
            found[way].append(run(words, env))
    counts = [json.loads(path.read_bytes())["rows"] for path in out.glob("_ledger/*/train-*.json")]
    records = RECORDS + PREFERENCE + MULTI_TURN
    if sum(counts) != records:
        sys.exit(f"{records:,} rows must be written, but got {sum(counts):,}")
    size = sum(path.stat().st_size for path in out.glob("*/*.parquet"))
    for way, seconds in found.items():
        ratios = [own / base for own, base in zip(seconds, found["parse"], strict=True)]
        sys.stdout.write(
            f"{way:<6} {statistics.median(seconds):6.2f} s, "
            f"{statistics.median(ratios):5.1f} times parsing\n"
        )
    peak = Peak()
    shutil.rmtree(out, ignore_errors=True)
    run(write, env, peak.watch)
    together, largest = peak.together / 1e9, peak.largest / 1e9
    sys.stdout.write(
        f"links: {len(counts)} files, {size / 1e6:,.0f} MB, {size / records:,.0f} bytes a row; "
        f"peak memory {together:.2f} GB together, {largest:.2f} GB the largest\n"
    )


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
