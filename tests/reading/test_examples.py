"""What a user sees of a record: its row, by what came of its images."""

import itertools

import pytest

from pico_banana.errors import MissingImageError
from pico_banana.fetching.inspect import Fetched
from pico_banana.fetching.sources import Sources
from pico_banana.missing import Missing, MissingReason
from pico_banana.open_images.index import Photo
from pico_banana.reading.examples import image_refs, make_example
from pico_banana.release.records import Line, Record
from pico_banana.schema import CONFIGS, MEASURES, arrow_schema, columns
from pico_banana.settings import Settings, build_settings
from pico_banana.urls import PUBLISHED_BASE

INPUT_URL = "https://farm3.staticflickr.com/12/345_ab_o.jpg?x=1"
PHOTO = Photo(
    "0a1b2c3d4e5f6071",
    "Ann",
    "https://ann.example",
    "Sea",
    "CC BY 2.0",
    "https://land.example",
    "md5",
    9,
    INPUT_URL,
)
EDIT_TYPE = "Zoom in"
RECORDS = {
    "sft": Record(
        "positive-edit/7", INPUT_URL, ("long",), ("images/positive-edit/7.png",), "short",
        edit_type=EDIT_TYPE, line=Line(0, b"", 12),
    ),
    "preference": Record(
        "positive-edit/7", INPUT_URL, ("long",), ("images/positive-edit/7.png",), "short",
        tuple(f"images/rejected-edit/{number}.png" for number in range(3)), EDIT_TYPE,
    ),
    "multi_turn": Record(
        "multi-turn/7", INPUT_URL, ("one", "two", "three"),
        tuple(f"images/multi-turn/7_turn{number}.png" for number in (1, 2, 3)),
    ),
}  # fmt: skip
EDITED = {"sft": "edited_image", "preference": "chosen_image", "multi_turn": "edited_images"}
MEASURED = [measure.name for measure in MEASURES]  # the address first


def had(url, name, number, way="cdn"):
    known = {"sha256": f"{number:064x}", "width": 100 + number, "height": 200 + number}
    others = {one.name: str(number) if one.kind == "string" else number for one in MEASURES}
    measures = {**others, **known}
    return Fetched(url, name, b"bytes %d" % number, measures, None, way, 1)


def absent(url, reason=MissingReason.NOT_FOUND):
    return Missing(url, reason, 1, url, "status 404")


def found_of(record, missing=(), way="bucket"):
    """Return an entry for each image, those at the places in `missing` missing."""
    refs = image_refs(record, PHOTO, Sources(build_settings(Settings, {})))
    return [
        absent(ref.url) if at in missing else had(ref.url, ref.name, at, "cdn" if at else way)
        for at, ref in enumerate(refs)
    ]


def make(config, missing=(), on_missing="skip", photo=PHOTO, **options):
    record = RECORDS[config]
    return make_example(config, record, photo, found_of(record, missing, **options), on_missing)


# ---- rows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS)
def test_a_row_has_the_columns_of_its_config(config):
    row = make(config).row
    assert row.keys() == {column.name for column in columns(config)}
    table = arrow_schema(config)
    assert row.keys() == set(table.names)


def test_the_images_of_a_record_are_its_input_then_edits_then_rejected_ones():
    refs = image_refs(RECORDS["preference"], PHOTO, Sources(build_settings(Settings, {})))
    assert [ref.url for ref in refs] == [
        INPUT_URL,
        f"{PUBLISHED_BASE}images/positive-edit/7.png",
        *[f"{PUBLISHED_BASE}images/rejected-edit/{number}.png" for number in range(3)],
    ]


def test_an_sft_row():
    example = make("sft")
    assert example.missing == ()
    assert example.way == "bucket"
    assert example.row == {
        "id": "positive-edit/7",
        "input_image": {"bytes": b"bytes 0", "path": "0a1b2c3d4e5f6071.jpg"},
        "edit_prompt": "long",
        "short_edit_prompt": "short",
        "edited_image": {"bytes": b"bytes 1", "path": "7.png"},
        "edit_type": EDIT_TYPE,
        "edit_category": "Scale & Perspective",
        "image_id": "0a1b2c3d4e5f6071",
        "input_source": "open_images",
        "input_url": INPUT_URL,
        "input_width": 100,
        "input_height": 200,
        "input_sha256": f"{0:064x}",
        "edited_url": f"{PUBLISHED_BASE}images/positive-edit/7.png",
        "edited_width": 101,
        "edited_height": 201,
        "edited_sha256": f"{1:064x}",
        "attribution": {
            "author": "Ann",
            "author_url": "https://ann.example",
            "title": "Sea",
            "license": "CC BY 2.0",
            "landing_url": "https://land.example",
        },
    }


def test_a_multi_turn_row():
    row = make("multi_turn").row
    assert row["edit_prompts"] == ["one", "two", "three"]
    assert row["num_turns"] == 3
    assert [image["path"] for image in row["edited_images"]] == [
        "7_turn1.png",
        "7_turn2.png",
        "7_turn3.png",
    ]
    assert row["edited_widths"] == [101, 102, 103]


