"""Compare converting with the common hand-written way, with img2dataset, and with its floor.

`python -m benchmarks.convert` serves a release of 1,000 sft records of about 1 MB on loopback. In
turn it lets `pico-banana convert`, a script as people write it (32 threads of requests,
`Dataset.from_generator`, `to_parquet`), img2dataset where its environment is there (`make bench`
makes it), and a loop of aiohttp that writes all bytes into one file, fetch all images; once with
bare PNGs, once with PNGs that carry texts as editors write them. Then it shows the same over https,
20,000 records of small images beside a loop that keeps nothing, how cost and memory grow with the
records, and what workers bring where each answer takes 50 ms. It prints rows of a Markdown table.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from benchmarks.open_images_list import make_list, make_records
from benchmarks.rows import HEAD, Peak, Watch, alternate, median_ratio, run, serving, show
from tests.certificates import make_certificate

_RECORDS, _DISTINCT = 1000, 250
_MANY = 4000
_GROWTH = (250, 1000, _MANY)
_EDIT, _PHOTO = (520, 520), (400, 300)  # of noise: 0.81 MB as PNG, 0.11 MB as JPEG
_SMALL = (128, 128)
_TINY_RECORDS, _TINY, _TINY_PHOTO = 20_000, (96, 96), (160, 120)  # 27 KB as PNG, 20 as JPEG
_SLOW, _DELAY_S = 1500, 0.05
Size = tuple[int, int]
_IMG2DATASET = Path(".venvs/img2dataset/bin/img2dataset")

_BY_HAND = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
import datasets, requests

jsonl, ids, url, out = sys.argv[1:]
ids = json.load(open(ids))
records = [json.loads(line) for line in open(jsonl)]

def fetch(record):
    photo = requests.get(f"{url}/bucket/train/{ids[record['open_image_input_url']]}.jpg").content
    edit = requests.get(f"{url}/cdn/{record['output_image']}").content
    return {
        "input_image": {"bytes": photo, "path": None},
        "edited_image": {"bytes": edit, "path": None},
        "text": record["text"],
        "edit_type": record["edit_type"],
    }

def examples():
    with ThreadPoolExecutor(32) as pool:
        yield from pool.map(fetch, records)

features = datasets.Features({
    "input_image": datasets.Image(), "edited_image": datasets.Image(),
    "text": datasets.Value("string"), "edit_type": datasets.Value("string"),
})
made = datasets.Dataset.from_generator(examples, features=features, cache_dir=f"{out}/cache")
made.to_parquet(f"{out}/all.parquet")
"""

_FLOOR = """
import asyncio, sys
import aiohttp

urls = iter(open(sys.argv[1]).read().split())
keep = sys.argv[3:] != ["nothing"]

async def fetch_all():
    with open(sys.argv[2], "wb") as out:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            async def fetch():
                for url in urls:
                    async with session.get(url) as answer:
                        data = await answer.read()
                        if keep:
                            out.write(data)
            await asyncio.gather(*[fetch() for _ in range(64)])

asyncio.run(fetch_all())
"""


class Release:
    """A release whose images are noise; each of a few files serves many records.

    With `texts` its PNGs name a program and carry XMP, before and behind their pixels.
    """

    def __init__(
        self, root: Path, records: int, edit: Size, photo: Size, *, texts: bool = False
    ) -> None:
        root.mkdir(exist_ok=True)
        self.root, self.records = root, records
        urls = make_list(root / "list.csv", records)
        with (root / "list.csv").open(encoding="utf-8", newline="") as file:
            self._ids = {row["OriginalURL"]: row["ImageID"] for row in csv.DictReader(file)}
        for folder in ("manifest", "images/positive-edit", "photos"):
            (root / folder).mkdir(parents=True)
        make_records(root / "jsonl" / "sft.jsonl", urls, records)
        (root / "manifest" / "sft_manifest.txt").touch()
        (root / "ids.json").write_text(json.dumps(self._ids), encoding="utf-8")
        rng = random.Random(5)
        self.size_bytes = 0
        for number, image_id in enumerate(self._ids.values()):
            for path, kind, size in (
                (root / "photos" / f"{image_id}.jpg", "JPEG", photo),
                (root / "images/positive-edit" / f"{number}.png", "PNG", edit),
            ):
                known = root / f"{number % _DISTINCT}.{kind}"
                if not known.exists():
                    known.write_bytes(_noise(rng, kind, size, texts=texts))
                os.link(known, path)
                self.size_bytes += path.stat().st_size

    @property
    def mounts(self) -> tuple[tuple[str, Path], tuple[str, Path]]:
        """What is served where."""
        return ("/cdn", self.root), ("/bucket/train", self.root / "photos")

    def urls(self, server: str) -> list[str]:
        """The addresses of all images, in order."""
        found = []
        for number, image_id in enumerate(self._ids.values()):
            found.append(f"{server}/bucket/train/{image_id}.jpg")
            found.append(f"{server}/cdn/images/positive-edit/{number}.png")
        return found

    def flags(self, server: str) -> list[object]:
        """The flags that name it."""
        return [
            *("--cdn", f"{server}/cdn", "--open-images-metadata", self.root / "list.csv"),
            *("--mirrors", f"open-images-dataset.s3.amazonaws.com={server}/bucket"),
        ]


