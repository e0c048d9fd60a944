"""Compare fetching from a host that takes few connections at once with being told how many.

`python -m benchmarks.crowd` serves 1,000 images on loopback, 50 ms each, from a server that takes N
connections and resets the others. In turn it fetches with a budget of 64 and with one of N. It
prints rows of a Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.rows import HEAD, alternate, median_ratio, show
from pico_banana.fetching.fetcher import Fetcher
from pico_banana.fetching.inspect import Fetched
from pico_banana.fetching.sources import Sources
from pico_banana.settings import Settings, build_settings
from tests import fake_cdn
from tests.fake_cdn import FakeCDN

_IMAGES, _DELAY_S, _BUDGET = 1000, 0.05, 64


def _fetch(folder: Path, takes: int, budget: int) -> tuple[float, int]:
    """Fetch all images; return the seconds it took, and how many connections were reset."""
    with FakeCDN(("/cdn/images", folder)) as server:
        server.most_connections, server.delay_s = takes, _DELAY_S
        fetch = {"hosts": {"127.0.0.1": {"connections": budget}}}
        made = build_settings(Settings, {"cdn": f"{server.url}/cdn"}, {"fetch": fetch})
        refs = [Sources(made).edited(f"images/{number}.png") for number in range(_IMAGES)]
        with Fetcher(made) as fetcher:
            begun_s = time.monotonic()
            found = [one for (one,) in fetcher.in_order([[[ref] for ref in refs]])]
            taken_s = time.monotonic() - begun_s
        assert all(isinstance(one, Fetched) for one in found)
        return taken_s, sum(one.was_refused for one in server.connections)


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crowd", description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    sys.stdout.write(HEAD)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(_IMAGES):
            (folder / f"{number}.png").write_bytes(fake_cdn.PLACEHOLDER_PNG)
        for takes in (8, 32, 60):
            refused: list[int] = []
            found = alternate(
                {
                    "told": lambda takes=takes: _fetch(folder, takes, takes)[0],
                    "found": lambda takes=takes, refused=refused: _counted(folder, takes, refused),
                },
                runs,
            )
            show(
                f"{_IMAGES:,} images of {1000 * _DELAY_S:.0f} ms, a host that takes {takes} "
                f"connections of {_BUDGET}",
                f"{statistics.median(found['found']):.2f} s, {max(refused)} refused",
                f"a budget of {takes} {statistics.median(found['told']):.2f} s",
                f"{median_ratio(found['found'], found['told']):.2f} times",
                "at most 2",
            )


def _counted(folder: Path, takes: int, refused: list[int]) -> float:
    taken_s, count = _fetch(folder, takes, _BUDGET)
    refused.append(count)
    return taken_s


if __name__ == "__main__":
    main()
