"""Reads output folders with plain `datasets`, where nothing of this project is installed.

    python -I tests/read_back.py OUT EXPECTED.json

`make versions` runs it on each version of `datasets` that constraints/ names. EXPECTED.json holds
`{"configs": {config: {split: [row, …]}}}`; a row's image is `{"path": …, "sha256": …}` or null.
Beside OUT lies a link edition, links/, which is loaded by the name of its folder, its images served
by tests/fake_cdn.py; there an image is `{"path": URL, "file": …}`, a file below links/served.
Needs only the standard library, `datasets`, pillow, aiohttp and requests. Exits with a message at
the first fault.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile

# `datasets` reads these when it is imported. Nothing may land in the user's cache, or come from it.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="read-back-")
os.environ["HF_DATASETS_CACHE"] = os.path.join(os.environ["HF_HOME"], "datasets")
os.environ["HF_MODULES_CACHE"] = os.path.join(os.environ["HF_HOME"], "modules")
os.environ["HF_HUB_OFFLINE"] = "1"

import datasets
from PIL import Image, ImageOps

SERVER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fake_cdn.py")
OURS = ("pico_banana_400k", "pico_banana", "convert", "configs")


def main(out: str, expected_path: str) -> None:
    """Compare every row of `out` with the expected ones, then print one line."""
    for name in OURS:
        require(importlib.util.find_spec(name) is None, f"{name} must not be importable here")
    datasets.disable_progress_bars()
    with open(expected_path, encoding="utf-8") as file:
        configs = json.load(file)["configs"]
    same(sorted(configs), sorted(datasets.get_dataset_config_names(out)), "configs")
    rows = 0
    for config, splits in configs.items():
        same(sorted(splits), sorted(datasets.get_dataset_split_names(out, config)), config)
        for split, expected in splits.items():
            rows += len(expected)
            for streaming in (False, True):
                way = "streaming" if streaming else "map-style"
                ds = datasets.load_dataset(out, config, split=split, streaming=streaming)
                compare_bytes(undecoded(ds), expected, f"{config}, {split}, {way}")
                compare_sizes(ds, expected, f"{config}, {split}, {way}, decoded")
    print(  # noqa: T201
        f"datasets {datasets.__version__}: {rows} rows of {len(configs)} configs read back, "
        "map-style and streaming, all equal"
    )
    links = os.path.join(os.path.dirname(os.path.abspath(out)), "links")
    with subprocess.Popen(
        [sys.executable, "-I", SERVER, "--mount", f"/={os.path.join(links, 'served')}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        # Links name a host that is nowhere; what answers for it has another port at each run.
        os.environ |= {"http_proxy": server.stdout.readline().strip(), "no_proxy": ""}
        read_links(links)
        server.stdin.close()


def read_links(folder: str) -> None:
    """Load the link edition from its parent folder, and compare every row and every pixel."""
    os.chdir(folder)
    with open("expected.json", encoding="utf-8") as file:
        configs = json.load(file)["configs"]
    rows = 0
    for config, splits in configs.items():
        for split, expected in splits.items():
            rows += len(expected)
            for streaming in (False, True):
                where = f"links, {config}, {split}, {'streaming' if streaming else 'map-style'}"
                ds = datasets.load_dataset(
                    "pico_banana_400k", config, split=split, streaming=streaming
                )
                compare_links(undecoded(ds), expected, where)
                compare_pixels(ds, expected, f"{where}, decoded")
    print(  # noqa: T201
        f"datasets {datasets.__version__}: {rows} rows of links by name, map-style and streaming, "
        "all pixels equal"
    )


def compare_links(ds, expected, where) -> None:
    """Compare every column of every row; an image is an address and has no bytes."""
    images = image_columns(ds)
    for row, want, place in pairs(ds, expected, where):
        same(sorted(want), sorted(row), f"{place}: columns")
        for column, value in row.items():
            wanted = want[column]
            if column in images:
                wanted = each(wanted, lambda image: {"bytes": None, "path": image["path"]})
            same(wanted, value, f"{place}: {column}")


def compare_pixels(ds, expected, where) -> None:
    """Compare every picture that a link leads to with the published one."""
    images = image_columns(ds)
    for row, want, place in pairs(ds, expected, where):
        for column in images:
            wanted = each(want[column], lambda image: pixels(published(image["file"])))
            same(wanted, each(row[column], pixels), f"{place}: pixels of {column}")


def published(file):
    """Return a published picture as `datasets` decodes it."""
    with Image.open(os.path.join("served", file)) as image:
        return ImageOps.exif_transpose(image)


def pixels(image) -> tuple:
    """Return a picture's size and the digest of its pixels."""
    return image.size, hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()


