"""Settings: defaults, then a file, then arguments; what is not allowed is named."""

import itertools
import pickle
from importlib import resources
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from pico_banana.errors import SettingError, UsageError
from pico_banana.schema import CONFIGS, EDIT_CATEGORIES, EDIT_TYPES
from pico_banana.settings import Settings, build_settings, config_spec, read_settings_file
from pico_banana.urls import METADATA_CSV, PUBLISHED_BASE


def build(file=None, **arguments):
    return build_settings(Settings, arguments, file)


def read_back(path, text):
    path.write_text(text, encoding="utf-8")
    return read_settings_file(str(path))


# What there is without a word of the user


def test_defaults():
    settings = build()
    assert settings.cdn + "/" == PUBLISHED_BASE
    assert settings.open_images_metadata == METADATA_CSV
    assert settings.sources == ("bucket",)
    assert (settings.offset, settings.limit, settings.validation) == (0, None, 0)
    assert (settings.on_missing, settings.images, settings.concurrency) == ("skip", "bytes", 64)
    assert settings.ids is settings.exclude_ids is settings.edit_types is None
    assert settings.fetch.hosts["*.staticflickr.com"].connections == 1


@pytest.mark.parametrize("config", CONFIGS)
def test_every_config_has_its_spec(config):
    spec = build().for_config(config)
    assert spec.jsonl.startswith("jsonl/")
    assert spec.jsonl.endswith(".jsonl")
    assert spec.manifest == f"manifest/{config}_manifest.txt"
    assert spec.records > 50_000
    assert spec.records_per_shard > 0


def test_sft_counts_what_its_edit_types_sum_to():
    assert config_spec("sft").records == sum(kind.rows for kind in EDIT_TYPES)


def test_an_unknown_config():
    with pytest.raises(SettingError, match="did you mean 'preference'") as caught:
        config_spec("preferences")
    assert (caught.value.name, caught.value.value) == ("config", "preferences")


@pytest.mark.parametrize("name", ["edit_types", "edit_categories"])
def test_multi_turn_has_no_edit_types(name):
    word = {"edit_types": "zoom-in", "edit_categories": "stylistic"}[name]
    settings = build(**{name: word})
    assert settings.for_config("sft")
    with pytest.raises(SettingError, match="multi_turn") as caught:
        settings.for_config("multi_turn")
    assert caught.value.name == name


# Which value wins


def test_arguments_win_over_the_file_and_the_file_over_defaults():
    settings = build({"limit": 5, "offset": 2}, limit=7)
    assert (settings.limit, settings.offset, settings.validation) == (7, 2, 0)


def test_none_is_unset():
    settings = build({"limit": 5, "offset": None}, limit=None, on_missing=None, cdn=None)
    assert (settings.limit, settings.offset, settings.on_missing) == (5, 0, "skip")
    assert settings == build(limit=5)


@pytest.mark.parametrize("word", ["null", '"null"', "~", ""])
def test_a_bare_null_for_on_missing_is_the_word(tmp_path, word):
    values = read_back(tmp_path / "own.yaml", f"on_missing: {word}\nlimit: {word or 'null'}\n")
    assert values["limit"] in {None, "null"}
    assert build({"on_missing": values["on_missing"]}).on_missing == "null"


def test_a_settings_file(tmp_path):
    text = "edit-types: [zoom-in]\nlimit: 10\non-missing: fail\nstorage_options: {key: k}\n"
    settings = build(read_back(tmp_path / "own.yaml", text), limit=3)
    assert settings.edit_types == ("Zoom in",)
    assert (settings.limit, settings.on_missing) == (3, "fail")
    assert settings.storage_options == {"key": "k"}


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_settings_file_says_nothing(tmp_path, text):
    assert read_back(tmp_path / "own.yaml", text) == {}


@pytest.mark.parametrize("text", ["[1, 2]", "words", "a: [", "a: b: c"])
def test_a_settings_file_that_is_none(tmp_path, text):
    with pytest.raises(UsageError, match=r"own\.yaml"):
        read_back(tmp_path / "own.yaml", text)


