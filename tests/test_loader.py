"""The loader through `datasets` itself; runs on every version that constraints/ names."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import datasets
import datasets.distributed
import pytest

import pico_banana_400k
from pico_banana.convert.demo.sample_release import SampleRelease, make_sample_release
from pico_banana.errors import SettingError
from pico_banana.schema import CONFIGS
from tests import fake_cdn
from tests.commands import QUICK_FETCH, pico_banana, quick_settings, release_flags, rows
from tests.fake_cdn import FakeCDN
from tests.forked import Script, run_script
from tests.make_read_back import check_bytes

ROOT = Path(__file__).parents[1]
MAJOR = int(datasets.__version__.partition(".")[0])
SFT = 60

# Of the library's own code, which is not ours to mend.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> SampleRelease:
    root = tmp_path_factory.mktemp("release")
    return make_sample_release(
        root, sft=SFT, preference=10, multi_turn=8, size=(96, 64), quirks=True
    )


@pytest.fixture
def cdn(release: SampleRelease):
    with FakeCDN(("/cdn", release.cdn)) as server:
        yield server


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """HF_HOME was read when datasets was imported; this is read at each load."""
    cache = tmp_path / "datasets"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    datasets.disable_progress_bars()
    return cache


def arguments(release: SampleRelease, cdn: FakeCDN | None = None, **more: Any) -> dict[str, Any]:
    return {
        "cdn": f"{cdn.url}/cdn" if cdn else os.fspath(release.cdn),
        "open_images": os.fspath(release.open_images),
        "open_images_metadata": os.fspath(release.metadata_csv),
        "fetch": QUICK_FETCH,
        **more,
    }


def load(config: str, **given: Any) -> Any:
    given.setdefault("split", "train")
    return datasets.load_dataset("pico_banana_400k", config, **given)


def undecoded(ds: Any) -> Any:
    """Images as {bytes, path}."""
    new = {}
    for name, feature in ds.features.items():
        if isinstance(feature, datasets.Image):
            new[name] = datasets.Image(decode=False)
        elif name.endswith("_images"):
            new[name] = (
                [datasets.Image(decode=False)]
                if isinstance(feature, list)
                else type(feature)(datasets.Image(decode=False))
            )
    for name, feature in new.items():
        ds = ds.cast_column(name, feature)
    return ds


@pytest.mark.parametrize("config", CONFIGS)
def test_loader_and_converter_give_the_same_examples(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path, config: str
) -> None:
    out = tmp_path / "out"
    flags = [*release_flags(release), *quick_settings(tmp_path), "--output", out]
    assert pico_banana("convert", config, *flags, "--records-per-shard", "25").code == 0
    converted = rows(out, config)
    assert len(converted) == release.good[config]
    mapped = list(undecoded(load(config, **arguments(release, cdn))))
    streamed = list(undecoded(load(config, streaming=True, **arguments(release, cdn))))
    assert mapped == converted
    assert streamed == converted
    assert all(check_bytes(release, row) >= 2 for row in converted)


def test_two_releases_in_one_cache_each_give_their_own_rows(
    release: SampleRelease, tmp_path: Path
) -> None:
    other = make_sample_release(tmp_path / "other", sft=5, size=(96, 64), seed=7)
    with FakeCDN(("/a", release.cdn), ("/b", other.cdn)) as cdn:
        for _ in range(2):
            found = {
                name: len(load("sft", **{**arguments(one), "cdn": f"{cdn.url}/{name}"}))
                for name, one in (("a", release), ("b", other))
            }
            assert found == {"a": release.good["sft"], "b": 5}
    # A local release that changes is another one.
    assert len(load("sft", **arguments(other))) == 5
    jsonl = other.cdn / "jsonl/sft.jsonl"
    jsonl.write_bytes(jsonl.read_bytes().partition(b"\n")[2])
    assert len(load("sft", **arguments(other))) == 4


def test_two_mirrors_of_one_release_share_the_cache(release: SampleRelease) -> None:
    path = "/datasets/pico-banana-300k/nb"
    given = arguments(release)
    del given["cdn"]
    with FakeCDN((path, release.cdn)) as one, FakeCDN((path, release.cdn)) as two:
        first = load("sft", mirrors={"ml-site.cdn-apple.com": one.url}, limit=10, **given)
        assert one.count("*/images/*") == 10
        given |= {"concurrency": 3, "edit_types": None, "offset": None}
        second = load("sft", mirrors={"ml-site.cdn-apple.com": two.url}, limit=10, **given)
        assert two.count("*/images/*") == 0
    assert first[:]["id"] == second[:]["id"]


def test_identity_is_of_content_alone(release: SampleRelease, tmp_path: Path) -> None:
    def folder(**more: Any) -> str:
        given = {**arguments(release), **more}
        return str(datasets.load_dataset_builder("pico_banana_400k", "sft", **given).cache_dir)

    listed = tmp_path / "ids"
    listed.write_text("b\na\n", encoding="utf-8")
    same = tmp_path / "again"
    same.write_text("a\n\nb\n", encoding="utf-8")
    assert folder(ids=os.fspath(listed)) == folder(ids=os.fspath(same)) == folder(ids=["b", "a"])
    assert folder(edit_types=["zoom-in", "outpainting"]) == folder(
        edit_types=["Outpainting (extend canvas beyond boundaries)", "Zoom in"]
    )
    assert folder() == folder(concurrency=2, mirrors={"x": "http://y"}, limit=None, offset=0)
    assert folder() == folder(input_sources=["bucket"]) != folder(input_sources=["flickr"])
    different = [
        folder(),
        folder(ids=["a"]),
        folder(exclude_ids=["a"]),
        folder(limit=1),
        folder(offset=1),
        folder(validation=0.1),
        folder(on_missing="null"),
        folder(edit_types=["zoom-in"]),
        folder(cdn="https://example.com/x"),
    ]
    assert len(set(different)) == len(different)


SELECTIONS: dict[str, dict[str, Any]] = {
    "types": {"edit_types": ["zoom-in"]},
    "limit": {"limit": 7},
    "offset": {"offset": SFT - 3, "limit": 2},
    "both": {"edit_types": ["zoom-in", "outpainting"], "offset": 1, "limit": 2},
}


@pytest.mark.parametrize("streaming", [False, True], ids=["map", "stream"])
@pytest.mark.parametrize("name", SELECTIONS)
def test_a_selection_fetches_what_it_needs_and_no_more(
    release: SampleRelease, cdn: FakeCDN, name: str, *, streaming: bool
) -> None:
    given = arguments(release, cdn, **SELECTIONS[name])
    found = list(undecoded(load("sft", streaming=streaming, **given)))
    assert 0 < len(found) < SFT
    asked = {request.path for request in cdn.requests("*/images/*")}
    assert {Path(path).name for path in asked} == {row["edited_image"]["path"] for row in found}
    assert cdn.count("*/images/*") == len(asked)


def test_ids_fetch_what_they_name(release: SampleRelease, cdn: FakeCDN) -> None:
    every = load("sft", **arguments(release))
    photo = every[0]["image_id"]
    expected = [row["id"] for row in undecoded(every) if row["image_id"] == photo]
    found = load("sft", ids=[photo], **arguments(release, cdn))
    assert found["id"][:] == expected
    assert cdn.count("*/images/*") == len(set(expected))
    left = load("sft", exclude_ids=[photo], **arguments(release))
    assert len(left) == len(every) - len(expected)


def test_nodes_and_processes_give_every_example_once(release: SampleRelease) -> None:
    expected = sorted(load("sft", **arguments(release))["id"][:])
    assert len(expected) == release.good["sft"]
    streamed = load("sft", streaming=True, **arguments(release))
    assert getattr(streamed, "num_shards", None) or streamed.n_shards >= 64
    seen = [
        row["id"]
        for rank in range(4)
        for row in datasets.distributed.split_dataset_by_node(streamed, rank=rank, world_size=4)
    ]
    assert sorted(seen) == expected
    shutil.rmtree(datasets.config.HF_DATASETS_CACHE)
    assert sorted(load("sft", num_proc=2, **arguments(release))["id"][:]) == expected


def test_shuffle_take_skip_slices_and_pickles(release: SampleRelease) -> None:
    streamed = load("sft", streaming=True, **arguments(release))
    expected = [row["id"] for row in streamed]
    assert [row["id"] for row in streamed.take(3)] == expected[:3]
    assert [row["id"] for row in streamed.skip(5)] == expected[5:]
    shuffled = [row["id"] for row in streamed.shuffle(seed=3, buffer_size=8)]
    assert sorted(shuffled) == sorted(expected)
    assert shuffled != expected
    again = pickle.loads(pickle.dumps(streamed))  # noqa: S301
    assert [row["id"] for row in again] == expected
    assert load("sft", split="train[:3]", **arguments(release))["id"][:] == expected[:3]
    with pytest.raises(ValueError, match=r"train\[:3\]"):
        load("sft", split="train[:3]", streaming=True, **arguments(release))


def test_validation_declares_both_splits(release: SampleRelease) -> None:
    given = arguments(release, validation=0.4)
    both = load("sft", split=None, **given)
    assert set(both) == {"train", "validation"}
    sides = {name: set(split["image_id"][:]) for name, split in both.items()}
    assert sides["train"]
    assert sides["validation"]
    assert not sides["train"] & sides["validation"]
    assert sum(map(len, both.values())) == release.good["sft"]
    streamed = load("sft", split="validation", streaming=True, **given)
    assert [row["id"] for row in streamed] == both["validation"]["id"][:]


def test_names_of_configs_and_splits(release: SampleRelease) -> None:
    assert datasets.get_dataset_config_names("pico_banana_400k") == [*CONFIGS]
    found = datasets.get_dataset_split_names(
        "pico_banana_400k", "sft", cdn=os.fspath(release.cdn), validation=0.1
    )
    assert found == ["train", "validation"]
    builder = datasets.load_dataset_builder("pico_banana_400k", **arguments(release))
    assert builder.config.name == "sft"


def test_load_shares_the_cache_with_load_dataset(release: SampleRelease, cdn: FakeCDN) -> None:
    mine = pico_banana_400k.load("sft", split="train", limit=6, **arguments(release, cdn))
    asked = cdn.count("*/images/*")
    assert asked == 6
    assert load("sft", limit=6, **arguments(release, cdn))["id"][:] == mine["id"][:]
    assert cdn.count("*/images/*") == asked
    streamed = pico_banana_400k.load(
        "sft", split="train", streaming=True, limit=6, **arguments(release)
    )
    assert [row["id"] for row in streamed] == mine["id"][:]


def test_streaming_begins_without_the_whole_jsonl(release: SampleRelease, tmp_path: Path) -> None:
    line = (release.cdn / "jsonl/sft.jsonl").read_bytes().splitlines()[0]
    line = line.removeprefix(b"\xef\xbb\xbf")
    big = tmp_path / "big"
    (big / "jsonl").mkdir(parents=True)
    size = 64 * 1024 * 1024
    (big / "jsonl/sft.jsonl").write_bytes((line + b"\n") * (size // len(line)))
    with FakeCDN(("/cdn", big), ("/cdn", release.cdn)) as cdn:
        streamed = load("sft", streaming=True, **arguments(release, cdn))
        assert next(iter(streamed))["id"]
        asked = cdn.requests("*.jsonl")
    ranges = [r.headers.get("Range") for r in asked if r.method == "GET"]
    assert ranges
    spans = [value.removeprefix("bytes=").split("-") for value in ranges if value]
    assert len(spans) == len(ranges)
    assert sum(int(last) - int(first) + 1 for first, last in spans) < size // 4


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"limt": 3}, "did you mean 'limit'"),
    ({"edit_types": ["zom-in"]}, "did you mean 'zoom-in'"),
    ({"on_missing": "skp"}, "did you mean 'skip'"),
    ({"limit": 0}, "limit must be greater than or equal to 1"),
    ({"images": "urls"}, "images must be one of"),
    ({"input_sources": ["tar"]}, "needs `open_images`"),
]


@pytest.mark.parametrize(("given", "said"), WRONG, ids=lambda value: str(value)[:30])
def test_wrong_arguments_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load("sft", **given)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_of_photos_that_is_none_is_refused(
    release: SampleRelease, tmp_path: Path, *, streaming: bool
) -> None:
    given = arguments(release) | {"open_images": os.fspath(tmp_path / "nope")}
    with pytest.raises(ValueError, match="open_images must be a folder"):
        load("sft", streaming=streaming, **given)


def test_a_wrong_config_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'multi_turn'"):
        load("multi_turns")
    with pytest.raises(ValueError, match="must be left out with multi_turn"):
        load("multi_turn", edit_types=["zoom-in"])


def test_permanent_absences_are_one_warning(release: SampleRelease, cdn: FakeCDN) -> None:
    every = load("sft", **arguments(release))
    gone = [row["edited_image"]["path"] for row in undecoded(every)][2:5]
    for name in gone:
        cdn.fail(f"*/{name}", forever=fake_cdn.status(404))
    for more in ({}, {"num_proc": 2}):
        shutil.rmtree(datasets.config.HF_DATASETS_CACHE)
        with pytest.warns(UserWarning, match="3 not_found") as told:
            found = load("sft", **arguments(release, cdn), **more)
        assert len([one for one in told if "not_found" in str(one.message)]) == 1
        assert len(found) == len(every) - 3
    null = load("sft", streaming=True, on_missing="null", **arguments(release, cdn))
    assert [row["edited_image"] is None for row in undecoded(null)].count(True) == 3


@pytest.mark.parametrize("globs", [[], ["farm*.staticflickr.com"]], ids=["all", "some"])
def test_flickr_in_several_processes_warns(release: SampleRelease, globs: list[str]) -> None:
    # The folder has every photo: nobody is asked.
    mirrors = dict.fromkeys(globs, str(release.flickr))
    named = arguments(release, limit=4, input_sources=["folder", "flickr"], mirrors=mirrors)
    with pytest.warns(UserWarning, match="Flickr is asked from 2 processes"):
        load("sft", num_proc=2, **named)


@pytest.mark.parametrize("is_local", [False, True], ids=["server", "folder"])
def test_a_mirror_of_flickr_does_not_ban(release: SampleRelease, *, is_local: bool) -> None:
    with (
        FakeCDN(("/flickr", release.flickr)) as flickr,
        warnings.catch_warnings(record=True) as told,
    ):
        warnings.simplefilter("always")
        place = release.flickr if is_local else f"{flickr.url}/flickr"
        mirrors = {"*.staticflickr.com": f"{place}/{{host}}"}
        named = arguments(release, limit=4, input_sources=["flickr"], mirrors=mirrors)
        found = load("sft", num_proc=2, **named)
    assert {row["input_source"] for row in undecoded(found)} == {"flickr"}
    assert not [one for one in told if "Flickr is asked" in str(one.message)]


@pytest.mark.parametrize("images", ["bytes", "none"])
def test_ids_that_match_nothing_are_named(release: SampleRelease, images: str) -> None:
    every = [row["id"] for row in undecoded(load("sft", **arguments(release)))]
    wrong = [f"positive-edit/x{number:02d}" for number in range(12)]
    named = arguments(release, exclude_ids=[*every[:3], *wrong], limit=5, images=images)
    with pytest.warns(UserWarning, match="match no record") as told:
        found = load("sft", edit_types=["zoom-in"], **named)
    (said,) = [str(one.message) for one in told if "match no record" in str(one.message)]
    assert said == (
        f"pico_banana_400k: exclude_ids: 12 match no record of sft: {', '.join(wrong[:10])} and 2 "
        "more"
    )
    assert not {*every[:3]} & {row["id"] for row in undecoded(found)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load("sft", **arguments(release, exclude_ids=every[:3], limit=5, images=images))


def test_a_transient_failure_raises_and_caches_nothing(
    release: SampleRelease, cdn: FakeCDN, own_cache: Path
) -> None:
    cdn.fail("*/positive-edit/*", forever=fake_cdn.status(500))
    with pytest.raises(Exception, match="server_error") as raised:
        load("sft", **arguments(release, cdn))
    assert "https://ml-site.cdn-apple.com" in str(raised.value)
    assert "pico-banana convert" in str(raised.value)
    assert not list(own_cache.rglob("*.arrow"))
    cdn.clear()
    assert len(load("sft", **arguments(release, cdn))) == release.good["sft"]


def test_a_stream_goes_on_after_a_transient_failure(
    release: SampleRelease, cdn: FakeCDN, caplog: pytest.LogCaptureFixture
) -> None:
    every = [row["id"] for row in load("sft", streaming=True, **arguments(release))]
    cdn.fail(f"*/{every[1]}.png", forever=fake_cdn.status(503))
    with caplog.at_level(logging.WARNING, logger="pico_banana"):
        found = [row["id"] for row in load("sft", streaming=True, **arguments(release, cdn))]
    assert found == every[:1] + every[2:]
    assert "1 server_error" in caplog.text
    assert "left out" in caplog.text  # the release's bad lines


@pytest.mark.long
def test_a_disk_that_is_too_small_is_refused_before_any_fetch(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path
) -> None:
    line = (release.cdn / "jsonl/sft.jsonl").read_bytes().splitlines()[0]
    # Beyond the disk, though others may free some meanwhile, and beyond the 20 GB from which on
    # there is a warning.
    count = (shutil.disk_usage(tmp_path).free + 25 * 10**9) // 1_400_000
    big = tmp_path / "big"
    (big / "jsonl").mkdir(parents=True)
    line = line.removeprefix(b"\xef\xbb\xbf")
    (big / "jsonl/sft.jsonl").write_bytes((line + b"\n") * count)
    mirrors = {"open-images-dataset.s3.amazonaws.com": f"{cdn.url}/bucket"}
    given = {**arguments(release), "cdn": os.fspath(big), "mirrors": mirrors}
    with (
        pytest.warns(UserWarning, match=r"GB of disk, .* requests and .* hours"),
        pytest.raises(OSError, match="Not enough disk space"),
    ):
        load("sft", **given)
    assert cdn.count() == 0


SCRIPT = """
import sys, pico_banana_400k, datasets
datasets.disable_progress_bars()
ds = pico_banana_400k.load("sft", split="train", cdn=sys.argv[1], open_images=sys.argv[2],
                           open_images_metadata=sys.argv[3], cache_dir=sys.argv[4])
