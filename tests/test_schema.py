"""The columns are written once, and stay as they are; `python -m tests.test_schema --regenerate`.

The golden files say what Parquet files of each config declare. Regenerate them only together with
a new SCHEMA_VERSION: a changed column is another dataset to everyone who has loaded one.
"""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pico_banana.schema import (
    CONFIGS,
    EDIT_CATEGORIES,
    EDIT_TYPES,
    SCHEMA_VERSION,
    arrow_schema,
    category_of,
    columns,
    features,
    slug_of,
)

GOLDEN = Path(__file__).parent / "golden"
KINDS = ("bytes", "none")  # with image columns, and without; `url` has the same as `bytes`


def described(config, images):
    schema = arrow_schema(config, images=images)
    declared = json.loads(schema.metadata[b"huggingface"])
    lines = [f"version: {SCHEMA_VERSION}", *[f"{field.name}: {field.type}" for field in schema]]
    return "\n".join([*lines, "", json.dumps(declared, indent=1), ""])


@pytest.mark.parametrize("images", KINDS)
@pytest.mark.parametrize("config", CONFIGS)
def test_schema_is_the_golden_one(config, images):
    golden = (GOLDEN / f"{config}-{images}.txt").read_text(encoding="utf-8")
    assert described(config, images) == golden


@pytest.mark.parametrize("images", ["bytes", "url", "none"])
@pytest.mark.parametrize("config", CONFIGS)
def test_features_are_the_arrow_schema(config, images):
    schema = arrow_schema(config, images=images)
    assert features(config, images=images).arrow_schema.equals(schema, check_metadata=False)


@pytest.mark.parametrize("images", ["bytes", "url", "none"])
@pytest.mark.parametrize("config", CONFIGS)
def test_datasets_reads_the_features_out_of_a_parquet_file(config, images, tmp_path):
    from datasets import Dataset  # noqa: PLC0415  (a second that only these tests need)

    schema = arrow_schema(config, images=images)
    pq.write_table(
        pa.table({field.name: pa.nulls(1, field.type) for field in schema}, schema=schema),
        tmp_path / "row.parquet",
    )
    loaded = Dataset.from_parquet(str(tmp_path / "row.parquet"), cache_dir=str(tmp_path / "cache"))
    assert loaded.features == features(config, images=images)
    assert loaded[0] == dict.fromkeys(loaded.column_names)


@pytest.mark.parametrize("config", CONFIGS)
def test_metadata_spells_lists_as_the_oldest_datasets_does(config):
    assert b'"List"' not in arrow_schema(config).metadata[b"huggingface"]


@pytest.mark.parametrize("config", CONFIGS)
def test_without_images_only_the_image_columns_are_absent(config):
    every = columns(config)
    left = columns(config, images="none")
    gone = [column.name for column in every if column not in left]
    assert left == tuple(column for column in every if column.kind not in {"image", "images"})
    assert all("image" in name for name in gone)
    assert "input_image" in gone
    assert columns(config, images="url") == every


def test_trainers_find_their_default_columns():
    names = [column.name for column in columns("sft")]
    assert {"input_image", "edit_prompt", "edited_image"} < set(names)
    assert len(names) == len(set(names))


def test_the_35_edit_types_have_35_slugs_and_257730_rows():
    assert len(EDIT_TYPES) == len({kind.name for kind in EDIT_TYPES}) == 35
    assert len({kind.slug for kind in EDIT_TYPES}) == 35
    assert sum(kind.rows for kind in EDIT_TYPES) == 257_730
    assert {kind.category for kind in EDIT_TYPES} == set(EDIT_CATEGORIES)
    assert len({slug_of(category) for category in EDIT_CATEGORIES}) == 8


def test_rows_of_a_category_are_what_the_release_holds():
    rows = dict.fromkeys(EDIT_CATEGORIES, 0)
    for kind in EDIT_TYPES:
        rows[kind.category] += kind.rows
    assert rows == {
        "Pixel & Photometric": 30_188,
        "Object-Level Semantic": 75_055,
        "Scene Composition & Multi-Subject": 52_691,
        "Stylistic": 42_875,
        "Text & Symbol": 10_688,
        "Human-Centric": 20_102,
        "Scale & Perspective": 13_729,
        "Spatial / Layout": 12_402,
    }


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Zoom in", "zoom-in"),
        ("Change overall color tone (warm ↔ cool)", "change-overall-color-tone"),
        (
            "Change an object's attribute (e.g., color/material)",
            "change-an-objects-attribute",
        ),
        ("Modern ↔ historical style/look", "modern-historical-style-look"),
        ("Change age / gender", "change-age-gender"),
        ("Add new (handwritten/printed/etc) text", "add-new-text"),
        ("Funko-Pop–style toy figure of the person", "funko-pop-style-toy-figure-of-the-person"),  # noqa: RUF001
        ("Object-Level Semantic", "object-level-semantic"),
        ("(all in brackets)", ""),
    ],
)
def test_slug(name, slug):
    assert slug_of(name) == slug


def test_category_of_an_unknown_type_is_null():
    assert category_of("Zoom in") == "Scale & Perspective"
    assert category_of("zoom in") is None
    assert category_of(None) is None


if __name__ == "__main__":
    if sys.argv[1:] != ["--regenerate"]:
        sys.exit("usage: python -m tests.test_schema --regenerate")
    GOLDEN.mkdir(exist_ok=True)
    for config in CONFIGS:
        for images in KINDS:
            path, new = GOLDEN / f"{config}-{images}.txt", described(config, images)
            old = path.read_text(encoding="utf-8") if path.exists() else ""
            if old and old != new and old.splitlines()[0] == new.splitlines()[0]:
                sys.exit(f"{path.name} would change: raise SCHEMA_VERSION in pico_banana/schema.py")
            path.write_text(new, encoding="utf-8")
