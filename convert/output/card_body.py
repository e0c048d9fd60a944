"""Say in the card what a dataset is: licences, counts, columns, how to load it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pico_banana.input_sources import SOURCES, input_sources_of
from pico_banana.missing import MissingReason
from pico_banana.schema import EDIT_CATEGORIES, EDIT_TYPES, category_of, columns

from ..text import short
from .finished import ConfigReport

__all__ = ["card_body", "pushed_body"]

_TYPES = {
    "strings": "list of string",
    "int32s": "list of int32",
    "image": "Image",
    "images": "list of Image",
    "attribution": "struct of string",
}

_INTRODUCTION = """\
Apple's [Pico-Banana-400K](https://github.com/apple/pico-banana-400k), examples of text-guided image
editing: a photo, an instruction, and what an editing model made of it. This is a conversion of the
published files to Parquet with `Image` columns, made by `pico-banana convert`; it is not Apple's
own publication.
"""

_LICENCE = """\
## Licences

- Edited images and texts: **CC BY-NC-ND 4.0**, by Apple: non-commercial use, no derivatives. This
  repository is a change of container and nothing else: every image is the published file, to the
  bit. Passing on resized or re-encoded images is not permitted.
- Photos: [Open Images](https://storage.googleapis.com/openimages/web/index.html), listed there as
  **CC BY 2.0**, by the photographers on Flickr whom the `attribution` column of each row names
  (author, title, licence and landing page), as that licence asks.
"""

_LINKED = """\
## Links, not bytes

{which} an image is an address, `{{bytes: null, path: URL}}`: of Open Images' bucket (or Flickr) for
an input, of the release's CDN for an edit. `datasets` fetches an image from there when its row is
read; sizes and hashes are null. That is for browsing, SQL and sharing, not for training: links are
read one at a time and as fast as their hosts allow, and they die. `pico-banana convert` without
`--images url` makes the edition that holds the bytes.
"""

_WITHOUT = """\
## No images

{which} there are no image columns: texts, addresses and attribution alone. Sizes and hashes are
null.
"""

_LINKED_LICENCE = """\
## Licences

- Edited images and texts: **CC BY-NC-ND 4.0**, by Apple: non-commercial use, no derivatives. The
  texts are here, unchanged; the images are not. What is read from their addresses is under the same
  licence.
- Photos: [Open Images](https://storage.googleapis.com/openimages/web/index.html), listed there as
  **CC BY 2.0**, by the photographers on Flickr whom the `attribution` column of each row names
  (author, title, licence and landing page), as that licence asks.
"""

_REMOVAL = """\
## Removal

Are you the photographer of a photo in here, and want it out? Open a discussion on this repository's
page, or write to its owner, and name the photo's Flickr page or ImageID (columns `attribution` and
`image_id`). Whoever publishes this then runs `pico-banana convert` with `--exclude-ids`, which
makes again only the files that hold the photo. Apple's release and Open Images are published
elsewhere, and must be asked apart.
"""

_CITATION = """\
## Citation

```bibtex
@inproceedings{Qian2025PicoBanana400KAL,
  title={Pico-Banana-400K: A Large-Scale Dataset for Text-Guided Image Editing},
  author={Yusu Qian and Eli Bocek-Rivele and Liangchen Song and Jialing Tong and Yinfei Yang and
          Jiasen Lu and Wenze Hu and Zhe Gan},
  year={2025},
  url={https://api.semanticscholar.org/CorpusID:282272484}
}
```
"""


def card_body(reports: Sequence[ConfigReport], place: str) -> str:
    """Return the Markdown below the front matter; `place` is what `load_dataset` is given."""
    parts = [
        "# Pico-Banana-400K as Parquet\n",
        _INTRODUCTION,
        _progress(reports),
        *[_edition(reports, *about) for about in (("url", _LINKED), ("none", _WITHOUT))],
        _LICENCE if any(report.images == "bytes" for report in reports) else _LINKED_LICENCE,
        _loading(reports, place),
        "## What is in it\n",
        _overview(reports),
        _edit_types(reports),
        _inputs(reports),
        _missing(reports),
        *[_column_table(report.config, report.images) for report in reports],
        _REMOVAL,
        _CITATION,
    ]
    return "\n".join(part for part in parts if part)


def pushed_body(rows: Mapping[str, Mapping[str, int]], place: str) -> str:
    """Return the Markdown of a repository without ledgers, from its rows by config and split."""
    counts = [
        (_Own(f"`{config}`"), _Own(f"`{split}`"), count)
        for config, splits in rows.items()
        for split, count in splits.items()
    ]
    parts = [
        "# Pico-Banana-400K as Parquet\n",
        _INTRODUCTION.replace("`pico-banana convert`", "`push_to_hub` of the loader"),
        _LICENCE,
        _how_to_load([*rows], "input_image", place),
        "## What is in it\n",
        _table(("config", "split", "examples"), counts),
        *[_column_table(config, "bytes") for config in rows],
        _REMOVAL,
        _CITATION,
    ]
    return "\n".join(parts)


def _progress(reports: Sequence[ConfigReport]) -> str:
    """What is to be said while shards are still being made."""
    parts = [
        f"`{report.config}`: {len(report.by_name):,} of {report.planned:,}"
        for report in reports
        if not report.is_whole
    ]
    return f"**Not complete yet.** Files so far: {', '.join(parts)}.\n" if parts else ""


def _edition(reports: Sequence[ConfigReport], images: str, text: str) -> str:
    """What is to be said of the configs whose images are not there as bytes."""
    names = [f"`{report.config}`" for report in reports if report.images == images]
    if not names:
        return ""
    is_all = len(names) == len(reports)
    return text.format(which="Here" if is_all else f"In {', '.join(names)}")


def _loading(reports: Sequence[ConfigReport], place: str) -> str:
    names = [report.config for report in reports if report.splits]
    if not names:
        return ""
    is_bare = all(report.images == "none" for report in reports if report.config == names[0])
    return _how_to_load(names, "input_url" if is_bare else "input_image", place)


def _how_to_load(names: Sequence[str], column: str, place: str) -> str:
    return (
        "## How to load\n\n```python\nfrom datasets import load_dataset\n\n"
        f'ds = load_dataset("{place}", "{names[0]}", split="train", streaming=True)\n'
        f'example = next(iter(ds))\nexample["{column}"], example["id"]\n```\n\n'
        f"Configs: {', '.join(f'`{name}`' for name in names)}. Map-style loading (without "
        "`streaming=True`) copies the data into the cache once more.\n"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines) + "\n"


class _Own(str):
    """Markdown of our own; any other text in a table may be foreign, and is escaped."""

    __slots__ = ()


def _cell(value: Any) -> str:
    """A table cell; markup and control characters of foreign text are made harmless."""
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, _Own):
        return value
    return re.sub(r"([\\`|<>*_\[\]])", r"\\\1", short(str(value)))


def _overview(reports: Sequence[ConfigReport]) -> str:
    rows = [
        (
            _Own(f"`{report.config}`"),
            _Own(f"`{split}`"),
            sum(ledger.rows for ledger in made),
            len(made),
        )
        for report in reports
        for split, made in (report.splits or {"train": []}).items()
    ]
    return _table(("config", "split", "examples", "files"), rows) + _split_note(reports)


def _split_note(reports: Sequence[ConfigReport]) -> str:
    shares = {report.plan["settings"]["validation"] for report in reports} - {0}
    if not shares:
        return ""
    return (
        f"\nThe validation split holds {', '.join(f'{share:.2%}' for share in sorted(shares))} of "
        "the *photos*, chosen by a hash of the photo's file name: a photo is on one side in all "
        "configs.\n"
    )


def _edit_types(reports: Sequence[ConfigReport]) -> str:
    single = [report for report in reports if report.config != "multi_turn"]
    if not single:
        return ""
    counts = {report.config: report.counted("edit_types") for report in single}
    unknown = {name for count in counts.values() for name in count if category_of(name) is None}
    known = [(kind.category, kind.name) for kind in EDIT_TYPES]
    listed = [*known, *sorted(("", str(name)) for name in unknown if name is not None)]
    rows = [(c, n, *[counts[config][n] for config in counts]) for c, n in listed]
    if None in unknown:
        rows.append(("", "(none stated)", *[counts[config][None] for config in counts]))
    totals: dict[str, list[int]] = {name: [0] * len(counts) for name in EDIT_CATEGORIES}
    for place, count in enumerate(counts.values()):
        for name, number in count.items():
            category = category_of(name)
            if category is not None:
                totals[category][place] += number
    return (
        "### Examples by category\n\n"
        + _table(("category", *counts), [(name, *found) for name, found in totals.items()])
        + "\n### Examples by edit type\n\n"
        + _table(("category", "edit type", *counts), rows)
    )


def _inputs(reports: Sequence[ConfigReport]) -> str:
    reports = [report for report in reports if report.images != "none"]
    if not reports:
        return ""
    counts = {report.config: report.counted("input_sources") for report in reports}
    nothing = "missing" if all(report.images == "bytes" for report in reports) else "no address"
    return (
        "### Where input images come from\n\n"
        "The editor saw the Open Images file (longest side at most 1024 pixels); a Flickr original "
        "is the same photo in other bytes.\n\n"
        + _table(
            ("input_source", *counts),
            [
                (
                    _Own(f"`null` ({nothing})" if name is None else f"`{name}`"),
                    *[c[name] for c in counts.values()],
                )
                for name in (*input_sources_of(SOURCES), None)
            ],
        )
    )


def _missing(reports: Sequence[ConfigReport]) -> str:
    reports = [report for report in reports if report.images == "bytes"]
    if not reports:
        return ""
    counts = {report.config: report.missing_images() for report in reports}
    rows = [
        (_Own(f"`{reason.value}`"), *[count[reason.value] for count in counts.values()])
        for reason in MissingReason
        if any(count[reason.value] for count in counts.values())
    ]
    if not rows:
        return "### Missing images\n\nNone.\n"
    return (
        "### Missing images\n\nImages that could not be had, by reason. `on_missing` was "
        + ", ".join(sorted({f"`{report.plan['settings']['on_missing']}`" for report in reports}))
        + ".\n\n"
        + _table(("reason", *counts), rows)
    )


def _column_table(config: str, images: str) -> str:
    rows = [
        (_Own(f"`{column.name}`"), _TYPES.get(column.kind, column.kind), _Own(column.meaning))
        for column in columns(config, images=images)
    ]
    return f"### Columns of `{config}`\n\n" + _table(("column", "type", "meaning"), rows)