print(len(ds))
"""


def test_a_load_that_is_killed_is_whole_the_next_time(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path
) -> None:
    words = [f"{cdn.url}/cdn", os.fspath(release.open_images), os.fspath(release.metadata_csv)]
    cdn.hold("*/images/*")
    first = Script(SCRIPT, *words, tmp_path / "cache")
    cdn.wait_for_request("*/images/*", n=5)
    first.process.kill()
    assert first.ended().code == -signal.SIGKILL
    cdn.release()
    ended = run_script(SCRIPT, *words, tmp_path / "cache")
    assert ended.code == 0, ended.err
    assert ended.out.split() == [str(release.good["sft"])]


def run(code: str, *words: str, cwd: Path = ROOT, flags: tuple[str, ...] = ()) -> str:
    """Run Python code in a new process, with the checkout importable; return what it printed."""
    env = {**os.environ, "PYTHONPATH": os.fspath(ROOT)}
    ended = subprocess.run(
        [sys.executable, *flags, "-c", code, *words],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


ANEW = """
import sys, warnings
for name in [name for name in sys.modules if name.partition(".")[0] == "pico_banana"]:
    del sys.modules[name]
warnings.simplefilter("error")
import pico_banana_400k
"""


def test_the_import_warns_of_nothing() -> None:
    # The libraries' own warnings at import came before, and are not ours.
    ended = run_script(ANEW)
    assert (ended.code, ended.err) == (0, "")


@pytest.mark.long
def test_the_import_in_a_new_process_warns_of_nothing() -> None:
    probe = [sys.executable, "-W", "error", "-c", "import datasets, aiohttp, fsspec"]
    clean = subprocess.run(probe, cwd=ROOT, capture_output=True, check=False).returncode == 0
    if clean:
        run("import pico_banana_400k", flags=("-W", "error"))


REGISTRATION = """
from datasets import load_dataset
import datasets.load, datasets.inspect, importlib
before = datasets.load.dataset_module_factory
import pico_banana_400k
import pico_banana_400k
importlib.reload(pico_banana_400k)
now = datasets.load.dataset_module_factory
assert now is not before and now._pico_banana_wraps is before
assert datasets.inspect.dataset_module_factory is now
pico_banana_400k.unregister()
assert datasets.load.dataset_module_factory is before
assert datasets.inspect.dataset_module_factory is before
pico_banana_400k.unregister()
"""


def test_one_wrapping_whatever_the_order_of_imports() -> None:
    ended = run_script(REGISTRATION)
    assert ended.code == 0, ended.err


UNKNOWN = """
import warnings, datasets, datasets.load
if {gone}:
    del datasets.load.dataset_module_factory
