"""Compare converting from packed tars with converting from a folder of the same photos.

`python -m benchmarks.tars` makes a release of 1,000 sft records with photos of about 0.3 MB and
edits of about 1 MB, and converts it in turn from the folder, from plain tars and from packed ones,
whose indexes are there, and from packed ones that are indexed first. All Parquet must be the same.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from PIL import Image

from benchmarks.open_images_list import make_list, make_records
from benchmarks.rows import HEAD, show

_RECORDS, _PHOTOS = 1000, 500
_PHOTO_SIZE, _EDIT_SIZE = (1024, 768), (640, 560)
WAYS = ("folder", "tar", "tar.gz", "tar.gz, indexing too")


def _noise(seed: int, size: tuple[int, int]) -> Image.Image:
    """A picture as hard to pack as a photo's: noise over shapes."""
    rng = random.Random(seed)
    small = Image.frombytes("RGB", (64, 64), rng.randbytes(64 * 64 * 3)).resize(size)
    grain = Image.frombytes("RGB", size, rng.randbytes(size[0] * size[1] * 3))
    return Image.blend(small, grain, 0.25)


def make_release(root: Path, records: int, photos: int) -> None:
    """Write a release, its photos as a folder, and as plain and packed tars."""
    urls = make_list(root / "list.csv", photos)
    jsonl = root / "cdn" / "jsonl" / "sft.jsonl"
    jsonl.parent.mkdir(parents=True)
    make_records(jsonl, urls, records)
    (root / "cdn" / "manifest").mkdir()
    (root / "cdn" / "manifest" / "sft_manifest.txt").touch()
    edits = root / "cdn" / "images" / "positive-edit"
    edits.mkdir(parents=True)
    for record in range(records):
        _noise(record, _EDIT_SIZE).save(edits / f"{record}.png", compress_level=1)
    ids = [line.partition(",")[0] for line in (root / "list.csv").read_text().splitlines()[1:]]
    for folder in ("folder", "tar", "tar.gz"):
        (root / folder).mkdir()
    for digit in sorted({image_id[0] for image_id in ids}):
        below = root / "folder" / f"train_{digit}"
        below.mkdir()
        plain = root / "tar" / f"train_{digit}.tar"
        with tarfile.open(plain, "w") as archive:
            for image_id in sorted(one for one in ids if one[0] == digit):
                made = io.BytesIO()
                _noise(int(image_id, 16), _PHOTO_SIZE).save(made, "JPEG", quality=80)
                (below / f"{image_id}.jpg").write_bytes(made.getvalue())
                archive.add(below / f"{image_id}.jpg", f"train_{digit}/{image_id}.jpg")
        with (root / "tar.gz" / f"train_{digit}.tar.gz").open("wb") as packed:
            subprocess.run(["gzip", "-c", plain], stdout=packed, check=True)  # noqa: S603, S607


def convert(root: Path, way: str, workers: int) -> tuple[float, str]:
    """Convert in a process of its own; return its seconds, and a digest of what it wrote."""
    output = root / "out"
    shutil.rmtree(output, ignore_errors=True)
    folder = root / way.partition(",")[0]
    if "," in way:
        for index in folder.glob("*index"):
            index.unlink()
    words = [
        *(sys.executable, "-m", "pico_banana.convert", "convert", "sft", "--output", output),
        *("--cdn", root / "cdn", "--open-images", folder, "--input-sources", "folder,tar"),
        *("--open-images-metadata", root / "list.csv", "--workers", str(workers)),
    ]
    begun_s = time.perf_counter()
    subprocess.run(  # noqa: S603
        [os.fspath(word) for word in words],
        check=True,
        capture_output=True,
        env={**os.environ, "PICO_BANANA_CACHE": os.fspath(root / "cache")},
    )
    seconds = time.perf_counter() - begun_s
    digest = hashlib.sha256()
    for path in sorted(output.glob("sft/*.parquet")):
        digest.update(path.read_bytes())
    ways = {
        name
        for path in output.glob("_ledger/sft/train*.json")
        for name, _ in json.loads(path.read_bytes())["ways"]
    }
    if ways != {"folder" if way == "folder" else "tar"}:
        sys.exit(f"{way}: photos must come from there, but came by {ways}")
    return seconds, digest.hexdigest()


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tars", description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--records", type=int, default=_RECORDS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keep the release there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = given.folder or Path(temporary)
        if not (root / "tar.gz").exists():
            root.mkdir(exist_ok=True)
            make_release(root, given.records, max(1, given.records * _PHOTOS // _RECORDS))
        photos = sum(path.stat().st_size for path in root.glob("folder/*/*"))
        packed = sum(path.stat().st_size for path in root.glob("tar.gz/*.gz"))
        edits = sum(path.stat().st_size for path in root.glob("cdn/images/*/*"))
        sys.stdout.write(
            f"{given.records:,} records; photos {photos / 1e6:,.0f} MB, packed "
            f"{packed / 1e6:,.0f} MB; edits {edits / 1e6:,.0f} MB; {given.workers} workers\n"
        )
        for way in WAYS[:3]:  # the indexes are made, and the files are in memory
            convert(root, way, given.workers)
        found: dict[str, list[float]] = {way: [] for way in WAYS}
        digests = set()
        for _ in range(given.runs):
            for way in WAYS:
                seconds, digest = convert(root, way, given.workers)
                found[way].append(seconds)
                digests.add(digest)
        if len(digests) != 1:
            sys.exit("all ways must give the same Parquet, but do not")
        for way, times in found.items():
            ratio = statistics.median(
                mine / folder for mine, folder in zip(times, found["folder"], strict=True)
            )
            if way == "folder":
                sys.stdout.write(HEAD)
                continue
            ours, beside = statistics.median(times), statistics.median(found["folder"])
            what = f"photos from {way}"
            show(what, f"{ours:.2f} s", f"folder {beside:.2f} s", f"{ratio:.2f} times", "")


if __name__ == "__main__":
    main()
