"""Make an image list of Open Images' size, and sft records that link to its photos; seeded."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import random
from pathlib import Path

from pico_banana.schema import EDIT_TYPES

ROWS, RECORDS, PHOTOS = 1_743_042, 257_730, 130_000
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
    rng = random.Random(2)
    photos = min(PHOTOS, len(urls))
    chosen = sorted(rng.sample(range(len(urls)), photos))
    with path.open("w", encoding="utf-8") as file:
        for record in range(records):
            kind = EDIT_TYPES[record % len(EDIT_TYPES)]
            line = {
                "open_image_input_url": urls[chosen[record * photos // records]],
                "text": f"{kind.name}: change the picture so that record {record} is told apart, "
                "and keep everything else in it exactly as it is, light and perspective too.",
                "output_image": f"images/positive-edit/{record}.png",
                "edit_type": kind.name,
                "summarized_text": f"{kind.name}, {record}",
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