else:
    datasets.load.dataset_module_factory = lambda name, **more: None
left = getattr(datasets.load, "dataset_module_factory", None)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    import pico_banana_400k
mine = [str(one.message) for one in told if "pico_banana_400k" in str(one.message)]
assert len(mine) == 1 and "pico_banana_400k.load" in mine[0], mine
assert getattr(datasets.load, "dataset_module_factory", None) is left
pico_banana_400k.unregister()
"""


@pytest.mark.parametrize("gone", [True, False])
def test_a_library_that_cannot_be_told_is_left_alone(*, gone: bool) -> None:
    ended = run_script(UNKNOWN.format(gone=gone))
    assert ended.code == 0, ended.err


FOLDER = """
import json, sys, datasets, pico_banana_400k
datasets.disable_progress_bars()
given = json.loads(sys.argv[1])
print(len(datasets.load_dataset("pico_banana_400k", "sft", split="train", **given)))
print(len(datasets.load_dataset("./pico_banana_400k", split="train")))
"""


def test_the_name_wins_over_a_folder_of_that_name(release: SampleRelease, tmp_path: Path) -> None:
    folder = tmp_path / "pico_banana_400k"
    folder.mkdir()
    (folder / "data.csv").write_text("a\n1\n2\n", encoding="utf-8")
    ended = run_script(FOLDER, json.dumps(arguments(release, limit=5)), cwd=tmp_path)
    assert ended.out.split() == ["5", "2"], ended.err


AS_SCRIPT = """
import json, sys, datasets
datasets.disable_progress_bars()
ds = datasets.load_dataset(sys.argv[1], "sft", split="train", trust_remote_code=True,
                           **json.loads(sys.argv[2]))
