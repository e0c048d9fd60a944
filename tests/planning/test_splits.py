"""No photo is on both sides of a split, whatever its address, config and selection."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
from contextlib import nullcontext
from types import SimpleNamespace

import datasets
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

import pico_banana_400k
from pico_banana.convert.demo.sample_release import make_sample_release
from pico_banana.convert.options import ConvertSettings
from pico_banana.convert.planning.make_plan import make_plan
from pico_banana.reading.load_report import LoadReport
from pico_banana.reading.reader import Reader
from pico_banana.release.files import Release
from pico_banana.schema import CONFIGS, EDIT_TYPES
from pico_banana.settings import Settings, build_settings
from tests import release_lines
from tests.commands import pico_banana, quick_settings, release_flags

FILES = {"sft": "sft", "preference": "preference", "multi_turn": "multi-turn"}
SPLITS = ("train", "validation")


def name_of(url):
    """The last segment of the path, by other means than the code that is tested."""
    return os.path.basename(url.split("?", 1)[0])


def side_of(url, share):
    """Straight from the definition in the README, as somebody else would write it."""
    digest = hashlib.sha256(name_of(url).encode("utf-8")).digest()
    number = 0
    for byte in digest[:8]:
        number = number * 256 + byte
    return "validation" if number / 2**64 < share else "train"


def place_of(name):
    """The smallest share that a photo is *not* in validation with."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) / 2**64


# A photo's name, and the ways to spell its address

NAMES = st.builds(
    "{}_{:010x}_o.{}".format,
    st.integers(10**8, 10**11),
    st.integers(0, 2**40 - 1),
    st.sampled_from(["jpg", "jpg", "jpg", "png", "JPG"]),
)
SCHEMES = st.sampled_from(["https", "http", "HTTPS", "HTTP", "Https"])
HOSTS = st.one_of(
    st.integers(1, 9).map("farm{}.staticflickr.com/{{}}".format),
    st.integers(1, 8).map(lambda n: f"c{n}.staticflickr.com/{n % 9 + 1}/{{}}"),
    st.just("live.staticflickr.com/{}"),
    st.just("FARM2.StaticFlickr.com/{}"),
)
QUERIES = st.sampled_from(["", "", "", "?zz=1", "?", "?a=b&c=d", "?next=/1/2_o.jpg", "?x?y/z"])


@st.composite
def spelled(draw, names):
    folder = draw(HOSTS).format(draw(st.integers(1, 9999)))
    return f"{draw(SCHEMES)}://{folder}/{draw(names)}{draw(QUERIES)}"


KINDS = [kind.name for kind in EDIT_TYPES[:3]]


@st.composite
def releases(draw):
    """For each config its records as (URL, edit type), of photos that the configs share."""
    names = st.sampled_from(draw(st.lists(NAMES, min_size=1, max_size=8, unique=True)))
    records = st.lists(st.tuples(spelled(names), st.sampled_from(KINDS)), max_size=12)
    return {config: draw(records) for config in CONFIGS}


@st.composite
def releases_and_shares(draw):
    """A release and two shares, also just at the place of one of its photos."""
    release = draw(releases())
    photos = sorted({name_of(url) for records in release.values() for url, _ in records})
    edges = [place_of(name) for name in photos]
    edges += [math.nextafter(edge, 1) for edge in edges]
    shares = st.floats(0, 1, exclude_max=True)
    if edges:
        shares |= st.sampled_from([edge for edge in edges if edge < 1])
    return release, *sorted([draw(shares), draw(shares)])


