"""Whatever the files and the arguments hold: nothing crashes, and every line has one fate."""

import itertools
import json
import os
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pico_banana.convert.options import ConvertSettings
from pico_banana.convert.output.ledger import Ledger, line_numbers
from pico_banana.convert.output.store import Store
from pico_banana.convert.output.verify import verify
from pico_banana.convert.planning.make_plan import make_plan
from pico_banana.errors import SettingError, UsageError
from pico_banana.open_images.index import open_index
from pico_banana.reading.load_report import LoadReport
from pico_banana.reading.reader import Reader
from pico_banana.release.files import Release
from pico_banana.release.records import BadRecord, Record
from pico_banana.release.selection import SPLITS, split_of
from pico_banana.schema import CONFIGS, EDIT_TYPES
from pico_banana.settings import Settings, build_settings, read_settings_file
from tests import image_list, release_lines
from tests.odd_lines import VALUES, as_line, lines_of

FILES = {"sft": "sft", "preference": "preference", "multi_turn": "multi-turn"}


def url(number):
    return f"https://farm{number % 9}.staticflickr.com/{number}/{number}_0a1b2c_o.jpg"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A release whose JSONL files each example writes anew, and which has no image."""
    root = tmp_path_factory.mktemp("place")
    (root / "cdn" / "jsonl").mkdir(parents=True)
    (root / "cdn" / "manifest").mkdir()
    for config in CONFIGS:
        (root / "cdn" / "manifest" / f"{config}_manifest.txt").write_text(
            "https://h/images/a/listed.png\n", encoding="utf-8"
        )
    # Photos of even numbers are listed.
    rows = [image_list.row(number, url(number)) for number in range(0, 12, 2)]
    listed = image_list.write(root / "list.csv", rows)
    given_always = {
        "cdn": root / "cdn",
        "open_images_metadata": listed,
        "input_sources": ["bucket", "flickr"],
        "mirrors": {"*": os.fspath(root / "nothing")},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PICO_BANANA_CACHE", os.fspath(root / "cache"))
        index = open_index(listed, {})
    return SimpleNamespace(root=root, arguments=given_always, index=index)


def written(place, config, data):
    path = place.root / "cdn" / "jsonl" / f"{FILES[config]}.jsonl"
    path.write_bytes(data)
    return os.fspath(path)


def planned(place, config, data, **arguments):
    made = build_settings(ConvertSettings, {**place.arguments, **arguments})
    release = Release(made)
    path = written(place, config, data)
    return made, make_plan(config, made, path, release.manifest(config), place.index)


# Any bytes

ENDS = st.sampled_from([b"\n", b"\n", b"\r\n", b"\r", b"\n\n", b""])


@st.composite
def files(draw):
    config = draw(st.sampled_from(CONFIGS))
    lines = draw(st.lists(st.tuples(lines_of(config), ENDS), max_size=12))
    begin = draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf", b"\xff\xfe"]))
    return config, begin + b"".join(part for line in lines for part in line)


SELECTIONS = st.fixed_dictionaries(
    {},
    optional={
        "offset": st.integers(0, 4),
        "limit": st.integers(1, 4),
        "validation": st.sampled_from([0, 0.3, 0.7]),
        "exclude_ids": st.just(["positive-edit/71", "multi-turn/12_attemptA"]),
        "records_per_shard": st.integers(1, 3),
    },
)


@pytest.mark.long
@settings(max_examples=300)
@given(files(), SELECTIONS)
def test_many_bytes_are_planned_and_every_line_has_one_fate(place, given_file, selection):
    assert_one_fate(place, given_file, selection)


@settings(max_examples=30)
@given(files(), SELECTIONS)
@example(("sft", b""), {})
@example(("sft", b"\xef\xbb\xbf"), {})
@example(("sft", b"a" * (4 * 2**20 + 1) + b"\n{}\n" + as_line("sft", {}, ()).encode()), {})
def test_any_bytes_are_planned_and_every_line_has_one_fate(place, given_file, selection):
    assert_one_fate(place, given_file, selection)


def assert_one_fate(place, given_file, selection):
    config, data = given_file
    made, plan = planned(place, config, data, **selection)
    left_out, filtered, bad = map(len, (plan.left_out, plan.filtered, plan.bad))
    assert plan.lines == bad + filtered + left_out + plan.records
    fates = [*plan.blank, *plan.filtered, *plan.left_out, *(one.line.number for one in plan.bad)]
    fates += [number for shard in plan.shards for number in shard.numbers]
    assert sorted(fates) == [*range(1, len(fates) + 1)]
    assert len(fates) == data.count(b"\n") + (data != b"" and not data.endswith(b"\n"))
    # What is written of it says the same to somebody who has the output alone.
    store = Store(os.fspath(place.root / "out"))
    Ledger(store, config).write_plan(plan.to_json())
    accounts, faults = verify(store, decode=False)
    said = list(faults)
    (account,) = [one for one in accounts if one.config == config]
    assert (
        account.lines
        == plan.lines
        == account.bad
        + account.filtered
        + account.left_out
        + sum(
            sum(1 for _ in line_numbers(shard["lines"]))
            for shard in Ledger(store, config).read_plan()["shards"]
        )
    )
    assert [fault for fault in said if "not finished" not in fault and "card" not in fault] == []
    # And a reader of any parts of it sees the same lines.
    release = Release(made)
    half = len(data) // 2
    for edges in ((0, None), (0, half, None)):
        pairs = itertools.pairwise(edges)
        found = [one for pair in pairs for one in release.records(config, *pair)]
        assert Counter(map(type, found))[BadRecord] == bad
        assert len(found) == plan.lines
        assert all(isinstance(one, (Record, BadRecord)) for one in found)


# Any settings

WORDS = st.sampled_from(
    [
        *("", "skip", "null", "bytes", "bucket", "flickr", "folder", "zoom-in", "none", "all"),
        *("http://h", "http://[", "s3://k:s@b/x", "file:///x", "~", "~\x00", "\ud800", "@", "@x"),
        *("@\x00", "1", "-1", "nan", "1e400", "0.5", "{host}", "*", "[", "http://h:99999/x"),
    ]
)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=6)
    | st.binary(max_size=4) | st.sampled_from([10**400, -(2**63), object, Path("x"), {1, 2}])
)  # fmt: skip
ANY = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(WORDS | st.text(max_size=4) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)
FETCH = st.dictionaries(
    st.sampled_from([*build_settings(ConvertSettings, {}).fetch.model_dump(), "nonsense"]) | WORDS,
    ANY | st.dictionaries(WORDS, st.dictionaries(st.sampled_from(["connections", "x"]), ANY)),
    max_size=4,
)
FIELDS = [*ConvertSettings.model_fields, "edit_type", "self", "", "model_config", "\ud800"]
ARGUMENTS = st.dictionaries(st.sampled_from(FIELDS), ANY, max_size=4)


def built(arguments, file=None):
    """Settings, or the error that names what is wrong; anything else is a fault."""
    try:
        found = build_settings(ConvertSettings, arguments, file)
    except SettingError as error:
        return str(error).startswith(error.name)
    found.for_config("sft")
    return ConvertSettings.model_validate(found.model_dump()) == found


@pytest.mark.long
@settings(max_examples=500)
@given(ARGUMENTS, ARGUMENTS | st.none(), FETCH | ANY)
def test_many_arguments_give_settings_or_say_what_is_wrong(arguments, file, fetch):
    assert built(arguments, file)
    assert built({**arguments, "fetch": fetch}, file)


@settings(max_examples=50)
@given(ARGUMENTS, ARGUMENTS | st.none(), FETCH | ANY)
@example({}, None, {"hosts": {"x": {"connections": 10**400}}})
@example({"cdn": b""}, None, {})
@example({"cdn": b"http://me:secret@h"}, None, {})
def test_any_arguments_give_settings_or_say_what_is_wrong(arguments, file, fetch):
    assert built(arguments, file)
    assert built({**arguments, "fetch": fetch}, file)


YAML = st.one_of(
    st.text(max_size=60),
    st.text("{}[]:,-#&*!|>'\"%@`? \n\tab0.~", max_size=40),
    st.lists(
        st.builds(
            lambda name, text: f"{name}: {text}\n",
            st.sampled_from([name for name in FIELDS if name.isidentifier()]),
            VALUES | WORDS | st.text("{}[]:,-&*!ab01 .~", max_size=12),
        ),
        max_size=3,
    ).map("".join),
    st.sampled_from(["!!int x", "!!timestamp x", "!!bool x", "!!binary é", "!!float ''"]).map(
        lambda value: f"limit: {value}\n"
    ),
    st.sampled_from(["2001-99-99", "1:99:99", "9" * 5000, "[" * 2000, "{a: " * 2000, "&a [*a]"]),
)


@settings(max_examples=200)
@given(YAML)
@example("limit: 2001-99-99\n")
@example("limit: !!int ''\n")
@example("ids: &a [*a]\n")
def test_any_settings_file_gives_settings_or_says_what_is_wrong(place, text):
    path = place.root / "own.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        values = read_settings_file(os.fspath(path))
    except UsageError as error:
        assert "own.yaml" in str(error)  # noqa: PT017
    else:
        assert built({}, values)


# Any selection

KINDS = [kind.name for kind in EDIT_TYPES[:3]]
RECORDS = st.one_of(
    st.just("bad"),
    st.just("blank"),
    st.tuples(st.integers(0, 11), st.sampled_from([*KINDS, "never heard of", None])),
)
IDS = st.sampled_from([f"a/{n}" for n in range(0, 30, 3)] + [f"{n:016x}" for n in range(0, 12, 2)])
ASKED = st.fixed_dictionaries(
    {"records_per_shard": st.integers(1, 5)},
    optional={
        "edit_types": st.lists(st.sampled_from(KINDS), min_size=1),
        "ids": st.lists(IDS, min_size=1, max_size=12),
        "exclude_ids": st.lists(IDS, max_size=4),
        "offset": st.integers(0, 12),
        "limit": st.integers(1, 12),
        "validation": st.sampled_from([0.0, 0.2, 0.5, 0.9]),
    },
)


def release_of(drawn):
    """The file's bytes, and its good records as (line number, offset, id, photo, edit type)."""
    data, good = b"", []
    for number, one in enumerate(drawn, start=1):
        if isinstance(one, tuple):
            photo, kind = one
            path = f"images/a/{number % 30}.png"  # some twice
            fields = release_lines.sft(
                open_image_input_url=url(photo), output_image=path, edit_type=kind
            )
            good.append((number, len(data), f"a/{number % 30}", photo, kind))
            data += json.dumps(fields).encode()
        data += {"bad": b"{}", "blank": b" "}.get(one if isinstance(one, str) else "", b"") + b"\n"
    return data, good


