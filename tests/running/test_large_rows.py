"""Rows whose images are more than one row can hold: the rest is missing, and the run goes on."""

from __future__ import annotations

import io
import json
import os
import zlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from pico_banana.convert.demo.sample_release import SampleRelease
from pico_banana.fetching.inspect import Fetched
from pico_banana.missing import Missing, MissingReason
from pico_banana.reading.examples import borne
from tests.commands import ledgers, pico_banana, release_flags

IMAGE_BYTES = 99_000_000
BORNE = 21
MIB, GIB = 2**20, 2**30
REJECTED = 24


def large_png(path: Path) -> None:
    """A small picture with a large private chunk, which readers pass over."""
    made = io.BytesIO()
    Image.new("RGB", (8, 8)).save(made, "PNG")
    data, filling = made.getvalue(), bytes(IMAGE_BYTES)
    crc = zlib.crc32(filling, zlib.crc32(b"prVt")).to_bytes(4, "big")
    chunk = b"".join([len(filling).to_bytes(4, "big"), b"prVt", filling, crc])
    path.write_bytes(data[:33] + chunk + data[33:])


@pytest.fixture
def large(own_release: SampleRelease) -> SampleRelease:
    """Of six preference records the second has 24 rejected images of 99 MB, 2.4 GB in all."""
    jsonl = own_release.cdn / "jsonl" / "preference.jsonl"
    records = [json.loads(line) for line in jsonl.read_text(encoding="utf-8").splitlines()][:6]
    folder = own_release.cdn / "images" / "rejected-edit"
    large_png(folder / "large.png")
    names = [f"large-{number}.png" for number in range(REJECTED)]
    for name in names:
        os.link(folder / "large.png", folder / name)
    records[1]["rejected_images"] = [f"nano-banana-300k/images/rejected-edit/{n}" for n in names]
    jsonl.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    return own_release


@pytest.mark.long
def test_what_a_row_cannot_hold_is_too_large_and_the_run_goes_on(
    large: SampleRelease, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["convert", "preference", *release_flags(large), "--output", out, "--workers", "1"]
    ended = pico_banana(*words)
    assert ended.code == 1, ended.err
    assert "missing: 3 images are too_large" in ended.out
    (ledger,) = ledgers(out, "preference")
    assert ledger["rows"] == 6
    (entry,) = ledger["missing"]
    assert [image["url"].rpartition("/")[2] for image in entry["images"]] == [
        f"large-{number}.png" for number in range(BORNE, REJECTED)
    ]
    assert {image["reason"] for image in entry["images"]} == {"too_large"}
    parquet = pq.ParquetFile(next(out.glob("preference/*.parquet")))
    lengths = [
        len(row["rejected_widths"])
        for group in range(parquet.num_row_groups)
        for row in parquet.read_row_group(group, columns=["rejected_widths"]).to_pylist()
    ]
    assert max(lengths) == BORNE
    assert pico_banana("verify", out).code == 0


@pytest.mark.parametrize(
    ("sizes", "kept"),
    [
        ([GIB, GIB], [0]),
        ([GIB, GIB, 5], [0, 2]),
        ([5, 2 * GIB], [0]),
        ([2 * GIB - MIB], [0]),
        ([2 * GIB - MIB + 1], []),
        ([2 * GIB - MIB, 1, 0], [0, 2]),
    ],
)
def test_images_are_borne_in_their_order(sizes: list[int], kept: list[int]) -> None:
    gone = Missing("u", MissingReason.NOT_FOUND, 1, None, "")
    found = [Fetched("u", "n", bytes(size), {}, None, "cdn", 1) for size in sizes]
    left = borne([*found, gone])
    assert [place for place, one in enumerate(left) if isinstance(one, Fetched)] == kept
    reasons = {one.reason for one in left[:-1] if isinstance(one, Missing)}
    assert reasons <= {MissingReason.TOO_LARGE}
    assert left[-1] is gone
