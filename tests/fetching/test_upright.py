"""What an output holds decodes in plain `datasets`: turned upright, as the library turns it."""

from __future__ import annotations

import io
import os
from pathlib import Path

import datasets
from PIL import Image

from pico_banana.convert.demo.sample_release import SampleRelease
from tests.commands import ledgers, pico_banana, release_flags, rows
from tests.odd_exif import exif_with

RESOLUTION_UNIT, TEXT = 0x128, 2


def photos_of(release: SampleRelease) -> list[Path]:
    return sorted(release.open_images.glob("*/*.jpg"))


def turn(path: Path, orientation: int) -> None:
    """Give a photo this orientation, and beside it a resolution's unit that is a text."""
    made = io.BytesIO()
    with Image.open(path) as image:
        image.save(made, "JPEG", exif=exif_with(orientation, RESOLUTION_UNIT, TEXT))
    path.write_bytes(made.getvalue())


def test_a_photo_that_datasets_cannot_turn_is_corrupt_and_one_that_it_need_not_stays(
    own_release: SampleRelease, tmp_path: Path
) -> None:
    sideways, upright = photos_of(own_release)[:2]
    turn(sideways, 6)
    turn(upright, 1)
    out = tmp_path / "out"
    ended = pico_banana("convert", "sft", *release_flags(own_release), "--output", out)
    assert ended.code == 1
    missing = [
        image
        for ledger in ledgers(out, "sft")
        for entry in ledger["missing"]
        for image in entry["images"]
    ]
    assert {image["reason"] for image in missing} == {"corrupt"}
    ids = {row["image_id"] for row in rows(out, "sft")}
    assert sideways.stem not in ids
    assert upright.stem in ids
    assert pico_banana("verify", out, "--check", "decode").code == 0
    loaded = datasets.load_dataset(os.fspath(out), "sft", split="train", streaming=True)
    assert len([*loaded]) == len(rows(out, "sft")) > 0
