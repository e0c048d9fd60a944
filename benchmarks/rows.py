"""Rows of a Markdown table of figures: ours beside a peer's, of alternating runs."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

__all__ = ["HEAD", "Peak", "Watch", "alternate", "median_ratio", "run", "serving", "show"]

Watch = Callable[[psutil.Process], None]

HEAD = "| what | ours | beside | ratio | bar |\n| --- | --- | --- | --- | --- |\n"
_EVERY_S = 0.02


def show(what: str, ours: str, beside: str, ratio: str, bar: str) -> None:
    """Print a row."""
    sys.stdout.write(f"| {what} | {ours} | {beside} | {ratio} | {bar} |\n")
    sys.stdout.flush()


class Peak:
    """The most memory that a process and its children had, of what was seen of them.

    Memory that is not shared: a child that was forked shares what it has not changed.
    """

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


def run(words: Sequence[object], env: Mapping[str, str], watch: Watch | None = None) -> float:
    """Run a command to its end; return its seconds."""
    begun_s = time.perf_counter()
    with subprocess.Popen(  # noqa: S603
        [os.fspath(word) if isinstance(word, Path) else str(word) for word in words],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while watch is not None and process.poll() is None:
            try:
                watch(psutil.Process(process.pid))
            except psutil.NoSuchProcess:
                break
            time.sleep(_EVERY_S)
        _, said = process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(map(str, words))} ended with code {process.returncode}: {said}")
    return time.perf_counter() - begun_s


def alternate(ways: Mapping[str, Callable[[], float]], runs: int) -> dict[str, list[float]]:
    """Let the ways take turns, each with nothing left to be written to the disk; return seconds."""
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(runs):
        for way, once in ways.items():
            os.sync()
            found[way].append(once())
    return found


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median of the ratios of runs that followed each other."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


@contextlib.contextmanager
def serving(
    *mounts: tuple[str, Path], delay_s: float = 0, certificate: Path | None = None
) -> Iterator[str]:
    """Serve folders on loopback from a process of its own; give the URL."""
    words = [sys.executable, "-m", "tests.fake_cdn", "--delay-ms", str(1000 * delay_s)]
    for path, folder in mounts:
        words += ["--mount", f"{path}={folder}"]
    words += ["--certificate", str(certificate)] if certificate else []
    with subprocess.Popen(  # noqa: S603
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()
