"""Make outputs, and what a reader without this project must find in them.

`python -m tests.make_read_back DIR` writes DIR/out and DIR/expected.json, and a link edition,
DIR/links/pico_banana_400k and DIR/links/expected.json. What is expected is read from the sample
release itself, not from the output. Links lead to `IMAGES`, a host that is asked through a proxy:
whoever reads them serves DIR/links/served on any port, and says so in `http_proxy`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pico_banana.convert.demo.sample_release import SampleRelease, make_sample_release
from tests.commands import pico_banana, quick_settings, release_flags, rows
from tests.fake_cdn import FakeCDN

IMAGES = "http://images.example"
LINKED_ROWS = 8
CONFIGS = ("sft", "preference", "multi_turn")


def _image(value: Any) -> Any:
    if isinstance(value, list):
        return [_image(one) for one in value]
    if isinstance(value, dict):
        return {"path": value["path"], "sha256": hashlib.sha256(value["bytes"]).hexdigest()}
    return value


def published(release: SampleRelease, url: str, image_id: str | None) -> bytes:
    """The published bytes of a URL in a row: an edit's, or the Open Images file of an input."""
    if "/nb/" in url:
        return (release.cdn / unquote(url.partition("/nb/")[2])).read_bytes()
    assert image_id is not None
    return (release.open_images / f"train_{image_id[0]}" / f"{image_id}.jpg").read_bytes()


def check_bytes(release: SampleRelease, row: dict[str, Any]) -> int:
    """Assert that every image of a row is its published file, to the bit; return how many."""
    checked = 0
    for name, value in row.items():
        if name.endswith("_image"):
            pairs = [(value, row[name.replace("_image", "_url")])]
        elif name.endswith("_images"):
            pairs = list(zip(value, row[name.replace("_images", "_urls")], strict=True))
        else:
            continue
        for image, url in pairs:
            if image is not None:
                assert image["bytes"] == published(release, url, row["image_id"]), url
                checked += 1
    return checked


def make_links(release: SampleRelease, folder: Path) -> None:
    """Write a link edition of a release, where its links lead to, and what must be found there."""
    served, out = folder / "served", folder / "pico_banana_400k"
    served.mkdir(parents=True)
    (served / "cdn").symlink_to(release.cdn)
    (served / "train").mkdir()
    for photo in release.open_images.glob("*/*.jpg"):
        (served / "train" / photo.name).symlink_to(photo)
    with FakeCDN(("/", served)) as server:
        ended = pico_banana(
            *("convert", "all", "--images", "url", "--cdn", f"{IMAGES}/cdn", "--output", out),
            *("--open-images-metadata", release.metadata_csv, "--limit", str(LINKED_ROWS)),
            *("--mirrors", f"open-images-dataset.s3.amazonaws.com={IMAGES}"),
            env={"http_proxy": server.url, "no_proxy": ""},
        )
        assert ended.code == 0, ended
        assert server.count("*.jsonl") > 0
        assert server.count("*.png") == server.count("*.jpg") == 0
    expected: dict[str, Any] = {"configs": {}}
    for config in CONFIGS:
        found = rows(out, config)
        assert len(found) == LINKED_ROWS
        made = [{name: _link(v) if "_image" in name else v for name, v in r.items()} for r in found]
        expected["configs"][config] = {"train": made}
        for row in found:
            check_links(release, row, served)
    (folder / "expected.json").write_text(json.dumps(expected), encoding="utf-8")


def _link(value: Any) -> Any:
    if isinstance(value, list):
        return [_link(one) for one in value]
    if not isinstance(value, dict):
        return value
    assert value["bytes"] is None
    return {"path": value["path"], "file": unquote(value["path"].removeprefix(f"{IMAGES}/"))}


def check_links(release: SampleRelease, row: dict[str, Any], served: Path) -> None:
    """Assert that a row's links lead to the published bytes."""
    for name, value in row.items():
        if name.endswith("_image"):
            pairs = [(value, row[name.replace("_image", "_url")])]
        elif name.endswith("_images"):
            pairs = list(zip(value, row[name.replace("_images", "_urls")], strict=True))
        else:
            continue
        for image, url in pairs:
            data = (served / _link(image)["file"]).read_bytes()
            assert data == published(release, url, row["image_id"])


def main(folder: Path) -> None:
    """Convert a sample release of which one shard, not the last, loses all its examples."""
    release = make_sample_release(
        folder / "release", sft=80, preference=20, multi_turn=15, size=(96, 64), quirks=True
    )
    make_links(release, folder / "links")
    lines = (release.cdn / "jsonl" / "sft.jsonl").read_bytes().splitlines()
    records = [json.loads(line.removeprefix(b"\xef\xbb\xbf")) for line in lines[:20]]
    for record in records[10:20]:
        (release.cdn / record["output_image"]).unlink()
    out = folder / "out"
    ended = pico_banana(
        *("convert", "all", *release_flags(release), "--output", out, "--records-per-shard", "10"),
        *quick_settings(folder),
    )
    assert ended.code == 1, ended  # ten images are absent
    expected: dict[str, Any] = {"configs": {}}
    for config in CONFIGS:
        found = rows(out, config)
        assert sum(check_bytes(release, row) for row in found) >= 2 * len(found)
        made = [
            {name: _image(v) if "_image" in name else v for name, v in row.items()} for row in found
        ]
        expected["configs"][config] = {"train": made}
    (folder / "expected.json").write_text(json.dumps(expected), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
