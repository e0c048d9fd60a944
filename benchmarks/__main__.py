"""Run all benchmarks, and keep their table in benchmarks/README.md: `make bench`."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from benchmarks.rows import HEAD

_ALL = ("convert", "crowd", "index", "links", "streaming", "tars")
_README = Path(__file__).parent / "README.md"
_KEPT = re.compile(r"(<!-- table -->\n).*(<!-- end -->\n)", re.DOTALL)


def machine() -> str:
    """Say what the figures are of."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    packages = ", ".join(f"{name} {version(name)}" for name in ("pyarrow", "aiohttp", "datasets"))
    return (
        f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, "
        f"{memory / 1e9:.0f} GB, {platform.system()}, Python {platform.python_version()}, "
        f"{packages}; {dt.datetime.now(dt.timezone.utc):%Y-%m-%d}."
    )


def rows_of(name: str, runs: int) -> list[str]:
    """Run one benchmark, show what it prints, and return its rows."""
    words = [sys.executable, "-m", f"benchmarks.{name}", "--runs", str(runs)]
    found = []
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            if line.startswith("| ") and line not in HEAD:
                found.append(line)
    if process.returncode:
        sys.exit(f"benchmarks.{name} ended with code {process.returncode}")
    return found


def main() -> None:
    """Run them, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    rows = [row for name in _ALL for row in rows_of(name, given.runs)]
    said = f"{machine()} Medians of {given.runs} alternating runs.\n\n"
    text = _README.read_text(encoding="utf-8")
    table = said + HEAD + "".join(rows)
    _README.write_text(_KEPT.sub(lambda kept: kept[1] + table + kept[2], text), encoding="utf-8")


if __name__ == "__main__":
    main()
