"""Make a small sample release in the release's exact wire format, for the demo and the tests."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import random
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from PIL import Image, ImageEnhance, ImageOps

from pico_banana.schema import EDIT_TYPES
from pico_banana.urls import PUBLISHED_BASE

from .sample_drawing import render
from .sample_scenes import EDITS, Edit, Scene, make_scene

__all__ = ["SampleRelease", "make_sample_release"]

Size = tuple[int, int]

_FILE_NAMES = {"sft": "sft", "preference": "preference", "multi_turn": "multi-turn"}
_CSV_COLUMNS = [
    "ImageID",
    "Subset",
    "OriginalURL",
    "OriginalLandingURL",
    "License",
    "AuthorProfileURL",
    "Author",
    "Title",
    "OriginalSize",
    "OriginalMD5",
    "Thumbnail300KURL",
    "Rotation",
]
_AUTHORS = ("Jörg Müller", 'Ann "Annie" O\'Neil', "Lee, Kim & Co.", "山田 太郎", "plainname")
_TITLES = ("A house, a tree, and a sign", 'The "old" road', "Été à la campagne", "雨の日", "")
_ROTATIONS = ("0.0", "", "90.0", "0.0", "270.0")
_OTHER_PHOTOS = 20
_EXIF_ORIENTATION = 0x0112
_ENDINGS = (
    "Keep everything else in the picture exactly as it is, and match perspective and light.",
    "The edit must blend in seamlessly, without visible seams or artefacts.",
    "Preserve the composition, the camera's position and all other details.",
)
# Edits that can follow each other without one undoing what another is about.
_TURNS = (
    "change-an-objects-attribute",
    "replace-one-object-category-with-another",
    "add-a-new-object-to-the-scene",
    "change-the-size-shape-orientation-of-an-object",
    "add-new-scene-context-background",
    "apply-seasonal-transformation",
    "replace-text-in-signs-posters-billboards",
    "add-remove-replace-accessories",
    "clothing-edit",
    "pose-tweak",
    "modify-expressions",
    "zoom-in",
)
_LAST_TURNS = (
    "change-overall-color-tone",
    "adjust-global-lighting",
    "modern-historical-style-look",
    "strong-artistic-style-transfer",
)
_ODD_NAME = "a b#c?d%20é"


@dataclass(frozen=True)
class SampleRelease:
    """Where a sample release lies, and what is in it.

    Attributes:
        root: the folder that everything lies under.
        cdn: folder with `jsonl/`, `manifest/` and `images/`: what `cdn` takes.
        open_images: folder with `train_0/<ImageID>.jpg` and `train_1/…`: what `open_images` takes.
        metadata_csv: the image list in Open Images' columns: what `open_images_metadata` takes.
        flickr: the larger Flickr originals at `<host>/<path of the URL>`.
        good: number of lines that are records, by config (sft, preference, multi_turn).
        bad: number of lines that are none, blank ones not counted, by config.
    """

    root: Path
    cdn: Path
    open_images: Path
    metadata_csv: Path
    flickr: Path
    good: dict[str, int]
    bad: dict[str, int]


@dataclass(frozen=True)
class _Photo:
    """One source photo: `shown` is the picture as a viewer sees it, after EXIF."""

    image_id: str
    url: str
    scene: Scene
    shown: Image.Image


@dataclass
class _Lines:
    """The lines of one JSONL file, with their ends."""

    config: str
    raw: list[bytes] = field(default_factory=list)
    good: int = 0
    bad: int = 0

    def add(self, record: Mapping[str, Any], end: bytes = b"\n", *, escape: bool = False) -> None:
        self.raw.append(_line(record, escape=escape) + end)
        self.good += 1

    def add_bad(self, record: Mapping[str, Any] | bytes) -> None:
        raw = record if isinstance(record, bytes) else _line(record)
        self.raw.append(raw + b"\n")
        self.bad += 1


def _line(record: Mapping[str, Any], *, escape: bool = False) -> bytes:
    return json.dumps(record, ensure_ascii=escape).encode()


def make_sample_release(  # noqa: PLR0913  # keyword-only counts, each with a default
    root: Path,
    *,
    sft: int = 35,
    preference: int = 6,
    multi_turn: int = 4,
    photos: int = 10,
    size: Size = (320, 240),
    seed: int = 0,
    quirks: bool = False,
) -> SampleRelease:
    """Write a sample release under `root` and return where its parts lie.

    The same arguments (and version of Pillow) give the same bytes. Sft records cycle through all
    35 edit types. Records stand in ImageID order, several of one photo together. The first photo
    has an EXIF orientation that turns it. Nothing is fetched.

    Args:
        root: a folder, made where it is absent; files of the same names are overwritten.
        sft: number of sft records.
        preference: number of preference records, each with 1 to 3 rejected images.
        multi_turn: number of multi_turn records, each with 2 to 5 turns.
        photos: number of source photos, at least 1; the image list has 20 rows more.
        size: width and height in px; no photo's side is longer than the longer one.
        seed: decides scenes, names and the order of the manifests.
        quirks: add, after the regular records, odd lines that must load and bad ones that must be
            reported; the last line then has no line end, and the files begin with a BOM.

    Raises:
        ValueError: `photos` is below 1.
    """
    if photos < 1:
        raise ValueError(f"photos must be at least 1, but got {photos}")
    counts = {"sft": sft, "preference": preference, "multi_turn": multi_turn}
    writer = _Writer(Path(root), random.Random(seed), seed)  # noqa: S311  # seeded, not secret
    writer.make_photos(photos, size)
    release = SampleRelease(
        writer.root, writer.cdn, writer.open_images, writer.metadata_csv, writer.flickr, {}, {}
    )
    for config, count in counts.items():
        lines = _Lines(config)
        for index in range(count):
            lines.add(writer.record(config, index, index * photos // count))
        if quirks:
            (_multi_turn_quirks if config == "multi_turn" else _single_quirks)(lines, writer)
        body = (b"\xef\xbb\xbf" if quirks else b"") + b"".join(lines.raw)
        _write(writer.cdn / "jsonl" / f"{_FILE_NAMES[config]}.jsonl", body)
        writer.write_manifest(config)
        release.good[config], release.bad[config] = lines.good, lines.bad
    return release


def _write(path: Path, body: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)


class _Writer:
    """Writes photos, edited images and manifests, and makes the records that name them."""

    def __init__(self, root: Path, rng: random.Random, seed: int) -> None:
        self.root = root
        self.cdn = root / "cdn"
        self.open_images = root / "open_images"
        self.metadata_csv = root / "train-images-boxable-with-rotation.csv"
        self.flickr = root / "flickr"
        self.photos: list[_Photo] = []
        self._rng = rng
        self._seed = seed
        self._number = 0
        self._rejected = 0
        self._conversation = 100
        self._listed: dict[str, list[str]] = {config: [] for config in _FILE_NAMES}

    # Photos and the image list

    def make_photos(self, count: int, size: Size) -> None:
        """Write `count` photos as Open Images and Flickr have them, and the image list."""
        rng, (w, h) = self._rng, size
        side = min(w, h)
        shapes = [(w, h), (w, h * 7 // 8), (h, w), (w, h), (side, side)]
        ids = sorted(f"{i % 2}{rng.getrandbits(60):015x}" for i in range(count))
        rows = [self._other_row(i) for i in range(_OTHER_PHOTOS)]
        for index, image_id in enumerate(ids):
            shape = shapes[index % len(shapes)]
            scene = make_scene(self._seed * 1000 + index)
            large = render(scene, shape, (shape[0] * 3 // 2, shape[1] * 3 // 2))
            shown = large.resize(shape, Image.Resampling.LANCZOS)
            url = self._url(index)
            split = urlsplit(url)
            original = self.flickr / split.netloc / split.path.lstrip("/")
            _save_jpeg(large, original, quality=92, turned=index == 0)
            small = self.open_images / f"train_{image_id[0]}" / f"{image_id}.jpg"
            _save_jpeg(shown, small, quality=88, turned=index == 0)
            self.photos.append(_Photo(image_id, url, scene, shown))
            rows.append(self._row(index, image_id, url, original.read_bytes()))
        with self.metadata_csv.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(_CSV_COLUMNS)
            table.writerows(sorted(rows))

    def _url(self, index: int) -> str:
        number = self._rng.randrange(10**9, 10**10)
        name = f"{number}_{self._rng.getrandbits(40):010x}_o.jpg"
        folder = self._rng.randrange(1000, 9999)
        if index % 3 == 1:
            return f"https://c{1 + index % 8}.staticflickr.com/{1 + index % 9}/{folder}/{name}"
        return f"https://farm{1 + index % 9}.staticflickr.com/{folder}/{name}"

    def _row(self, index: int, image_id: str, url: str, original: bytes) -> list[str]:
        user = f"{10_000_000 + index * 7919}@N0{index % 9}"
        number = url.rpartition("/")[2].partition("_")[0]
        md5 = hashlib.md5(original, usedforsecurity=False).digest()
        return [
            image_id,
            "train",
            url,
            f"https://www.flickr.com/photos/{user}/{number}",
            "https://creativecommons.org/licenses/by/2.0/",
            f"https://www.flickr.com/people/{user}/",
            _AUTHORS[index % len(_AUTHORS)],
            _TITLES[index % len(_TITLES)],
            str(len(original)),
            base64.b64encode(md5).decode(),
            url.replace("_o.jpg", "_z.jpg") if index % 4 else "",
            _ROTATIONS[index % len(_ROTATIONS)],
        ]

    def _other_row(self, index: int) -> list[str]:
        image_id = f"{self._rng.getrandbits(64):016x}"
        return self._row(index, image_id, self._url(index), self._rng.randbytes(64 + index))

    # Records and their images

    def record(
        self, config: str, index: int, photo: int, stem: str | None = None
    ) -> dict[str, Any]:
        """Return a record of a photo, its images written; `stem` is used in place of a new name."""
        source = self.photos[photo % len(self.photos)]
        if config == "multi_turn":
            return self._multi_turn(index, source, stem)
        kind = EDIT_TYPES[(index if config == "sft" else index * 6 + 2) % len(EDIT_TYPES)]
        edit = EDITS[kind.slug]
        scene = edit.apply(source.scene)
        path = f"images/positive-edit/{stem or self._stem(index)}.png"
        edited = self._draw(config, path, source, scene, index)
        short = edit.short.format(scene=source.scene)
        record: dict[str, Any] = {
            "open_image_input_url": source.url,
            "text": _long(edit, short, index),
            "output_image": path,
            "edit_type": kind.name,
            "summarized_text": short,
        }
        if config == "preference":
            record["rejected_images"] = self._reject(index, source, edit, edited)
        return record

    def _stem(self, index: int) -> str:
        self._number += self._rng.randrange(3, 900)
        if index % 4 == 2:  # noqa: PLR2004  # a quarter of the published names are like this
            letters = self._rng.choices(string.ascii_lowercase + string.digits, k=6)
            return f"{''.join(letters)}_retry{1 + index % 3}"
        return str(self._number)

    def _draw(
        self, config: str, path: str, source: _Photo, scene: Scene, index: int
    ) -> Image.Image:
        shape = source.shown.size
        picture = render(scene, shape, _edited_size(shape, scene, index))
        self.save(config, path, picture)
        return picture

    def save(self, config: str, path: str, picture: Image.Image) -> None:
        """Write an image of the release, and list it in the config's manifest."""
        target = self.cdn / path
        target.parent.mkdir(parents=True, exist_ok=True)
        picture.save(target, compress_level=4)
        self._listed[config].append(path)

    def _reject(self, index: int, source: _Photo, edit: Edit, edited: Image.Image) -> list[str]:
        """Write 1 to 3 worse edits: nothing done, something else done, or overdone."""
        other = EDITS[_TURNS[index % len(_TURNS)]]
        if other is edit:
            other = EDITS[_TURNS[(index + 1) % len(_TURNS)]]
        shape = source.shown.size
        overdone = ImageEnhance.Contrast(ImageOps.posterize(edited, 2)).enhance(1.8)
        pictures = [
            overdone,
            source.shown.resize(edited.size),
            render(other.apply(source.scene), shape, edited.size),
        ]
        paths = []
        for number in range(1 + index % 3):
            self._rejected += self._rng.randrange(1, 40)
            path = f"images/rejected-edit/{self._rejected}.png"
            self.save("preference", path, pictures[(index + number) % len(pictures)])
            paths.append(f"nano-banana-300k/{path}")
        return paths

    def _multi_turn(self, index: int, source: _Photo, stem: str | None) -> dict[str, Any]:
        turns = 2 + index % 4
        slugs = [*self._rng.sample(_TURNS, turns - 1), self._rng.choice(_LAST_TURNS)]
        self._conversation += self._rng.randrange(1, 30)
        stem = stem or f"{self._conversation}_attempt{'AB'[index % 2]}_turn{{turn}}"
        scene, prompts, files = source.scene, [], []
        for turn, slug in enumerate(slugs, start=1):
            prompts.append(EDITS[slug].short.format(scene=scene).rstrip("."))
            scene = EDITS[slug].apply(scene)
            path = f"images/multi-turn/{stem.format(turn=turn)}.png"
            self._draw("multi_turn", path, source, scene, index)
            files.append({"id": f"edit_turn{turn}", "url": path})
        files[-1]["id"] = "final_image"
        files.append({"id": "original_input_image", "url": source.url})
        if index % 2:
            self._rng.shuffle(files)
        return {"files": files, "metadata_edit_turn_prompts": prompts}

    def write_manifest(self, config: str) -> None:
        """Write the addresses of the config's images, in another order than its records'."""
        paths = sorted(set(self._listed[config]), key=lambda path: (path[::-1], path))
        if paths == self._listed[config]:
            paths.reverse()
        urls = "".join(f"{PUBLISHED_BASE}{quote(path)}\n" for path in paths)
        _write(self.cdn / "manifest" / f"{config}_manifest.txt", urls.encode())


