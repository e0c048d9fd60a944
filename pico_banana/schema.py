"""Say what an example is: configs, columns, edit types and categories, written once by hand."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pico_banana.input_sources import SOURCES

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

__all__ = [
    "ATTRIBUTION_FIELDS",
    "CONFIGS",
    "EDIT_CATEGORIES",
    "EDIT_TYPES",
    "MEASURES",
    "SCHEMA_VERSION",
    "Column",
    "EditType",
    "Measure",
    "arrow_schema",
    "category_of",
    "columns",
    "features",
    "slug_of",
]

SCHEMA_VERSION = 1
"""Part of every shard's digest: raise it when columns or their meaning change."""

CONFIGS = ("sft", "preference", "multi_turn")
"""The three configs, in the order in which they are converted; the first is the default."""

Kind = Literal["string", "strings", "int32", "int32s", "image", "images", "attribution"]

ATTRIBUTION_FIELDS = ("author", "author_url", "title", "license", "landing_url")
"""The fields of the `attribution` column's struct."""


@dataclass(frozen=True)
class Column:
    """One column: its name, its kind (a plural kind is a list), and what it means, for the card."""

    name: str
    kind: Kind
    meaning: str


@dataclass(frozen=True)
class Measure:
    """What is told of each image, in a column of its own beside it: `input_width` and so on.

    Attributes:
        name: the column's name behind that of the image.
        kind: of one image; of a list of them it is the plural.
        meaning: in words, which the image follows.
    """

    name: str
    kind: Literal["string", "int32"]
    meaning: str


MEASURES = (
    Measure("url", "string", "published address of"),
    Measure("width", "int32", "width in pixels, as decoded, of"),
    Measure("height", "int32", "height in pixels, as decoded, of"),
    Measure("sha256", "string", "sha256, as hex, of the published bytes of"),
)
"""What is told of each image. All but the address are null where its bytes are not there; they are
the `measures` of a `pico_banana.fetching.inspect.Fetched`."""


def _measured(prefix: str, plural: Literal["", "s"] = "") -> list[Column]:
    """The columns that describe one image column: address, size as decoded, hash."""
    plurals: dict[str, Kind] = {"string": "strings", "int32": "int32s"}
    which = f"{'each' if plural else 'the'} {prefix} image"
    return [
        Column(
            f"{prefix}_{measure.name}{plural}",
            plurals[measure.kind] if plural else measure.kind,
            f"{measure.meaning} {which}",
        )
        for measure in MEASURES
    ]


def _input_source() -> Column:
    """The column's values are those of the table of sources."""
    kinds = {source.input_source: source.bytes_are for source in SOURCES.values()}
    meaning = " or ".join(f"`{name}` ({what})" for name, what in kinds.items())
    return Column("input_source", "string", meaning)


_ID = Column(
    "id",
    "string",
    "the edited (chosen, final) image's path in the release, without `images/`, extension and "
    "`_turnN`",
)
_INPUT_IMAGE = Column("input_image", "image", "the photo that was edited")
_ATTRIBUTION = Column(
    "attribution",
    "attribution",
    "author, author_url, title, license and landing_url of the photo",
)


def _input() -> list[Column]:
    image_id = Column("image_id", "string", "Open Images' ImageID of the photo")
    return [image_id, _input_source(), *_measured("input")]


def _single_turn(edited: str, meaning: str) -> list[Column]:
    return [
        _ID,
        _INPUT_IMAGE,
        Column("edit_prompt", "string", "the instruction"),
        Column("short_edit_prompt", "string", "the release's `summarized_text`"),
        Column(f"{edited}_image", "image", meaning),
        Column("edit_type", "string", "one of the release's 35 edit types"),
        Column(
            "edit_category",
            "string",
            "one of the paper's 8 categories; null for a type that it does not name",
        ),
        *_input(),
        *_measured(edited),
        _ATTRIBUTION,
    ]


def _columns(config: str) -> list[Column]:
    if config == "sft":
        return _single_turn("edited", "the result")
    if config == "preference":
        return [
            *_single_turn("chosen", "the result that was accepted"),
            Column("rejected_images", "images", "results that were rejected"),
            *_measured("rejected", plural="s"),
        ]
    return [
        _ID,
        _INPUT_IMAGE,
        Column("edit_prompts", "strings", "the instructions, one a turn"),
        Column(
            "edited_images",
            "images",
            "the results; the i-th is what the i-th prompt made of the image before it",
        ),
        Column("num_turns", "int32", "number of turns"),
        *_input(),
        *_measured("edited", plural="s"),
        _ATTRIBUTION,
    ]


def columns(config: str, *, images: str = "bytes") -> tuple[Column, ...]:
    """Return a config's columns in order; with `images="none"` the image columns are absent."""
    return tuple(
        column
        for column in _columns(config)
        if images != "none" or column.kind not in ("image", "images")
    )


def _arrow_types() -> dict[Kind, pa.DataType]:
    import pyarrow as pa  # noqa: PLC0415  (half a second, which `--help` need not wait for)

    # `datasets` reads image columns only as this struct, in this order, with `binary` (not
    # `large_binary`); anything else loads undecoded.
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return {
        "string": pa.string(),
        "strings": pa.list_(pa.string()),
        "int32": pa.int32(),
        "int32s": pa.list_(pa.int32()),
        "image": image,
        "images": pa.list_(image),
        "attribution": pa.struct([(name, pa.string()) for name in ATTRIBUTION_FIELDS]),
    }


def _value(dtype: str) -> dict[str, Any]:
    return {"dtype": dtype, "_type": "Value"}


