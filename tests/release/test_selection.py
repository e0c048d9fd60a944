"""Filters, ids, offset, limit and the split decide which records there are; each alone, purely."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pico_banana.release.records import Record
from pico_banana.release.selection import SPLITS, Selection, split_of
from pico_banana.schema import EDIT_TYPES, category_of
from pico_banana.settings import Settings, build_settings

PHOTO_ID = "00aa11bb22cc33dd"
SHARES = st.floats(0, 1, exclude_max=True)
PHOTOS = st.text(max_size=30) | st.from_regex(r"[0-9]{9}_[0-9a-f]{10}_o\.jpg", fullmatch=True)


def selection(**arguments):
    return Selection(build_settings(Settings, arguments))


def record(number=1, edit_type="Zoom in"):
    url = f"https://farm1.staticflickr.com/1/{number}_o.jpg"
    path = f"images/positive-edit/{number}.png"
    return Record(f"positive-edit/{number}", url, ("p",), (path,), edit_type=edit_type)


# Splits


@given(PHOTOS, SHARES)
def test_split_is_what_the_definition_says(photo, share):
    place = int(hashlib.sha256(photo.encode()).hexdigest()[:16], 16) / 2**64
    assert split_of(photo, share) == ("validation" if place < share else "train")


def test_split_stays_as_it_was():
    photos = [f"{number}_o.jpg" for number in range(12)]
    assert [split_of(photo, 0.5)[0] for photo in photos] == [*"vvvvtttttttt"]


@given(PHOTOS, SHARES, SHARES)
def test_a_growing_share_moves_photos_only_to_validation(photo, one, other):
    small, large = sorted([one, other])
    moved = SPLITS.index(split_of(photo, small)), SPLITS.index(split_of(photo, large))
    assert moved in {(0, 0), (0, 1), (1, 1)}


@given(PHOTOS)
def test_no_share_is_no_validation(photo):
    assert split_of(photo, 0) == split_of(photo, 0.0) == "train"


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_the_share_of_photos_is_about_what_was_asked(share):
    splits = [split_of(f"{number}_0a1b2c_o.jpg", share) for number in range(20_000)]
    assert splits.count("validation") / 20_000 == pytest.approx(share, abs=0.012)


@pytest.mark.parametrize(
    "url",
    [
        "http://farm1.staticflickr.com/1/77_ab_o.jpg",
        "https://c8.staticflickr.com/4/1/77_ab_o.jpg",
        "https://farm1.staticflickr.com/1/77_ab_o.jpg?zz=1",
    ],
)
def test_one_photo_is_on_one_side_whatever_its_address(url):
    assert record()._replace(input_url=url).photo == "77_ab_o.jpg"


# Filters


def test_no_filter_takes_all():
    everything = selection()
    assert everything.passes_types(record(edit_type="never heard of"), None)
    assert everything.passes_types(record(edit_type=None), None)
    assert everything.passes_ids(record(), None)
    assert not everything.excludes(record(), None)
    assert everything.end is None
    assert all(everything.takes(place) for place in range(100))


def test_edit_types():
    chosen = selection(edit_types=["zoom-in", "Clothing edit (change color/outfit)"])
    names = [kind.name for kind in EDIT_TYPES] + ["zoom in", "never heard of", None]
    kept = [name for name in names if chosen.passes_types(record(edit_type=name), None)]
    assert kept == ["Clothing edit (change color/outfit)", "Zoom in"]


def test_edit_categories():
    chosen = selection(edit_categories=["stylistic", "Text & Symbol"])
    kept = [
        kind.category
        for kind in EDIT_TYPES
        if chosen.passes_types(record(edit_type=kind.name), category_of(kind.name))
    ]
    assert kept == ["Stylistic"] * 3 + ["Text & Symbol"] * 4
    assert not chosen.passes_types(record(edit_type="never heard of"), None)


def test_edit_types_and_categories_hold_together():
    both = selection(edit_types=["zoom-in", "change-age-gender"], edit_categories=["human-centric"])
    kept = [
        kind.slug
        for kind in EDIT_TYPES
        if both.passes_types(record(edit_type=kind.name), kind.category)
    ]
    assert kept == ["change-age-gender"]


def test_ids_are_ids_of_records_or_image_ids():
    chosen = selection(ids=["positive-edit/2", PHOTO_ID])
    assert chosen.passes_ids(record(2), None)
    assert chosen.passes_ids(record(3), PHOTO_ID)
    assert not chosen.passes_ids(record(3), None)
    assert not chosen.passes_ids(record(22), "ffffffffffffffff")


def test_exclude_ids_are_ids_of_records_or_image_ids():
    chosen = selection(exclude_ids=["positive-edit/2", PHOTO_ID])
    assert chosen.excludes(record(2), None)
    assert chosen.excludes(record(3), PHOTO_ID)
    assert not chosen.excludes(record(3), None)
    assert chosen.passes_ids(record(2), None)  # it acts after the cut, not as a filter


@pytest.mark.parametrize(
    ("arguments", "taken"),
    [
        ({}, range(10)),
        ({"offset": 3}, range(3, 10)),
        ({"limit": 4}, range(4)),
        ({"offset": 3, "limit": 4}, range(3, 7)),
        ({"offset": 9, "limit": 4}, range(9, 10)),
        ({"offset": 50}, range(0)),
    ],
)
def test_offset_and_limit(arguments, taken):
    chosen = selection(**arguments)
    assert [place for place in range(10) if chosen.takes(place)] == [*taken]


@given(st.integers(0, 50), st.integers(1, 50), st.integers(0, 120))
def test_nothing_is_taken_from_the_end_on(offset, limit, place):
    chosen = selection(offset=offset, limit=limit)
    assert chosen.end == offset + limit
    assert not (place >= chosen.end and chosen.takes(place))


def test_selections_of_equal_settings_are_equal():
    one = selection(ids=["b", "a", "a"], edit_types=["zoom-in"])
    other = selection(ids=["a", "b"], edit_types="Zoom in")
    assert one == other
