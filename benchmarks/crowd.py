"""Compare fetching from a host that takes few connections at once with being told how many.

`python -m benchmarks.crowd` serves 1,000 images on loopback, 50 ms each, from a server that takes N
connections and resets the others. In turn it fetches with a budget of 64 and with one of N. It
prints rows of a Markdown table: seconds of both, their ratio, and the connections that were reset.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

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
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crowd", description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    sys.stdout.write(
        "| takes | told, s | not told, s | ratio | reset |\n| --- | --- | --- | --- | --- |\n"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(_IMAGES):
            (folder / f"{number}.png").write_bytes(fake_cdn.PLACEHOLDER_PNG)
        for takes in (8, 32, 60):
            pairs = [
                (_fetch(folder, takes, takes), _fetch(folder, takes, _BUDGET)) for _ in range(runs)
            ]
            ratio = statistics.median(found[0] / told[0] for told, found in pairs)
            told_s = statistics.median(told[0] for told, _ in pairs)
            found_s = statistics.median(found[0] for _, found in pairs)
            reset = max(found[1] for _, found in pairs)
            sys.stdout.write(
                f"| {takes} | {told_s:.1f} | {found_s:.1f} | {ratio:.2f} | {reset} |\n"
            )


if __name__ == "__main__":
    main()
