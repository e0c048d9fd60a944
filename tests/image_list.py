"""Open Images' list of photos, as a file of some rows."""

import csv

COLUMNS = (
    "ImageID", "Subset", "OriginalURL", "OriginalLandingURL", "License", "AuthorProfileURL",
    "Author", "Title", "OriginalSize", "OriginalMD5", "Thumbnail300KURL", "Rotation",
)  # fmt: skip


def row(number, url, **changes):
    return {
        "ImageID": f"{number:016x}",
        "Subset": "train",
        "OriginalURL": url,
        "OriginalLandingURL": f"https://www.flickr.com/photos/somebody/{number}",
        "License": "https://creativecommons.org/licenses/by/2.0/",
        "AuthorProfileURL": "https://www.flickr.com/people/somebody/",
        "Author": "Somebody",
        "Title": f"Photo {number}",
        "OriginalSize": "1000",
        "OriginalMD5": "1B2M2Y8AsgTpgAmY7PhCfg==",
        "Thumbnail300KURL": "",
        "Rotation": "0.0",
        **changes,
    }


def write(path, rows, columns=COLUMNS):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return str(path)