def undecoded(ds):
    """Return `ds` with its images as `{bytes, path}`."""
    for column, feature in ds.features.items():
        if isinstance(feature, datasets.Image):
            ds = ds.cast_column(column, datasets.Image(decode=False))
        elif is_image_list(feature):
            image = datasets.Image(decode=False)
            # before 4.0 a list's feature is a list, since then a List
            images = [image] if isinstance(feature, list) else type(feature)(image)
            ds = ds.cast_column(column, images)
    return ds


def is_image_list(feature) -> bool:
    """Tell whether a feature is a list of images, in the spelling of any version."""
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    return isinstance(inner, datasets.Image)


def compare_bytes(ds, expected, where) -> None:
    """Compare every column of every row; images by base name and by the digest of their bytes."""
    images = image_columns(ds)
    for row, want, place in pairs(ds, expected, where):
        same(sorted(want), sorted(row), f"{place}: columns")
        for column, value in row.items():
            got = each(value, digest) if column in images else value
            same(want[column], got, f"{place}: {column}")


def compare_sizes(ds, expected, where) -> None:
    """Compare the size of every decoded picture with the row's width and height columns."""
    images = image_columns(ds)
    for row, _, place in pairs(ds, expected, where):
        for column in images:
            stem, plural = (column[:-1], "s") if column.endswith("images") else (column, "")
            stem = stem[: -len("_image")]
            got = each(row[column], lambda image: image.size)
            widths, heights = row[f"{stem}_width{plural}"], row[f"{stem}_height{plural}"]
            if plural and got is not None:
                want = [size(*pair) for pair in zip(widths, heights, strict=True)]
            else:
                want = size(widths, heights)
            same(want, got, f"{place}: size of {column}")


def image_columns(ds) -> list[str]:
    """Return the names of the columns that hold an image or a list of images."""
    return [
        column
        for column, feature in ds.features.items()
        if isinstance(feature, datasets.Image) or is_image_list(feature)
    ]


def pairs(ds, expected, where):
    """Yield (row, expected row, place) in order, one row in memory at a time; count them too."""
    count = 0
    for count, row in enumerate(ds, 1):
        require(count <= len(expected), f"{where}: must have {len(expected)} rows, but got more")
        yield row, expected[count - 1], f"{where}, row {count - 1}"
    same(len(expected), count, f"{where}: rows")


def each(value, function):
    """Apply `function` to an image, or to every image of a list; nulls stay null."""
    if isinstance(value, list):
        return [each(image, function) for image in value]
    return None if value is None else function(value)


def digest(image) -> dict:
    """Return what EXPECTED.json says of an image."""
    return {"path": image["path"], "sha256": hashlib.sha256(image["bytes"]).hexdigest()}


def size(width, height):
    """Return a picture's size, or None where there is no picture."""
    return None if width is None or height is None else (width, height)


def same(want, got, place) -> None:
    """Exit with a message where two values differ."""
    require(want == got, f"{place}: must be {want!r}, but got {got!r}")


def require(condition, message) -> None:
    """Exit with the version and `message` where a condition does not hold."""
    if not condition:
        sys.exit(f"datasets {datasets.__version__}: {message}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    finally:
        shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)