print(len(ds))
"""


@pytest.mark.skipif(MAJOR >= 4, reason="loading scripts are gone since datasets 4.0")
def test_the_file_runs_as_a_loading_script(release: SampleRelease, tmp_path: Path) -> None:
    script = os.fspath(ROOT / "pico_banana_400k.py")
    printed = run(AS_SCRIPT, script, json.dumps(arguments(release, limit=5)), cwd=tmp_path)
    assert printed.split() == ["5"]


def test_the_bytes_survive_to_parquet(release: SampleRelease, tmp_path: Path) -> None:
    found = load("preference", **arguments(release))
    found.to_parquet(os.fspath(tmp_path / "x.parquet"))
    again = undecoded(datasets.Dataset.from_parquet(os.fspath(tmp_path / "x.parquet")))
    for row in again:
        assert check_bytes(release, row) >= 3
        assert hashlib.sha256(row["input_image"]["bytes"]).hexdigest() == row["input_sha256"]


def test_warnings_are_ours_to_see(release: SampleRelease) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        load("sft", limit=3, **arguments(release))
    assert not [one for one in told if "pico_banana" in str(one.message)]


@pytest.mark.parametrize("name", ["storage_option", "data_dir", "cdnn"])
def test_a_refused_argument_is_not_shown(name: str) -> None:
    with pytest.raises(SettingError, match=name) as caught:
        pico_banana_400k.load("sft", **{name: {"secret": "p4ss"}})
    assert "p4ss" not in f"{caught.value} {caught.value.value}"