def expected_of(good, asked):
    """By plain words: line numbers filtered, left out, and in each shard of each split."""
    filtered, left_out, kept = [], [], []
    for one in good:
        number, _, name, photo, kind = one
        names = {name, *([f"{photo:016x}"] if photo % 2 == 0 else [])}
        passes = kind in asked.get("edit_types", [kind])
        passes = passes and (asked.get("ids") is None or names & set(asked["ids"]))
        (kept if passes else filtered).append((one, names) if passes else number)
    begin = asked.get("offset", 0)
    end = begin + asked["limit"] if "limit" in asked else len(kept)
    left_out += [one[0] for one, _ in kept[:begin] + kept[end:]]
    shards = {}
    size = asked["records_per_shard"]
    for split in SPLITS:
        mine = [
            (one, names)
            for one, names in kept[begin:end]
            if split_of(Path(url(one[3])).name, asked.get("validation", 0)) == split
        ]
        for place in range(0, len(mine), size):
            part = mine[place : place + size]
            out = [one[0] for one, names in part if names & set(asked.get("exclude_ids", []))]
            left_out += out
            shards.setdefault(split, []).append([one for one, _ in part if one[0] not in out])
    return filtered, sorted(left_out), shards


@pytest.mark.long
@settings(max_examples=200)
@given(st.lists(RECORDS, max_size=40), ASKED)
def test_many_selections_are_what_the_words_say_in_plan_and_loader(place, drawn, asked):
    assert_selected(place, drawn, asked)