@pytest.mark.parametrize(
    ("way", "source", "path"),
    [
        ("folder", "open_images", "0a1b2c3d4e5f6071.jpg"),
        ("bucket", "open_images", "0a1b2c3d4e5f6071.jpg"),
        ("flickr", "flickr", "345_ab_o.jpg"),
    ],
)
@pytest.mark.parametrize("config", CONFIGS)
def test_source_and_name_of_the_input_go_by_the_way_it_came(config, way, source, path):
    example = make(config, way=way)
    assert example.way == way
    assert example.row["input_source"] == source
    assert example.row["input_image"]["path"] == path
    assert example.row["input_url"] == INPUT_URL


@pytest.mark.parametrize("config", CONFIGS)
def test_an_unknown_photo_has_neither_id_nor_attribution(config):
    row = make(config, photo=None, way="flickr").row
    assert (row["image_id"], row["attribution"], row["input_source"]) == (None, None, "flickr")


def test_an_unknown_edit_type_has_no_category():
    record = RECORDS["sft"]._replace(edit_type="Fold the sky", short_prompt=None)
    row = make_example("sft", record, PHOTO, found_of(record), "skip").row
    assert (row["edit_type"], row["edit_category"]) == ("Fold the sky", None)
    assert row["short_edit_prompt"] is None


# ---- missing images ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "place"),
    [(config, place) for config in CONFIGS for place in range(len(RECORDS[config].edited) + 1)],
)
def test_skip_leaves_out_an_example_without_a_needed_image(config, place):
    example = make(config, {place})
    assert example.row is None
    ((column, missing),) = example.missing
    assert column == (EDITED[config] if place else "input_image")
    assert missing.reason is MissingReason.NOT_FOUND
    assert example.way == ("bucket" if place else None)


@pytest.mark.parametrize("gone", [{0}, {1}, {2}, {0, 2}, {1, 2}])
def test_skip_takes_a_missing_rejected_image_out_of_all_its_lists(gone):
    example = make("preference", {2 + number for number in gone})
    left = [number for number in range(3) if number not in gone]
    row = example.row
    assert row["rejected_images"] == [
        {"bytes": b"bytes %d" % (2 + number), "path": f"{number}.png"} for number in left
    ]
    assert row["rejected_urls"] == [
        f"{PUBLISHED_BASE}images/rejected-edit/{number}.png" for number in left
    ]
    assert row["rejected_widths"] == [102 + number for number in left]
    assert row["rejected_heights"] == [202 + number for number in left]
    assert row["rejected_sha256s"] == [f"{2 + number:064x}" for number in left]
    assert [column for column, _ in example.missing] == ["rejected_images"] * len(gone)


def test_skip_leaves_out_a_preference_without_any_rejected_image():
    example = make("preference", {2, 3, 4})
    assert example.row is None
    assert len(example.missing) == 3


def test_a_preference_that_never_had_rejected_images_stays():
    record = RECORDS["preference"]._replace(rejected=())
    row = make_example("preference", record, PHOTO, found_of(record), "skip").row
    assert row["rejected_images"] == row["rejected_urls"] == []


@pytest.mark.parametrize("config", CONFIGS)
def test_null_keeps_every_example_and_every_place(config):
    record = RECORDS[config]
    places = range(len(record.edited) + len(record.rejected) + 1)
    whole = make(config).row
    for size in range(len(places) + 1):
        for missing in map(set, itertools.combinations(places, size)):
            example = make(config, missing, "null")
            assert len(example.missing) == size
            expected = with_nulls(config, whole, missing)
            assert example.row == expected


def with_nulls(config, row, missing):
    """Return a whole row with nulls where images are missing; URLs stay."""
    row = dict(row)
    edits = len(RECORDS[config].edited)
    if 0 in missing:
        row |= {"input_image": None, "input_source": None}
        row |= {f"input_{name}": None for name in MEASURED[1:]}
    for place in missing - {0}:
        if place > edits:
            null_at(row, "rejected", place - edits - 1)
        elif config == "multi_turn":
            null_at(row, "edited", place - 1)
        else:
            prefix = EDITED[config].removesuffix("_image")
            row |= {f"{prefix}_{name}": None for name in ("image", *MEASURED[1:])}
    return row


def null_at(row, prefix, place):
    for name in ("images", *[f"{name}s" for name in MEASURED[1:]]):
        values = list(row[f"{prefix}_{name}"])
        values[place] = None
        row[f"{prefix}_{name}"] = values


@pytest.mark.parametrize("config", CONFIGS)
def test_fail_raises_at_the_first_missing_image(config):
    last = len(RECORDS[config].edited) + len(RECORDS[config].rejected)
    with pytest.raises(MissingImageError, match="on_missing is fail") as raised:
        make(config, {last}, "fail")
    assert raised.value.reason == "not_found"
    assert raised.value.url == found_of(RECORDS[config])[last].url
    assert make(config, on_missing="fail").row == make(config).row


def test_the_failure_names_column_record_and_line():
    with pytest.raises(MissingImageError, match=r"input_image of positive-edit/7 \(line 12\)"):
        make("sft", {0, 1}, "fail")