def line(config, number, url, kind):
    if config == "multi_turn":
        files = [entry for entry in release_lines.multi_turn()["files"] if "edit" in entry["id"]]
        files += [{"id": "final_image", "url": f"images/multi-turn/{number}_turn3.png"}]
        files += [{"id": "original_input_image", "url": url}]
        return release_lines.multi_turn(files=files)
    make = release_lines.sft if config == "sft" else release_lines.preference
    path = f"images/positive-edit/{number}.png"
    return make(open_image_input_url=url, output_image=path, edit_type=kind)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A release whose JSONL files each example writes anew, and which has no image."""
    root = tmp_path_factory.mktemp("splits")
    (root / "jsonl").mkdir()
    (root / "manifest").mkdir()
    for config in CONFIGS:
        (root / "manifest" / f"{config}_manifest.txt").touch()
    arguments = {
        "cdn": root,
        "open_images_metadata": "none",
        "input_sources": ["flickr"],
        "mirrors": {"*": os.fspath(root / "nothing")},
        "on_missing": "null",
    }
    return SimpleNamespace(root=root, arguments=arguments)


def write(place, release):
    for config, records in release.items():
        lines = [json.dumps(line(config, n, *record)) for n, record in enumerate(records)]
        path = place.root / "jsonl" / f"{FILES[config]}.jsonl"
        path.write_text("".join(f"{one}\n" for one in lines), encoding="utf-8")


def planned(place, config, **arguments):
    """The places (from 0) of the records that the converter puts into each split."""
    if config == "multi_turn":
        arguments.pop("edit_types", None)
    made = build_settings(ConvertSettings, {**place.arguments, **arguments})
    path = os.fspath(place.root / "jsonl" / f"{FILES[config]}.jsonl")
    plan = make_plan(config, made, path, Release(made).manifest(config), None)
    assert not plan.bad
    found = {split: [] for split in SPLITS}
    for shard in plan.shards:
        found[shard.split] += [number - 1 for number in shard.numbers]
    return found


def split_of_each(place, config, **arguments):
    """The split of each record that is taken, by its place."""
    found = planned(place, config, **arguments)
    sides = [(number, split) for split, numbers in found.items() for number in numbers]
    assert len(dict(sides)) == len(sides)  # no record twice
    return dict(sides)


def loaded(place, config, split, **arguments):
    """The URLs of the rows that the loader gives of a split; no image is there."""
    made = build_settings(Settings, {**place.arguments, **arguments})
    reader = Reader(config, made, local=False, progress=lambda _: nullcontext(lambda *_: None))
    rows = reader.examples(reader.ranges(), split, LoadReport(), strict=False)
    return [row["input_url"] for _, row in rows]


# What holds for every release and share


@settings(max_examples=60)
@given(releases_and_shares())
def test_no_photo_is_on_both_sides_and_a_growing_share_moves_none_back(place, drawn):
    release, small, large = drawn
    write(place, release)
    photos = {share: {split: set() for split in SPLITS} for share in (small, large)}
    for config, records in release.items():
        for share, found in photos.items():
            sides = split_of_each(place, config, validation=share)
            assert [*sorted(sides)] == [*range(len(records))]
            for number, split in sides.items():
                url = records[number][0]
                assert split == side_of(url, share), url
                found[split].add(name_of(url))
    for found in photos.values():
        assert not found["train"] & found["validation"]
    assert photos[small]["validation"] <= photos[large]["validation"]
    assert photos[large]["train"] <= photos[small]["train"]


SELECTED = st.fixed_dictionaries(
    {},
    optional={
        "edit_types": st.lists(st.sampled_from(KINDS), min_size=1),
        "ids": st.lists(
            st.integers(0, 11).flatmap(
                lambda n: st.sampled_from([f"positive-edit/{n}", f"multi-turn/{n}"])
            ),
            min_size=1,
        ),
        "exclude_ids": st.lists(st.integers(0, 11).map("positive-edit/{}".format)),
        "offset": st.integers(0, 8),
        "limit": st.integers(1, 8),
        "records_per_shard": st.integers(1, 5),
    },
)


@pytest.mark.long
@settings(max_examples=60)
@given(releases_and_shares(), SELECTED)
def test_the_side_is_the_same_under_every_selection(place, drawn, selected):
    release, share, _ = drawn
    write(place, release)
    for config in CONFIGS:
        every = split_of_each(place, config, validation=share)
        some = split_of_each(place, config, validation=share, **selected)
        assert some.items() <= every.items()


@settings(max_examples=30)
@given(releases_and_shares())
def test_the_loader_splits_as_the_converter_does(place, drawn):
    release, share, _ = drawn
    write(place, release)
    for config, records in release.items():
        found = planned(place, config, validation=share)
        for split in SPLITS:
            urls = [records[number][0] for number in found[split]]
            assert loaded(place, config, split, validation=share) == urls


@pytest.mark.long
@settings(max_examples=30)
@given(releases())
@example({config: [] for config in CONFIGS})
def test_without_a_share_there_is_no_validation(place, release):
    write(place, release)
    for config, records in release.items():
        for share in (0, 0.0):
            assert planned(place, config, validation=share) == {
                "train": [*range(len(records))],
                "validation": [],
            }


PHOTOS = 12_000


@pytest.fixture(scope="module")
def many(place):
    """Many photos, each in one config."""
    urls = [f"https://farm{n % 9 + 1}.staticflickr.com/{n}/{n * 7919}_0f_o.jpg" for n in range(PHOTOS)]  # fmt: skip  # noqa: E501
    write(place, {c: [(url, KINDS[0]) for url in urls[k::3]] for k, c in enumerate(CONFIGS)})
    return place


@pytest.mark.parametrize("share", [0.001, 0.01, 0.05, 0.3, 0.5, 0.9, 0.999])
def test_about_the_share_of_the_photos_is_in_validation(many, share):
    counts = [len(planned(many, config, validation=share)["validation"]) for config in CONFIGS]
    # Seven standard deviations of chance: once in 10^11 releases.
    assert abs(sum(counts) - share * PHOTOS) < 7 * math.sqrt(PHOTOS * share * (1 - share))


# From end to end: what is written, and what is loaded

SHARE = 0.35
SPELLINGS = (
    "https://farm3.staticflickr.com/{}/{}",
    "http://c{2}.staticflickr.com/{2}/{0}/{1}",
    "https://live.staticflickr.com/{}/{}",
    "HTTPS://farm8.staticflickr.com/{}/{}?zz=1",
    "http://farm1.staticflickr.com/{}/{}?from=/a/b_o.jpg",
)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A release of all configs, in which the lines spell the hosts of the same photos anew."""
    root = tmp_path_factory.mktemp("release")
    made = make_sample_release(
        root, sft=60, preference=30, multi_turn=20, photos=20, size=(48, 32), seed=5
    )
    spellings = itertools.cycle(SPELLINGS)
    for config in CONFIGS:
        path = made.cdn / "jsonl" / f"{FILES[config]}.jsonl"
        records = [json.loads(one) for one in path.read_text(encoding="utf-8").splitlines()]
        for number, record in enumerate(records):
            files = record.get("files", [])
            holder = next((one for one in files if one["id"] == "original_input_image"), record)
            key = "url" if holder is not record else "open_image_input_url"
            holder[key] = next(spellings).format(number, name_of(holder[key]), number % 8 + 1)
        lines = "".join(f"{json.dumps(record)}\n" for record in records)
        path.write_text(lines, encoding="utf-8")
    return made