def test_a_settings_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"absent\.yaml"):
        read_settings_file(str(tmp_path / "absent.yaml"))
    (tmp_path / "latin.yaml").write_bytes(b"cdn: caf\xe9\n")
    with pytest.raises(UsageError, match=r"latin\.yaml"):
        read_settings_file(str(tmp_path / "latin.yaml"))


# Words, lists and files


@pytest.mark.parametrize("kind", EDIT_TYPES, ids=lambda kind: kind.slug)
def test_each_edit_type_goes_by_its_string_and_its_slug(kind):
    for given in (kind.name, kind.slug, [kind.slug], [kind.name, kind.slug]):
        assert build(edit_types=given).edit_types == (kind.name,)


def test_strings_with_commas_are_one_word():
    name = "Add/Remove/Replace Accessories (glasses, hats, jewelry, masks)"
    assert build(edit_types=name).edit_types == (name,)


def test_categories_go_by_string_and_slug():
    slugs = ["spatial-layout", "scene-composition-multi-subject", "Text & Symbol"]
    assert build(edit_categories=slugs).edit_categories == (
        "Scene Composition & Multi-Subject",
        "Spatial / Layout",
        "Text & Symbol",
    )
    assert len(build(edit_categories=EDIT_CATEGORIES).edit_categories) == 8


def test_sets_are_sorted_before_they_identify_anything():
    names = ["zoom-in", "change-age-gender", "pose-tweak"]
    ids = ["b", "a", "c"]
    for order in itertools.permutations(range(3)):
        settings = build(edit_types=[names[i] for i in order], ids=[ids[i] for i in order] + ["a"])
        assert settings == build(edit_types=names, ids=ids)
    assert settings.ids == ("a", "b", "c")
    assert settings.edit_types == tuple(sorted(settings.edit_types))


def test_input_sources_keep_their_order(tmp_path):
    for order in itertools.permutations(["folder", "bucket", "flickr"]):
        settings = build(input_sources=order, open_images=tmp_path)
        assert settings.sources == settings.input_sources == order


def test_sources_follow_open_images(tmp_path):
    assert build(open_images=tmp_path).sources == ("folder", "tar", "bucket")
    assert build(open_images=tmp_path, input_sources="bucket").sources == ("bucket",)


@pytest.mark.parametrize("name", ["ids", "exclude_ids"])
def test_ids_come_from_lists_and_files(tmp_path, name, monkeypatch):
    file = tmp_path / "ids.txt"
    file.write_bytes("\ufeffb\r\n\n  a é \nb\n00aa11bb22cc33dd".encode())
    expected = ("00aa11bb22cc33dd", "a é", "b")
    for given in (str(file), file, f"@{file}", [f"@{file}"], ["@" + str(file), "b"]):
        assert getattr(build(**{name: given}), name) == expected
    monkeypatch.setenv("HOME", str(tmp_path))
    assert getattr(build(**{name: "~/ids.txt"}), name) == expected
    assert getattr(build(**{name: ["x", 5, f"@{file}"]}), name) == (*sorted([*expected, "5", "x"]),)
    assert getattr(build(**{name: iter(["x"])}), name) == ("x",)


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ("http://host/base/", "http://host/base"),
        ("https://host/base//", "https://host/base"),
        ("s3://bucket/", "s3://bucket"),
        ("memory://", "memory://"),
        ("memory://release", "memory://release"),
        ("/data/release/", "/data/release"),
        ("/data/../release", "/release"),
        ("file:///data/release/", "/data/release"),
        ("file:/data/release", "/data/release"),
        ("local:///data/release", "/data/release"),
        ("S3://Bucket/x", "s3://Bucket/x"),
        (Path("/data/release"), "/data/release"),
        ("/", "/"),
    ],
)
def test_places(given, place):
    assert build(cdn=given).cdn == place


def test_relative_places_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/somebody")
    settings = build(cdn="release", open_images="~/photos", open_images_metadata="./list.csv")
    assert settings.cdn == str(tmp_path / "release")
    assert settings.open_images == "/somebody/photos"
    assert settings.open_images_metadata == str(tmp_path / "list.csv")