def _save_jpeg(picture: Image.Image, path: Path, *, quality: int, turned: bool) -> None:
    exif = Image.Exif()
    if turned:  # stored lying on its side, with the tag that tells viewers to turn it clockwise
        picture = picture.transpose(Image.Transpose.ROTATE_90)
        exif[_EXIF_ORIENTATION] = 6
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, "JPEG", quality=quality, exif=exif)


def _edited_size(shape: Size, scene: Scene, index: int) -> Size:
    """Return a size near the photo's, in multiples of 16, as the editor makes them."""
    wide, high = ((1.125, 1.0), (1.0, 1.0), (1.05, 1.1))[index % 3]
    width = shape[0] * wide * (1 + 2 * scene.margin)
    return max(1, round(width / 16)) * 16, max(1, round(shape[1] * high / 16)) * 16


def _long(edit: Edit, short: str, index: int) -> str:
    return f"{short.rstrip('.')}, {edit.detail}. {_ENDINGS[index % len(_ENDINGS)]}"


def _without(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != name}


def _published(path: str) -> str:
    return PUBLISHED_BASE + quote(path)


def _single_quirks(lines: _Lines, writer: _Writer) -> None:
    """Add odd and bad lines to sft or preference."""
    config, tag = lines.config, "" if lines.config == "sft" else "-2"
    made = iter(range(10**6))

    def fresh(stem: str | None = None) -> dict[str, Any]:
        index = next(made)
        return writer.record(config, index, index, stem)

    repeated, absolute, http = fresh(), fresh(), fresh()
    lines.add(fresh(), b"\r\n")
    lines.raw += [b"\n", b"\r\n"]
    lines.add({**fresh(), "editor": {"name": "unknown", "tries": [1, 2]}, "score": None})
    lines.add({**fresh(), "summarized_text": None})
    lines.add(_without(fresh(), "summarized_text"))
    lines.add({**fresh(), "edit_type": "Turn day into night"})
    lines.add({**fresh(), "edit_type": None})
    lines.add({**http, "open_image_input_url": "http" + http["open_image_input_url"][5:]})
    lines.add({**absolute, "output_image": _published(absolute["output_image"])})
    lines.add(repeated)
    lines.add({**repeated, "text": f"{repeated['text']} Keep the picture's size."})
    lines.add({**fresh(), "text": "Make it warmer \ud800 please."}, escape=True)
    lines.add({**fresh(), "text": "Make it \u0000 colder."}, escape=True)
    lines.add(fresh(f"{_ODD_NAME}{tag}"))
    if config == "preference":
        _rejected_quirks(lines, writer, fresh(), fresh())
    good = fresh()
    _bad_lines(lines, good)
    lines.add_bad(_without(good, "output_image"))
    lines.add_bad({**good, "text": 5})
    lines.add_bad({**good, "output_image": "../../etc/passwd"})
    lines.add_bad({**good, "open_image_input_url": "file:///etc/passwd"})
    lines.add(good, b"")


