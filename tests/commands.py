"""Run the project's commands as real processes, and read what they wrote."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pico_banana.convert.demo.sample_release import SampleRelease
from tests.command_server import CommandServer, needs_own_hub

_TIMEOUT_S = 120

QUICK_FETCH = {
    "retries": 2,
    "backoff_s": 0.01,
    "recovery_s": 0.05,
    "breaker_pause_s": 0.01,
    "breaker_pauses": 3,
    "read_timeout_s": 5,
    "connect_timeout_s": 5,
}


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def arguments_of(*words: str | os.PathLike[str], probe: bool = False) -> list[str]:
    return [sys.executable, "-m", "pico_banana.convert", *_words(words, probe=probe)]


def _words(words: Iterable[str | os.PathLike[str]], *, probe: bool) -> list[str]:
    """The words of a command that asks for sizes only where the test is of that.

    Else these requests would be counted, held or answered with faults in place of the images'.
    """
    given = [*map(os.fspath, words)]
    asks = given[:1] in (["plan"], ["convert"]) and not {"--help", "--no-probe"} & {*given}
    return [*given, "--no-probe"] if asks and not probe else given


def pico_banana(
    *words: str | os.PathLike[str],
    env: Mapping[str, str] | None = None,
    preexec: Callable[[], None] | None = None,
    probe: bool = False,
) -> Ended:
    """Run a command to its end, as a process of its own."""
    whole = {**os.environ, "COLUMNS": "200", **(env or {})}
    server = _server(with_hub=not needs_own_hub(whole))
    if preexec is None and server.takes(whole):
        ended = Ended(*server.run(_words(words, probe=probe), whole, _TIMEOUT_S))
    else:
        done = subprocess.run(
            arguments_of(*words, probe=probe),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            env=whole,
            preexec_fn=preexec,
            check=False,
        )
        ended = Ended(done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in ended.err, ended.err
    return ended


@functools.cache
def _server(*, with_hub: bool) -> CommandServer:
    return CommandServer(with_hub=with_hub)


def release_flags(release: SampleRelease, cdn: str | Path | None = None) -> list[str]:
    """The flags that name a sample release, its edits at `cdn` where given."""
    return [
        *("--cdn", os.fspath(cdn or release.cdn)),
        *("--open-images", os.fspath(release.open_images)),
        *("--open-images-metadata", os.fspath(release.metadata_csv)),
    ]


def quick_settings(folder: Path, **more: Any) -> list[str]:
    """The flags of a settings file with short waits."""
    path = folder / "settings.yaml"
    path.write_text(json.dumps({"fetch": QUICK_FETCH, **more}), encoding="utf-8")
    return ["--settings", os.fspath(path)]


def digests(output: Path) -> dict[str, str]:
    """The sha256 of every file of an output that must be the same from every run."""
    files = [*output.glob("*/*.parquet"), output / "README.md"]
    return {
        os.fspath(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.exists()
    }


def rows(output: Path, config: str) -> list[dict[str, Any]]:
    """All rows of a config, in order, images as {bytes, path}."""
    found: list[dict[str, Any]] = []
    for path in sorted((output / config).glob("*.parquet")):
        found += pq.read_table(path).to_pylist()
    return found


def ledgers(output: Path, config: str) -> list[dict[str, Any]]:
    paths = sorted((output / "_ledger" / config).glob("train-*.json"))
    return [json.loads(path.read_bytes()) for path in paths]


def plan_of(output: Path, config: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "_ledger" / config / "plan.json").read_bytes())
    return found


def count(stretches: Iterable[Iterable[int]]) -> int:
    return sum(last - first + 1 for first, last in stretches)