@settings(max_examples=20)
@given(st.lists(RECORDS, max_size=40), ASKED)
def test_any_selection_is_what_the_words_say_in_plan_and_loader(place, drawn, asked):
    assert_selected(place, drawn, asked)


def assert_selected(place, drawn, asked):
    data, good = release_of(drawn)
    _, plan = planned(place, "sft", data, **asked)
    filtered, left_out, shards = expected_of(good, asked)
    assert sorted(plan.filtered) == filtered
    for name in ("filtered", "left_out"):  # as [first, last] pairs that ascend
        pairs = [*itertools.chain(*plan.to_json()[name])]
        assert pairs == sorted(pairs)
    assert sorted(plan.left_out) == left_out
    for split in SPLITS:
        cut = [[*shard.numbers] for shard in plan.shards if shard.split == split]
        assert cut == [[one[0] for one in part] for part in shards.get(split, [])]
        assert [*itertools.chain(*cut)] == sorted(itertools.chain(*cut))
    # The loader reads ranges of bytes, and needs no plan.
    del asked["records_per_shard"]
    reader = reader_of(place, asked)
    assert reader.count().records == plan.records
    for split in SPLITS:
        expected = [one[1] for part in shards.get(split, []) for one in part]
        assert read(reader, split) == (expected, 2 * len(expected))


def reader_of(place, asked):
    """A reader that makes rows without images, for there are none."""
    made = build_settings(Settings, {**place.arguments, **asked, "on_missing": "null"})
    return Reader("sft", made, local=False, progress=lambda _: nullcontext(lambda *_: None))


def read(reader, split):
    """The offsets of the lines of a split's examples, and how many images are missing."""
    report = LoadReport()
    rows = reader.examples(reader.ranges(), split, report, strict=False)
    return [offset for offset, _ in rows], report.missing.total()
