"""Make an image list of Open Images' size, and records that link to its photos; seeded.

Lines are about as long as the published ones: 630 bytes in sft, 890 of a record with five turns.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pico_banana.schema import EDIT_TYPES

ROWS, PHOTOS = 1_743_042, 130_000
RECORDS, PREFERENCE, MULTI_TURN = 257_730, 56_473, 72_000
_REST = (
    "Keep everything else in it exactly as it is: the light and the perspective, the shadows and "
    "their direction, the texture of what is near, and the blur of what is far away, such that "
    "nobody who has not seen the picture before would think that it was changed."
)
_COLUMNS = (
    "ImageID,Subset,OriginalURL,OriginalLandingURL,License,AuthorProfileURL,Author,Title,"
    "OriginalSize,OriginalMD5,Thumbnail300KURL,Rotation"
)
_AUTHORS = ("Jörg Müller", 'Ann "Annie" O\'Neil', "Lee, Kim & Co.", "山田 太郎", "plain name")
_TITLES = ("A house, a tree", 'The "old" road', "Été à la campagne", "雨の日", "DSC_0042", "")


def make_list(path: Path, rows: int = ROWS) -> list[str]:
    """Write the CSV, about 600 MB; return the photos' URLs in the order of their ImageIDs."""
    rng = random.Random(1)
    urls = []
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(f"{_COLUMNS}\n")
        writer = csv.writer(file, lineterminator="\n")
        for row in range(rows):
            number = rng.randrange(10**8, 6 * 10**9)
            secret = f"{rng.getrandbits(40):010x}"
            host = f"farm{row % 9 + 1}" if row % 3 else f"c{row % 8 + 1}"
            folder = f"{rng.randrange(1000, 9999)}"
            name = f"{number}_{secret}_o.jpg"
            part = f"{folder}/{name}" if row % 3 else f"{row % 8 + 1}/{folder}/{name}"
            url = f"https://{host}.staticflickr.com/{part}"
            urls.append(url)
            user = f"https://www.flickr.com/people/{rng.randrange(10**6, 10**8)}@N0{row % 8}/"
            digest = base64.b64encode(hashlib.md5(url.encode(), usedforsecurity=False).digest())
            writer.writerow(
                [
                    f"{row * 10_583_000_000_000 + rng.getrandbits(40):016x}",
                    "train",
                    url,
                    f"https://www.flickr.com/photos/{user[30:-1]}/{number}",
                    "https://creativecommons.org/licenses/by/2.0/",
                    user,
                    _AUTHORS[row % len(_AUTHORS)],
                    f"{_TITLES[row % len(_TITLES)]} {row % 977}".strip(),
                    rng.randrange(10**5, 10**7),
                    digest.decode(),
                    f"https://{host}.staticflickr.com/{folder}/{number}_{secret[:10]}_z.jpg",
                    ("0.0", "", "90.0", "270.0")[row % 4],
                ]
            )
    return urls


def make_records(path: Path, urls: list[str], records: int = RECORDS) -> None:
    """Write sft records in the order of their photos' ImageIDs, about two a photo."""
    _write(path, (_sft(record, url) for record, url in enumerate(_inputs(urls, records, PHOTOS))))


def make_release(folder: Path, urls: list[str]) -> None:
    """Write the three configs' records at full size under `jsonl`."""
    inputs = _inputs(urls, PREFERENCE + MULTI_TURN, PHOTOS)
    make_records(folder / "jsonl" / "sft.jsonl", urls)
    preferred, turned = enumerate(inputs[:PREFERENCE]), enumerate(inputs[PREFERENCE:])
    _write(folder / "jsonl" / "preference.jsonl", (_preference(*one) for one in preferred))
    _write(folder / "jsonl" / "multi-turn.jsonl", (_multi_turn(*one) for one in turned))


def _inputs(urls: list[str], records: int, photos: int) -> list[str]:
    rng = random.Random(2)
    photos = min(photos, len(urls))
    chosen = sorted(rng.sample(range(len(urls)), photos))
    return [urls[chosen[record * photos // records]] for record in range(records)]


def _write(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _sft(record: int, url: str) -> dict[str, Any]:
    kind = EDIT_TYPES[record % len(EDIT_TYPES)]
    return {
        "open_image_input_url": url,
        "text": f"{kind.name}: change the picture so that record {record} is told apart. {_REST}",
        "output_image": f"images/positive-edit/{record}.png",
        "edit_type": kind.name,
        "summarized_text": f"{kind.name}, as record {record} asks for it, and nothing else",
    }


def _preference(record: int, url: str) -> dict[str, Any]:
    rejected = [
        f"nano-banana-300k/images/negative-edit/{record}_retry{n}.png"
        for n in range(1, record % 3 + 2)
    ]
    return {**_sft(record, url), "rejected_images": rejected}


def _multi_turn(record: int, url: str) -> dict[str, Any]:
    turns = record % 4 + 2
    names = [f"images/multi-turn/{record}_attemptB_turn{turn + 1}.png" for turn in range(turns)]
    ids = [*(f"edit_turn{turn + 1}" for turn in range(turns - 1)), "final_image"]
    files = [{"id": name, "url": path} for name, path in zip(ids, names, strict=True)]
    prompts = [
        f"Turn {turn} of record {record}: shift the colors of the whole image" for turn in ids
    ]
    return {
        "files": [*files, {"id": "original_input_image", "url": url}],
        "metadata_edit_turn_prompts": prompts,
    }