def _noise(rng: random.Random, kind: str, size: Size, *, texts: bool) -> bytes:
    made = io.BytesIO()
    noise = Image.frombytes("RGB", size, rng.randbytes(3 * size[0] * size[1]))
    if kind == "JPEG":
        noise.save(made, kind, quality=90)
        return made.getvalue()
    info = PngImagePlugin.PngInfo()
    if texts:
        info.add_text("Software", "an editor")
        info.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta xmlns:x='adobe:ns:meta/'/>")
        info.add(b"tEXt", b"Comment\0drawn", after_idat=True)
    noise.save(made, kind, compress_level=0, pnginfo=info)
    return made.getvalue()


class Ways:
    """The ways to fetch a release's images, each a function that returns its seconds."""

    def __init__(self, release: Release, server: str, env: dict[str, str]) -> None:
        self._release, self._server, self._env = release, server, env
        self._out = release.root / "out"
        self._urls = release.root / "urls.txt"
        self._urls.write_text("\n".join(release.urls(server)), encoding="utf-8")

    def _emptied(self) -> Path:
        shutil.rmtree(self._out, ignore_errors=True)
        self._out.mkdir()
        return self._out

    def ours(self, *words: object, watch: Watch | None = None) -> float:
        """Convert; every record must have its row."""
        out = self._emptied()
        command: list[Any] = [sys.executable, "-m", "pico_banana.convert", "convert", "sft"]
        command += [*self._release.flags(self._server), "--output", out / "made", *words]
        seconds = run(command, self._env, watch)
        rows = sum(json.loads(path.read_bytes())["rows"] for path in out.glob("*/_ledger/sft/t*"))
        if rows != self._release.records:
            sys.exit(f"{self._release.records:,} rows must be written, but got {rows:,}")
        return seconds

    def by_hand(self) -> float:
        """Do as people do."""
        root, out = self._release.root, self._emptied()
        words = [root / "jsonl" / "sft.jsonl", root / "ids.json", self._server, out]
        return run([sys.executable, "-c", _BY_HAND, *words], self._env)

    def img2dataset(self) -> float:
        """Let img2dataset fetch both images; it encodes PNGs again, as JPEG."""
        out = self._emptied()
        words = ["--url_list", self._urls, "--input_format", "txt", "--output_format", "parquet"]
        words += ["--output_folder", out / "made", "--processes_count", 2, "--thread_count", 32]
        words += ["--resize_mode", "no", "--skip_reencode", True, "--number_sample_per_shard", 500]
        return run([_IMG2DATASET, *words], self._env)

    def floor(self) -> float:
        """Fetch the same with the same client, into one file."""
        out = self._emptied() / "all.bin"
        seconds = run([sys.executable, "-c", _FLOOR, self._urls, out], self._env)
        if out.stat().st_size != self._release.size_bytes:
            sys.exit("the floor must have all bytes")
        return seconds

    def loop(self) -> float:
        """Fetch the same with the same client, and keep nothing."""
        out = self._emptied() / "all.bin"
        return run([sys.executable, "-c", _FLOOR, self._urls, out, "nothing"], self._env)


def _seconds(times: list[float]) -> str:
    return f"{statistics.median(times):.2f} s"


def compare(root: Path, env: dict[str, str], runs: int) -> None:
    """Compare all ways, with bare PNGs and with PNGs that carry texts."""
    for texts in (False, True):
        release = Release(root / f"compare-{texts}", _RECORDS, _EDIT, _PHOTO, texts=texts)
        with serving(*release.mounts) as server:
            ways = Ways(release, server, env)
            chosen: dict[str, Callable[[], float]] = {"ours": ways.ours, "by hand": ways.by_hand}
            if _IMG2DATASET.exists() and not texts:
                chosen["img2dataset"] = ways.img2dataset
            chosen["floor"] = ways.floor
            ways.ours()  # makes the index; the files are in memory
            found = alternate(chosen, runs)
        what = f"convert {_RECORDS:,} sft records, {release.size_bytes / 1e6:,.0f} MB"
        what += ", PNGs with texts" if texts else ""
        ours = _seconds(found["ours"])
        for way, bar in (("by hand", "at least 4"), ("img2dataset", "")):
            if way in found:
                ratio = median_ratio(found[way], found["ours"])
                show(what, ours, f"{way} {_seconds(found[way])}", f"{ratio:.1f} times as fast", bar)
        beside_floor("the same", found, "at most 2")