# How images are fetched


# The user's budgets, a host, and what it is asked at most: connections, requests a second.
BUDGETS = [
    ({}, "live.staticflickr.com", (1, 0.3)),
    ({}, "ml-site.cdn-apple.com", (64, 400)),
    ({}, "example.org", (64, None)),
    # A narrower glob, or the same, says what it says; a wider one says the rest.
    ({"live.staticflickr.com": {"connections": 2}}, "live.staticflickr.com", (2, 0.3)),
    ({"live.staticflickr.com": {"connections": 2}}, "farm5.staticflickr.com", (1, 0.3)),
    ({"*.staticflickr.com": {"requests_per_second": 0.1}}, "live.staticflickr.com", (1, 0.1)),
    ({"*.StaticFlickr.com": {"requests_per_second": 0.1}}, "live.staticflickr.com", (1, 0.1)),
    ({"farm?.staticflickr.com": {"requests_per_second": 2}}, "farm5.staticflickr.com", (1, 2)),
    ({"farm[0-9].staticflickr.com": {"connections": 4}}, "farm5.staticflickr.com", (4, 0.3)),
    ({"live.staticflickr.com": {"requests_per_second": None}}, "live.staticflickr.com", (1, None)),
    # A wider one asks less, and never more.
    ({"*": {"connections": 8}}, "live.staticflickr.com", (1, 0.3)),
    ({"*": {"connections": 8}}, "ml-site.cdn-apple.com", (8, 400)),
    ({"*": {"connections": 8}}, "example.org", (8, None)),
    ({"*": {"requests_per_second": 0.1}}, "live.staticflickr.com", (1, 0.1)),
    ({"*": {"requests_per_second": None}}, "live.staticflickr.com", (1, 0.3)),
    ({"*.com": {"connections": 9, "requests_per_second": 9}}, "live.staticflickr.com", (1, 0.3)),
    ({"*static*": {"connections": 9}}, "live.staticflickr.com", (1, 0.3)),
    # The user's own, in whatever order they stand.
    ({"*": {"connections": 8}, "a.org": {"connections": 9}}, "a.org", (9, None)),
    ({"a.org": {"requests_per_second": 1}, "*": {"connections": 8}}, "a.org", (8, 1)),
    (
        {"*": {"connections": 8}, "live.staticflickr.com": {"connections": 2}},
        "live.staticflickr.com",
        (2, 0.3),
    ),
]


@pytest.mark.parametrize(("hosts", "name", "expected"), BUDGETS)
def test_each_field_of_a_budget_comes_from_the_narrowest_glob_that_says_it(hosts, name, expected):
    budget = build(fetch={"hosts": hosts}).fetch.budget_of(name)
    assert (budget.connections, budget.requests_per_second) == expected


def test_the_rest_of_the_fetch_policy_stays():
    changed, default = build(fetch={"retries": 1}).fetch, build().fetch
    assert changed.retries == 1
    assert changed.model_copy(update={"retries": default.retries}) == default


def test_fetch_yaml_names_every_field_it_may():
    text = (resources.files("pico_banana") / "configs" / "fetch.yaml").read_text(encoding="utf-8")
    assert set(yaml.safe_load(text)) == set(type(build().fetch).model_fields)


# What is not allowed

