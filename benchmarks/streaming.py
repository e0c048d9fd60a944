"""Compare streaming with what `datasets` does by itself, where each answer takes 50 ms.

`python -m benchmarks.streaming` serves a release of 1,000 sft records, 128-pixel images, on
loopback, every answer 50 ms late. In turn, each in a process of its own, it reads examples by
`pico_banana_400k.load(…, streaming=True)`, whose index is there, and by `load_dataset("json",
streaming=True)` with both columns cast to `Image()`, and prints examples a second and the time to
the first example. Then it counts what is fetched after a stop, and where a stream is continued.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.open_images_list import make_list, make_records
from benchmarks.rows import HEAD, show
from tests.fake_cdn import FakeCDN

_RECORDS, _STOCK, _PIXELS, _DELAY_S = 1000, 40, 128, 0.05
_PATIENCE_S = 1.0


def make_release(root: Path, records: int) -> None:
    """Write records, an image list, and a photo and an edit for each record."""
    urls = make_list(root / "list.csv", records)
    for folder in ("jsonl", "manifest", "images/positive-edit", "photos"):
        (root / folder).mkdir(parents=True)
    make_records(root / "jsonl" / "sft.jsonl", urls, records)
    (root / "manifest" / "sft_manifest.txt").touch()
    rng = random.Random(5)
    lines = (root / "list.csv").read_text(encoding="utf-8").splitlines()[1:]
    ids = [line.partition(",")[0] for line in lines]
    for record in range(records):
        for path, kind in (
            (root / "photos" / f"{ids[record]}.jpg", "JPEG"),
            (root / "images" / "positive-edit" / f"{record}.png", "PNG"),
        ):
            made = io.BytesIO()
            noise = Image.frombytes("RGB", (_PIXELS, _PIXELS), rng.randbytes(3 * _PIXELS**2))
            noise.save(made, kind)
            path.write_bytes(made.getvalue())


def write_links(root: Path, server: str, records: int) -> Path:
    """Write what the stock way reads: lines with the addresses of both images."""
    lines = (root / "list.csv").read_text(encoding="utf-8").splitlines()[1:]
    by_url = {line.split(",")[2]: line.partition(",")[0] for line in lines}
    path = root / "jsonl" / "links.jsonl"
    with (root / "jsonl" / "sft.jsonl").open() as records_, path.open("w") as links:
        for number, line in zip(range(records), records_, strict=False):
            image_id = by_url[json.loads(line)["open_image_input_url"]]
            edited = f"{server}/cdn/images/positive-edit/{number}.png"
            entry = {"input_image": f"{server}/bucket/train/{image_id}.jpg", "edited_image": edited}
            links.write(json.dumps(entry) + "\n")
    return path


def examples(way: str, root: Path, server: str, **given: Any) -> Any:
    """Return the stream of one way."""
    if way == "stock":
        import datasets  # noqa: PLC0415  (imports are not what is measured)

        links = f"{server}/cdn/jsonl/links.jsonl"
        found = datasets.load_dataset("json", data_files=links, split="train", streaming=True)
        for column in ("input_image", "edited_image"):
            found = found.cast_column(column, datasets.Image())
        return found
    import pico_banana_400k  # noqa: PLC0415

    return pico_banana_400k.load(
        "sft",
        split="train",
        streaming=True,
        cdn=f"{server}/cdn",
        open_images_metadata=str(root / "list.csv"),
        mirrors={"open-images-dataset.s3.amazonaws.com": f"{server}/bucket"},
        **given,
    )


def read(way: str, root: Path, server: str, count: int) -> dict[str, float]:
    """Read some examples; return the seconds to the first one, and examples a second in all."""
    import datasets  # noqa: F401, PLC0415

    import pico_banana_400k  # noqa: F401, PLC0415

    begun_s = time.perf_counter()
    reader = iter(examples(way, root, server))
    next(reader)
    first_s = time.perf_counter() - begun_s
    seen = 1 + sum(1 for _ in zip(range(count - 1), reader, strict=False))
    if seen != count:
        sys.exit(f"{way}: {count} examples must come, but {seen} came")
    return {"first": first_s, "rate": count / (time.perf_counter() - begun_s)}


def run(way: str, root: Path, server: FakeCDN, count: int) -> dict[str, float]:
    """Read in a new process."""
    words = ["--way", way, "--folder", os.fspath(root), "--server", server.url]
    ended = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "benchmarks.streaming", *words, "--records", str(count)],
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        sys.exit(ended.stderr)
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return found


def asked(server: FakeCDN) -> list[int]:
    """The numbers of the edits that were asked for."""
    paths = [request.path for request in server.requests("*/images/*")]
    return [int(Path(path).stem) for path in paths]


def counted(root: Path, server: FakeCDN, records: int) -> Iterator[tuple[str, str]]:
    """What is fetched in vain: what, and how much of it."""
    half = records // 2
    stream = examples("ours", root, server.url)
    reader = iter(stream)
    for _ in range(half):
        next(reader)
    state = stream.state_dict()
    reader.close()
    server.clear()
    again = examples("ours", root, server.url)
    again.load_state_dict(state)
    rest = sum(1 for _ in again)
    edits = [number for number in asked(server) if number < half]
    yield f"continued at {half}: examples that came", f"{rest} of {records - half}"
    yield f"continued at {half}: edits of the first {half} fetched", str(len(edits))
    server.clear()
    sum(1 for _ in examples("ours", root, server.url, offset=half))
    edits = [number for number in asked(server) if number < half]
    yield f"offset={half}: edits of the first {half} fetched", str(len(edits))
    server.clear()
    list(examples("ours", root, server.url).take(5))
    ended_s = time.monotonic()
    time.sleep(_PATIENCE_S)
    late = [one for one in server.requests() if one.started > ended_s + _PATIENCE_S / 10]
    yield "take(5): requests in all", str(server.count("*/images/*") + server.count("*.jpg"))
    yield f"take(5): requests begun later than {_PATIENCE_S / 10} s after it", str(len(late))
    server.clear()
    reader = iter(examples("ours", root, server.url))
    for _ in range(3):
        next(reader)
        time.sleep(_PATIENCE_S)
    yield (
        "a reader of 1 example a second: images fetched after 3",
        str(server.count("*/images/*") + server.count("*.jpg")),
    )
    reader.close()


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming", description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--records", type=int, default=_RECORDS)
    parser.add_argument("--way", choices=("ours", "stock"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--server", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        found = read(given.way, given.folder, given.server, given.records)
        sys.stdout.write(json.dumps(found) + "\n")
        return
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        os.environ["PICO_BANANA_CACHE"] = os.fspath(root / "cache")
        os.environ["HF_HOME"] = os.fspath(root / "huggingface")
        make_release(root, given.records)
        with FakeCDN(("/cdn", root), ("/bucket/train", root / "photos")) as server:
            write_links(root, server.url, given.records)
            run("ours", root, server, 10)  # makes the index
            server.delay_s = _DELAY_S
            made: dict[str, list[dict[str, float]]] = {"ours": [], "stock": []}
            for _ in range(given.runs):
                made["ours"].append(run("ours", root, server, given.records))
                made["stock"].append(run("stock", root, server, _STOCK))
            for way, runs in made.items():
                rate = statistics.median(one["rate"] for one in runs)
                first_s = statistics.median(one["first"] for one in runs)
                sys.stdout.write(
                    f"{way:<6} {rate:7.1f} examples/s   first after {first_s:.2f} s, "
                    f"{first_s / _DELAY_S:.1f} round trips\n"
                )
            ratio = statistics.median(
                a["rate"] / b["rate"] for a, b in zip(made["ours"], made["stock"], strict=True)
            )
            sys.stdout.write(f"{ratio:.0f} times as many examples a second\n")
            rates = {
                way: statistics.median(one["rate"] for one in runs) for way, runs in made.items()
            }
            first_s = statistics.median(one["first"] for one in made["ours"])
            sys.stdout.write(HEAD)
            show(
                f"streaming {_PIXELS}-pixel images, every answer {1000 * _DELAY_S:.0f} ms late",
                f"{rates['ours']:.0f} examples/s, the first after {first_s / _DELAY_S:.1f} "
                "round trips",
                f"stock streaming {rates['stock']:.1f} examples/s",
                f"{ratio:.0f} times as many",
                "at least 40; 10 round trips",
            )
            for what, count in counted(root, server, given.records):
                sys.stdout.write(f"{what}: {count}\n")


if __name__ == "__main__":
    main()