def beside_floor(what: str, found: Mapping[str, list[float]], bar: str, way: str = "floor") -> None:
    """Show ours beside a loop that only fetches."""
    ratio = median_ratio(found["ours"], found[way])
    beside = f"{way} {_seconds(found[way])}"
    show(what, _seconds(found["ours"]), beside, f"{ratio:.1f} times the {way}", bar)


def encrypted(root: Path, env: dict[str, str], runs: int) -> None:
    """Show the same over https."""
    certificate = make_certificate(root / "certificate.pem")
    release = Release(root / "https", _MANY, _EDIT, _PHOTO)
    with serving(*release.mounts, certificate=certificate) as server:
        ways = Ways(release, server, {**env, "SSL_CERT_FILE": str(certificate)})
        ways.ours()
        found = alternate({"ours": ways.ours, "floor": ways.floor}, runs)
    beside_floor(f"{_MANY:,} records over https", found, "at most 1.5")
    shutil.rmtree(release.root)


def small(root: Path, env: dict[str, str], runs: int) -> None:
    """Show many records of small images."""
    release = Release(root / "small", _TINY_RECORDS, _TINY, _TINY_PHOTO)
    with serving(*release.mounts) as server:
        ways = Ways(release, server, env)
        chosen = {"ours": ways.ours, "loop": ways.loop}
        if _IMG2DATASET.exists():
            chosen["img2dataset"] = ways.img2dataset
        ways.ours()
        found = alternate(chosen, runs)
    what = f"{_TINY_RECORDS:,} records of small images, {release.size_bytes / 1e6:,.0f} MB"
    beside_floor(what, found, "at most 2.5", "loop")
    if "img2dataset" in found:
        ratio = median_ratio(found["img2dataset"], found["ours"])
        beside = f"img2dataset {_seconds(found['img2dataset'])}"
        show(
            "the same", _seconds(found["ours"]), beside, f"{ratio:.1f} times as fast", "at least 2"
        )
    shutil.rmtree(release.root)


def grow(root: Path, env: dict[str, str], runs: int) -> None:
    """Show seconds and memory by the number of records."""
    for records in _GROWTH:
        with tempfile.TemporaryDirectory(dir=root) as folder:
            release = Release(Path(folder), records, _EDIT, _PHOTO)
            with serving(*release.mounts) as server:
                ways = Ways(release, server, env)
                ways.ours()
                found = alternate({"ours": ways.ours, "floor": ways.floor}, runs)
                peak = Peak()
                ways.ours(watch=peak.watch)
        ratio = median_ratio(found["ours"], found["floor"])
        ours = f"{_seconds(found['ours'])}, largest process {peak.largest / 1e6:,.0f} MB"
        beside = f"floor {_seconds(found['floor'])}"
        bar = "at most 500 MB a worker" + (", 1.5" if records == _MANY else "")
        show(f"{records:,} records", ours, beside, f"{ratio:.1f} times", bar)


def share(root: Path, env: dict[str, str], runs: int) -> None:
    """Show what workers bring where each answer takes 50 ms."""
    with tempfile.TemporaryDirectory(dir=root) as folder:
        release = Release(Path(folder), _SLOW, _SMALL, _SMALL)
        with serving(*release.mounts, delay_s=_DELAY_S) as server:
            ways = Ways(release, server, env)
            for budget, bar in ((64, "at least 3"), (8, "no gain")):
                path = Path(folder) / f"budget-{budget}.yaml"
                host = {"connections": budget}
                path.write_text(json.dumps({"fetch": {"hosts": {"127.0.0.1": host}}}))
                words = ["--settings", path, "--concurrency", 8, "--records-per-shard", 25]
                ways.ours(*words, "--workers", 4)

                def with_workers(count: int, words: list[Any] = words) -> Callable[[], float]:
                    return lambda: ways.ours(*words, "--workers", count)

                found = alternate({str(count): with_workers(count) for count in (1, 2, 4)}, runs)
                for count in ("2", "4"):
                    show(
                        f"{count} workers at {1000 * _DELAY_S:.0f} ms, a host's budget {budget}",
                        _seconds(found[count]),
                        f"1 worker {_seconds(found['1'])}",
                        f"{median_ratio(found['1'], found[count]):.1f} times as fast",
                        bar if count == "4" else "",
                    )


_PARTS = {
    "compare": compare,
    "encrypted": encrypted,
    "small": small,
    "grow": grow,
    "share": share,
}


def main() -> None:
    """Measure, and print rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convert", description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--part", choices=[*_PARTS], action="append")
    given = parser.parse_args()
    sys.stdout.write(HEAD)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        env = {
            **os.environ,
            "PICO_BANANA_CACHE": str(root / "cache"),
            "HF_HOME": str(root / "huggingface"),
            "NO_ALBUMENTATIONS_UPDATE": "1",
        }
        env.pop("PYTHONDONTWRITEBYTECODE", None)  # users' Python keeps what it has compiled
        for part in given.part or _PARTS:
            _PARTS[part](root, env, given.runs)


if __name__ == "__main__":
    main()