# The old spelling of lists, `[{…}]`: `_type: List`, which `datasets` 4.0 and later write, breaks
# loading on 2.21 and 3.6.
_HUGGINGFACE: dict[Kind, Any] = {
    "string": _value("string"),
    "strings": [_value("string")],
    "int32": _value("int32"),
    "int32s": [_value("int32")],
    "image": {"_type": "Image"},
    "images": [{"_type": "Image"}],
    "attribution": {name: _value("string") for name in ATTRIBUTION_FIELDS},
}


@functools.cache
def arrow_schema(config: str, *, images: str = "bytes") -> pa.Schema:
    """Return the Arrow schema of a config, with the `huggingface` metadata that makes Images.

    Every version of `datasets` from 2.21 to 5.2 reads Parquet of this schema with no other help.
    """
    import pyarrow as pa  # noqa: PLC0415

    types, chosen = _arrow_types(), columns(config, images=images)
    info = {"info": {"features": {column.name: _HUGGINGFACE[column.kind] for column in chosen}}}
    return pa.schema(
        [(column.name, types[column.kind]) for column in chosen],
        metadata={"huggingface": json.dumps(info)},
    )


def features(config: str, *, images: str = "bytes") -> datasets.Features:
    """Return a config's `datasets.Features`; the same columns as `arrow_schema`."""
    import datasets  # noqa: PLC0415  (takes a second to import; the converter's workers never need it)

    string, int32 = datasets.Value("string"), datasets.Value("int32")
    made: dict[Kind, Any] = {
        "string": string,
        "strings": [string],
        "int32": int32,
        "int32s": [int32],
        "image": datasets.Image(),
        "images": [datasets.Image()],
        "attribution": dict.fromkeys(ATTRIBUTION_FIELDS, string),
    }
    chosen = columns(config, images=images)
    return datasets.Features({column.name: made[column.kind] for column in chosen})


@dataclass(frozen=True)
class EditType:
    """One of the 35 edit types: exact string, slug, the paper's category, rows in sft.jsonl."""

    name: str
    slug: str
    category: str
    rows: int


def slug_of(name: str) -> str:
    """Return the slug of an edit type or category.

    What stands in brackets and apostrophes are dropped, the rest is lower-cased, and every other
    run outside `[a-z0-9]` becomes one dash: "Zoom in" is `zoom-in`.
    """
    bare = re.sub(r"\([^)]*\)", " ", name).replace("'", "").replace("’", "").lower()  # noqa: RUF001
    return re.sub(r"[^a-z0-9]+", "-", bare).strip("-")


# Strings, counts and order from the release's sft.jsonl (257,730 rows); categories from the paper
# (arXiv 2510.19808). The release's README gives percentages that do not describe these counts.
_TABLE: dict[str, list[tuple[str, int]]] = {
    "Pixel & Photometric": [
        ("Change overall color tone (warm ↔ cool)", 14745),
        ("Add film grain or vintage filter", 15443),
    ],
    "Object-Level Semantic": [
        ("Add a new object to the scene", 14187),
        ("Remove an existing object", 15109),
        ("Replace one object category with another", 14547),
        ("Change an object's attribute (e.g., color/material)", 13813),
        ("Relocate an object (change its position/spatial relation)", 6612),
        ("Change the size/shape/orientation of an object", 10787),
    ],
    "Scene Composition & Multi-Subject": [
        ("Add new scene context/background", 14829),
        ("Apply seasonal transformation (summer ↔ winter)", 13438),
        ("Change weather conditions (sunny/rainy/snowy)", 11992),
        ("Adjust global lighting (golden hour/fluorescent)", 12432),
    ],
    "Stylistic": [
        ("Strong artistic style transfer (e.g., Van Gogh/anime/etc.)", 15284),
        ("Photo to cartoon/sketch/comic", 12735),
        ("Modern ↔ historical style/look", 14856),
    ],
    "Text & Symbol": [
        ("Replace text in signs/posters/billboards", 3494),
        ("Add new (handwritten/printed/etc) text", 3866),
        ("Change font style or color of visible text if there is text", 1431),
        ("Translate written text into other languages", 1897),
    ],
    "Human-Centric": [
        ("Add/Remove/Replace Accessories (glasses, hats, jewelry, masks)", 1597),
        ("Clothing edit (change color/outfit)", 1801),
        ("Pose tweak (minor plausible change)", 1833),
        ("Modify expressions (smile, frown, neutral)", 1526),
        ("Change age / gender", 1685),
        ("Convert person to 2D anime/manga style (identity-preserving)", 1040),
        ("Convert person to Pixar/Disney-like 3D cartoon look", 1036),
        ("Convert person to Western comic cel-shaded style", 982),
        ("Line-art ink sketch of the person", 1482),
        ("Sticker-ify the person with bold outline and white border", 1422),
        ("Caricature with mild feature exaggeration (keep identity)", 832),
        ("Funko-Pop–style toy figure of the person", 1859),  # noqa: RUF001
        ("LEGO-minifigure rendition of the person", 1568),
        ("Simpsonize the person (yellow-skin cartoon style)", 1439),
    ],
    "Scale & Perspective": [("Zoom in", 13729)],
    "Spatial / Layout": [("Outpainting (extend canvas beyond boundaries)", 12402)],
}

EDIT_TYPES: tuple[EditType, ...] = tuple(
    EditType(name, slug_of(name), category, rows)
    for category, types in _TABLE.items()
    for name, rows in types
)
"""The 35 edit types, in the paper's order of categories."""

EDIT_CATEGORIES: tuple[str, ...] = tuple(_TABLE)
"""The 8 categories, in the paper's order."""

_CATEGORY = {edit_type.name: edit_type.category for edit_type in EDIT_TYPES}


def category_of(edit_type: str | None) -> str | None:
    """Return the paper's category of an exact edit type, or None for one that is not known."""
    return _CATEGORY.get(edit_type) if edit_type is not None else None
