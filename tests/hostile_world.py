"""A release with hostile lines, a place that nobody may touch, and processes that are watched."""

from __future__ import annotations

import ast
import csv
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pico_banana.convert.demo.sample_release import SampleRelease, make_sample_release
from tests import hostile
from tests.commands import QUICK_FETCH, arguments_of
from tests.fake_cdn import FakeCDN

AUDIT = Path(__file__).parent / "audit"
JSONL = {"sft": "sft.jsonl", "preference": "preference.jsonl", "multi_turn": "multi-turn.jsonl"}
NAMES = "farm9.staticflickr.com=127.0.0.1,evil.example=127.0.0.1"


@dataclass(frozen=True)
class Ended:
    code: int
    out: bytes
    err: bytes


@dataclass(frozen=True)
class World:
    """A release with hostile lines, where it is served, and a place that nobody may touch."""

    folder: Path
    release: SampleRelease
    cdn: FakeCDN
    decoy: FakeCDN
    lines: dict[str, list[hostile.Line]]

    @property
    def outside(self) -> Path:
        return self.folder / "outside"

    def arguments(self) -> dict[str, Any]:
        flickr = f"{self.cdn.url}/flickr/{{host}}"
        budget = {"connections": 8, "requests_per_second": 1000}
        return {
            "cdn": f"{self.cdn.url}/cdn",
            "open_images": os.fspath(self.release.open_images),
            "open_images_metadata": os.fspath(self.release.metadata_csv),
            "input_sources": ["folder", "flickr"],
            "mirrors": {"farm[1-8].staticflickr.com": flickr},
            "fetch": {**QUICK_FETCH, "hosts": {"*.staticflickr.com": budget}},
        }

    def run(self, name: str, *words: str | Path) -> Ended:
        """Run a program to its end; what it opens and connects to is noted in the log `name`."""
        log = self.folder / f"{name}.log"
        env = {
            **os.environ,
            "PYTHONPATH": f"{AUDIT}{os.pathsep}{Path(__file__).parents[1]}",
            "AUDIT_LOG": os.fspath(log),
            "AUDIT_NAMES": NAMES,
            "PICO_BANANA_CACHE": os.fspath(self.folder / "cache"),
            "HF_HOME": os.fspath(self.folder / "hf"),
            "COLUMNS": "200",
        }
        ended = subprocess.run(
            [*map(os.fspath, words)], capture_output=True, timeout=120, env=env, check=False
        )
        assert b"Traceback" not in ended.stderr, ended.stderr
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    def command(self, name: str, *words: str | Path) -> Ended:
        return self.run(name, *arguments_of(*words, probe=True))

    def noted(self, name: str) -> list[tuple[int, str, Any]]:
        text = (self.folder / f"{name}.log").read_text(encoding="utf-8")
        return [ast.literal_eval(line) for line in text.splitlines()]

    def assert_inside(self, name: str) -> list[tuple[int, str, Any]]:
        """Assert that nothing outside was opened, resolved or connected to."""
        noted = self.noted(name)
        port = int(self.cdn.url.rpartition(":")[2])
        for _, event, about in noted:
            if event == "open" and not isinstance(about, int):
                path = os.path.realpath(os.fsdecode(about))
                assert not path.startswith(os.fspath(self.outside)), about
                assert path not in ("/etc/passwd", "/dev/zero"), about
            if event == "socket.connect":
                is_own = isinstance(about, (str, bytes)) and "/pico-banana-" in os.fsdecode(about)
                assert is_own or about == ("127.0.0.1", port), about
            if event == "resolve":
                assert about in ("127.0.0.1", "farm9.staticflickr.com"), about
        assert self.decoy.log == []
        return noted


def make_world(folder: Path, cdn: FakeCDN, decoy: FakeCDN) -> World:
    release = make_sample_release(
        folder / "release", sft=6, preference=4, multi_turn=3, photos=6, size=(96, 64)
    )
    outside = folder / "outside"
    outside.mkdir()
    secret = next(release.cdn.rglob("*.png")).read_bytes()
    for name in ("secret.png", "secret.jpg", "x"):
        (outside / name).write_bytes(secret)
    poison_list(release.metadata_csv)
    return World(folder, release, cdn, decoy, {})


def poison_list(path: Path) -> None:
    """Give all photos hostile titles and authors, and two more photos an ImageID that is a path."""
    with path.open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    for row in found:
        row |= {"Title": hostile.TEXT.replace("\x00", ""), "Author": "[/]\x1b[31m<b>\r\n"}
    places = {"71": "../../outside/secret", "72": "/etc/passwd"}
    for number, place in places.items():
        url = f"https://farm1.staticflickr.com/7/{number}_o.jpg"
        found.append({**found[0], "OriginalURL": url, "ImageID": place})
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*found[0]])
        writer.writeheader()
        writer.writerows(found)


def add_lines(world: World, config: str, added: list[hostile.Line]) -> None:
    """Put hostile lines between the good ones of a config."""
    path = world.release.cdn / "jsonl" / JSONL[config]
    good = [hostile.Line(raw, "written") for raw in path.read_bytes().splitlines()]
    step = len(added) // len(good) + 1
    mixed = [
        line
        for place, one in enumerate(good)
        for line in (one, *added[place * step : (place + 1) * step])
    ]
    path.write_bytes(b"\n".join(line.raw for line in mixed) + b"\n")
    world.lines[config] = mixed


def first_record(world: World, config: str) -> dict[str, Any]:
    raw = (world.release.cdn / "jsonl" / JSONL[config]).read_bytes()
    found: dict[str, Any] = json.loads(raw.partition(b"\n")[0])
    return found