BAD = [
    ("edit_types", "zoom-i", "did you mean 'zoom-in'"),
    ("edit_types", ["zoom-in", "Zoom inn"], "did you mean 'Zoom in'"),
    ("edit_types", "zoom-in,pose-tweak", "must be a known edit type"),
    ("edit_types", 5, "must be a list"),
    ("edit_types", [["zoom-in"]], "must be a known edit type"),
    ("edit_types", [None], "must be a known edit type"),
    ("edit_categories", "Stylistc", "did you mean 'stylistic'"),
    ("edit_categories", {"a": 1}, "must be a list"),
    ("ids", 5, "must be a list"),
    ("ids", "/no/such/file", "No such file"),
    ("ids", ["@/no/such/file"], "No such file"),
    ("exclude_ids", 5.5, "must be a list"),
    ("exclude_ids", b"bytes", "must be a list"),
    ("input_sources", "bukcet", "did you mean 'bucket'"),
    ("input_sources", ["bucket", "ftp"], "must be one of folder, tar, bucket, flickr"),
    ("input_sources", ["bucket", "bucket"], "once"),
    ("input_sources", [], "once"),
    ("input_sources", ["folder"], "needs `open_images`"),
    ("input_sources", ["tar"], "needs `open_images`"),
    ("on_missing", "skp", "did you mean 'skip'"),
    ("on_missing", 5, "must be one of"),
    ("images", "byte", "did you mean 'bytes'"),
    ("limit", 0, "must be greater than or equal to 1"),
    ("limit", "many", "must be a valid integer"),
    ("offset", -1, "must be greater than or equal to 0"),
    ("validation", 1, "must be less than 1"),
    ("validation", -0.1, "must be greater"),
    ("validation", float("nan"), "must be less than 1"),
    ("concurrency", 0, "must be greater"),
    ("cdn", "", "must be a URL or a path"),
    ("cdn", 5, "must be a valid string"),
    ("open_images", "", "must be a URL or a path"),
    ("open_images_metadata", "", "must be a URL or a path"),
    ("open_images_metadata", "none", "input_sources=flickr"),
    ("mirrors", "http://host", "must be a valid dictionary"),
    ("storage_options", 5, "must be a mapping"),
    ("fetch", [], "must be a mapping"),
]


@pytest.mark.parametrize(("name", "value", "words"), BAD)
def test_errors_name_the_argument_and_the_way_out(name, value, words):
    for arguments in ({"file": {name: value}}, {name: value}):
        with pytest.raises(SettingError) as caught:
            build(**arguments)
        assert caught.value.name == name
        assert str(caught.value).startswith(f"{name} ")
        assert words in str(caught.value)
        assert isinstance(caught.value, (UsageError, ValueError))


FETCH = [
    ({"retires": 1}, "fetch.retires"),
    ({"retries": -1}, "fetch.retries"),
    ({"hosts": [1]}, "fetch.hosts"),
    ({"hosts": "x"}, "fetch.hosts"),
    ({"hosts": {"x": None}}, "fetch.hosts.x"),
    ({"hosts": {"x": {"connections": 0}}}, "fetch.hosts.x.connections"),
    ({"hosts": {"x": {"requests_per_second": 0}}}, "fetch.hosts.x.requests_per_second"),
]


@pytest.mark.parametrize(("value", "name"), FETCH)
def test_errors_name_the_part_of_the_fetch_policy(value, name):
    with pytest.raises(SettingError) as caught:
        build(fetch=value)
    assert caught.value.name == name


@pytest.mark.parametrize("name", ["limt", "edit_type", "on-missing", "self", "model_config"])
def test_unknown_arguments(name):
    with pytest.raises(SettingError, match="must be a setting") as caught:
        build(**{name: "x"})
    assert caught.value.name == name
    assert ("did you mean 'limit'" in str(caught.value)) is (name == "limt")


def test_without_metadata_flickr_is_the_only_source(tmp_path):
    flickr = build(open_images_metadata="none", input_sources=["flickr"])
    assert flickr.open_images_metadata == "none"
    for others in (["bucket"], ["flickr", "bucket"], ["folder", "flickr"]):
        with pytest.raises(SettingError) as caught:
            build(open_images_metadata="none", input_sources=others, open_images=tmp_path)
        assert caught.value.name == "open_images_metadata"