def _rejected_quirks(
    lines: _Lines, writer: _Writer, alone: dict[str, Any], elsewhere: dict[str, Any]
) -> None:
    lines.add({**alone, "rejected_images": alone["rejected_images"][0]})
    first = elsewhere["rejected_images"][0].removeprefix("nano-banana-300k/")
    with Image.open(writer.cdn / first) as picture:
        writer.save("preference", "images/rejected-edit/zz1.png", picture)
    lines.add({**elsewhere, "rejected_images": ["nano-banana-300k/rejected-edit/zz1.png"]})
    lines.add_bad(_without(alone, "rejected_images"))


def _multi_turn_quirks(lines: _Lines, writer: _Writer) -> None:
    """Add odd and bad lines to multi_turn."""
    made = iter(range(10**6))

    def fresh(stem: str | None = None) -> dict[str, Any]:
        index = next(made)
        return writer.record("multi_turn", index, index, stem)

    prompts = "metadata_edit_turn_prompts"
    repeated, absolute, http = fresh(), fresh(), fresh()
    lines.add(fresh(), b"\r\n")
    lines.raw += [b"\n", b"\r\n"]
    extra = fresh()
    files = [{**file, "kind": "png"} for file in extra["files"]]
    lines.add({**extra, "files": files, "score": None})
    photo = _url_of(http, "original_input_image")
    lines.add(_with_url(http, "original_input_image", "http" + photo[5:]))
    lines.add(_with_url(absolute, "final_image", _published(_url_of(absolute, "final_image"))))
    lines.add(repeated)
    lines.add({**repeated, prompts: [f"{prompt}, gently" for prompt in repeated[prompts]]})
    for text in ("Make it warmer \ud800 please", "Make it \u0000 colder"):
        record = fresh()
        lines.add({**record, prompts: [text, *record[prompts][1:]]}, escape=True)
    lines.add(fresh(_ODD_NAME + "_turn{turn}"))
    lines.add(fresh("7_attemptA_turn{turn}_retry2"))
    good = fresh()
    _bad_lines(lines, good)
    lines.add_bad(_without(good, "files"))
    without_last = [file for file in good["files"] if file["id"] != "final_image"]
    lines.add_bad({**good, "files": without_last})
    lines.add_bad({**good, prompts: "Make it warmer"})
    lines.add_bad({**good, prompts: [*good[prompts], "One turn more"]})
    lines.add_bad(_with_url(good, "final_image", "../../etc/passwd"))
    lines.add_bad(_with_url(good, "original_input_image", "file:///etc/passwd"))
    lines.add(good, b"")


def _bad_lines(lines: _Lines, good: Mapping[str, Any]) -> None:
    """Add the lines that are bad in every config."""
    raw = _line(good)
    lines.add_bad(b"<html>503 Service Unavailable</html>")
    lines.add_bad(b'["a list", "is no record"]')
    lines.add_bad(raw[:-1] + b', "note": "\xff\xfe"}')  # not UTF-8
    lines.add_bad(raw[: len(raw) // 2])


def _url_of(record: Mapping[str, Any], name: str) -> str:
    return next(str(file["url"]) for file in record["files"] if file["id"] == name)


def _with_url(record: Mapping[str, Any], name: str, url: str) -> dict[str, Any]:
    files = [{**file, "url": url} if file["id"] == name else file for file in record["files"]]
    return {**record, "files": files}
