"""Make an output, and what a reader without this project must find in it.

`python -m tests.make_read_back DIR` writes DIR/out and DIR/expected.json. What is expected is read
from the sample release itself, not from the output.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from pico_banana.convert.sample_release import SampleRelease, make_sample_release
from tests.commands import pico_banana, quick_settings, release_flags, rows

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
        from urllib.parse import unquote  # noqa: PLC0415

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


def main(folder: Path) -> None:
    """Convert a sample release of which one shard, not the last, loses all its examples."""
    release = make_sample_release(
        folder / "release", sft=80, preference=20, multi_turn=15, size=(96, 64), quirks=True
    )
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