def converted(release, out, share, *flags):
    words = ["convert", "all", *release_flags(release), *quick_settings(out.parent)]
    ended = pico_banana(*words, "--output", out, "--validation", str(share), *flags)
    assert ended.code == 0, ended.err
    return {
        config: {
            split: [
                url
                for path in sorted((out / config).glob(f"{split}-*.parquet"))
                for url in pq.read_table(path, columns=["input_url"])["input_url"].to_pylist()
            ]
            for split in SPLITS
        }
        for config in CONFIGS
    }


def names(found, split):
    return {name_of(url) for urls in found.values() for url in urls[split]}


# Of the library's own code.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_parquet_and_loader_hold_no_photo_on_both_sides(release, tmp_path):
    out = tmp_path / "out"
    found = converted(release, out, SHARE, "--records-per-shard", "7")
    counts = {config: sum(map(len, splits.values())) for config, splits in found.items()}
    assert counts == {"sft": 60, "preference": 30, "multi_turn": 20}
    for config, splits in found.items():
        for split, urls in splits.items():
            assert urls, f"{config} {split} must show something"
            assert {side_of(url, SHARE) for url in urls} == {split}
    assert not names(found, "train") & names(found, "validation")
    assert len(names(found, "train") | names(found, "validation")) == 20
    # The same photo does stand in several configs, under several addresses.
    urls = {url for splits in found.values() for urls in splits.values() for url in urls}
    assert len(urls) > 60

    arguments = {
        "cdn": os.fspath(release.cdn),
        "open_images": os.fspath(release.open_images),
        "open_images_metadata": os.fspath(release.metadata_csv),
    }
    for config, split in itertools.product(CONFIGS, SPLITS):
        rows = pico_banana_400k.load(
            config, split=split, streaming=True, validation=SHARE, **arguments
        )
        assert [row["input_url"] for row in rows] == found[config][split]
        again = datasets.load_dataset(os.fspath(out), config, split=split, streaming=True)
        assert [row["input_url"] for row in again] == found[config][split]


@pytest.mark.long
def test_a_larger_share_and_a_selection_move_no_photo_back(release, tmp_path):
    small = converted(release, tmp_path / "small", 0.2)
    large = converted(release, tmp_path / "large", 0.5)
    picked = ("--offset", "3", "--limit", "15", "--records-per-shard", "4")
    some = converted(release, tmp_path / "some", 0.2, *picked)
    assert names(small, "validation") < names(large, "validation")
    assert names(large, "train") < names(small, "train")
    for split in SPLITS:
        assert names(some, split) <= names(small, split)
    every = converted(release, tmp_path / "none", 0)
    assert not names(every, "validation")
    assert names(every, "train") == names(small, "train") | names(small, "validation")


def test_the_card_says_what_the_validation_split_is(release, tmp_path):
    converted(release, tmp_path / "with", SHARE)
    converted(release, tmp_path / "without", 0)
    card = (tmp_path / "with" / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(card.split("---\n")[1])
    for config in head["configs"]:
        assert [one["split"] for one in config["data_files"]] == [*SPLITS]
    (said,) = [text for text in card.split("\n\n") if text.startswith("The validation split")]
    for words in ("35.00%", "*photos*", "hash of the photo's file name", "in all configs"):
        assert words in " ".join(said.split())
    card = (tmp_path / "without" / "README.md").read_text(encoding="utf-8")
    assert "validation" not in card