SECRET = [
    *[("cdn", f"{scheme}://me:p4ss@host/x") for scheme in ("http", "https", "HTTP", "ftp", "sftp")],
    *[("cdn", f"{scheme}://p4ss@host/x") for scheme in ("http", "https")],
    ("cdn", "s3://key:p4ss@bucket/x"),
    ("cdn", "s3://key:p4ss/p4ss@bucket/x"),
    ("cdn", "simplecache::ftp://me:p4ss@host/x"),
    ("open_images", "ftp://me:p4ss@host/x"),
    ("open_images_metadata", "https://me:p4ss@host/x.csv"),
    ("open_images_metadata", "s3://key:p4ss@bucket/x.csv"),
    ("mirrors", {"*": "http://me:p4ss@host/{host}"}),
    ("mirrors", {"*": "s3://key:p4ss@bucket/{host}"}),
]
SIGNED = [
    ("cdn", "https://host/x?sig=p4ss"),
    ("cdn", "https://host/x#p4ss"),
    ("mirrors", {"*": "https://host/x?X-Amz-Signature=p4ss"}),
]
NO_HOST = [
    ("cdn", "http://me:p4/ss@host/x"),
    ("cdn", "http://host:p4ss/x"),
    ("cdn", "http:///x"),
    ("cdn", "http://2130706433/x"),
    ("open_images_metadata", "http://me:p4#ss@host/x.csv"),
    ("mirrors", {"*": "http://{host}:p4ss"}),
    ("mirrors", {"https://host/?sig": "p4ss"}),
    ("mirrors", {"*": ["http://me:p4ss@host"]}),
    ("mirrors", "http://me:p4ss@host"),
    ("cdn", ["http://me:p4ss@host"]),
]


@pytest.mark.parametrize(("name", "value"), [*SECRET, *SIGNED, *NO_HOST])
def test_a_place_with_a_secret_is_refused_without_showing_it(name, value):
    with pytest.raises(SettingError) as caught:
        build(**{name: value})
    assert caught.value.name == name
    assert str(caught.value).startswith(f"{name} must ")
    assert "p4" not in str(caught.value) + repr(caught.value.value)
    if (name, value) in [*SECRET, *SIGNED]:
        assert "storage_options" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("open_images_metadata", "https://host/list.csv?X-Amz-Signature=1"),
        ("cdn", "abfs://container@account.dfs.core.windows.net/x"),
        ("cdn", "github://owner:repository@main/x"),
        ("cdn", "s3://arn:aws:s3:us-west-2:123456789012:accesspoint/x"),
        ("cdn", "hf://datasets/owner/name@main/x"),
        ("cdn", "http://[::1]:8099/a:b@c"),
        ("cdn", "/data/me:word@x"),
    ],
)
def test_places_that_hold_no_secret(name, value):
    assert getattr(build(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("base", "kept"),
    [
        ("HTTP://host/x/", "http://host/x"),
        ("file:///data/x", "/data/x"),
        ("local:///data/x/", "/data/x"),
        ("/data/{host}/", "/data/{host}"),
    ],
)
def test_the_bases_of_mirrors_are_places(base, kept):
    assert build(mirrors={"*": base}).mirrors == {"*": kept}


@pytest.mark.parametrize("text", ["storage_options: {secret: *p4ss}", "a: !p4ss b", "a: [p4ss"])
def test_a_broken_settings_file_is_not_quoted(tmp_path, text):
    with pytest.raises(UsageError, match=r"own\.yaml must be YAML, but line \d") as caught:
        read_back(tmp_path / "own.yaml", text)
    assert "p4ss" not in str(caught.value)


def test_secrets_stay_out_of_messages():
    settings = build(storage_options={"key": "secret"})
    assert "secret" not in repr(settings)
    with pytest.raises(SettingError) as caught:
        build(storage_options={"key": "secret"}, limit="many")
    assert "secret" not in str(caught.value)


# Settings as values


def test_settings_are_frozen():
    settings = build()
    with pytest.raises(ValidationError):
        settings.limit = 5
    with pytest.raises(ValidationError):
        settings.fetch.retries = 0


def test_settings_and_their_errors_survive_a_pickle(tmp_path):
    settings = build(edit_types="zoom-in", mirrors={"*": "http://h/{host}"}, open_images=tmp_path)
    assert pickle.loads(pickle.dumps(settings)) == settings  # noqa: S301
    with pytest.raises(SettingError) as caught:
        build(on_missing="skp")
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert (str(again), again.name, again.value) == (
        str(caught.value), "on_missing", "skp",
    )  # fmt: skip
