"""Trying missing images again: what is asked, what is kept, and what a kill leaves."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pico_banana.convert.demo.sample_release import SampleRelease, make_sample_release
from pico_banana.convert.output.ledger import Ledger, ShardLedger
from pico_banana.convert.output.store import Store
from pico_banana.missing import MissingReason
from pico_banana.schema import CONFIGS
from pico_banana.urls import PUBLISHED_BASE
from tests import fake_cdn
from tests.commands import (
    arguments_of,
    digests,
    ledgers,
    pico_banana,
    plan_of,
    quick_settings,
    release_flags,
)
from tests.fake_cdn import FakeCDN

TRANSIENT = {reason.value for reason in MissingReason if reason.is_transient}
COLUMNS = {"input_image", "edited_image", "chosen_image", "rejected_images", "edited_images"}
SHARD = "train-00000-of-00003"


def serving(release: SampleRelease) -> FakeCDN:
    """A server of everything: edits, and photos as the bucket has them."""
    folders = [release.open_images / name for name in ("train_0", "train_1")]
    photos = [("/bucket/train", folder) for folder in folders]
    return FakeCDN(("/cdn", release.cdn), *photos)


def words_of(release: SampleRelease, cdn: FakeCDN, out: Path, *words: Any) -> list[Any]:
    """The words of a convert that asks the server for every image."""
    out.parent.mkdir(parents=True, exist_ok=True)
    return [
        *("convert", *(words if words and words[0] in CONFIGS else ("sft", *words))),
        *release_flags(release, f"{cdn.url}/cdn"),
        *("--input-sources", "bucket"),
        *("--mirrors", f"open-images-dataset.s3.amazonaws.com={cdn.url}/bucket"),
        *quick_settings(out.parent),
        *("--output", out, "--records-per-shard", "4", "--workers", "1"),
    ]


def images_of(release: SampleRelease, config: str) -> list[dict[str, str]]:
    """The images of each record: published URL and the path on the server, in order."""
    with open(release.metadata_csv, encoding="utf-8", newline="") as file:
        photos = {row["OriginalURL"]: row["ImageID"] for row in csv.DictReader(file)}
    path = release.cdn / "jsonl" / f"{config.replace('_', '-')}.jsonl"
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if config == "multi_turn":
            files = {file["id"]: file["url"] for file in record["files"]}
            photo = files.pop("original_input_image")
            edits = [files[name] for name in sorted(files, key=lambda n: (n[0] == "f", n))]
        else:
            photo = record["open_image_input_url"]
            rejected = record.get("rejected_images", [])
            edits = [record["output_image"], *[one.partition("/")[2] for one in rejected]]
        images = {photo: f"/bucket/train/{photos[photo]}.jpg"}
        found.append(images | {PUBLISHED_BASE + edit: f"/cdn/{edit}" for edit in edits})
    return found


def fail(cdn: FakeCDN, paths: set[str], status: int) -> None:
    for path in paths:
        cdn.fail(path, forever=fake_cdn.status(status))


def asked(cdn: FakeCDN) -> Counter[str]:
    """How often each image was asked for."""
    return Counter(one.path for one in cdn.log if one.path.startswith(("/cdn/im", "/bucket")))


def lines_of(stretches: list[list[int]]) -> set[int]:
    return {number for first, last in stretches for number in range(first, last + 1)}


def to_ask(out: Path, images: list[dict[str, str]], config: str) -> Counter[str]:
    """What the ledgers leave to be asked for, once a shard, when what passes is tried again."""
    found: Counter[str] = Counter()
    for ledger in ledgers(out, config):
        missing = {
            entry["line"]: {image["url"]: image["reason"] for image in entry["images"]}
            for entry in ledger["missing"]
        }
        if not TRANSIENT & {reason for listed in missing.values() for reason in listed.values()}:
            continue
        written = lines_of(ledger["written"])
        hopeless = {
            entry["line"]
            for entry in ledger["missing"]
            if is_hopeless(entry, len(images[entry["line"] - 1]) - 2)
        }
        paths = set()
        for line in written | lines_of(ledger["missing_lines"]):
            listed = missing.get(line, {})
            for url, path in images[line - 1].items():
                if url in listed and listed[url] not in TRANSIENT:
                    continue
                if url in listed or line not in written | hopeless:
                    paths.add(path)
        found.update(paths)
    return found


def is_hopeless(entry: dict[str, Any], rejected: int) -> bool:
    """Whether a record gets no row whatever is found: what it needs is missing for good."""
    lasting = [one["column"] for one in entry["images"] if one["reason"] not in TRANSIENT]
    needed = [column for column in lasting if column != "rejected_images"]
    return bool(needed) or (0 < len(lasting) == rejected)


def without_tries(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for ledger in found:
        for entry in ledger["missing"]:
            for image in entry["images"]:
                del image["tries"]
    return found


def state_of(path: Path) -> tuple[int, int, bytes]:
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns, path.read_bytes()


# All configs, with seeded faults


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> SampleRelease:
    root = tmp_path_factory.mktemp("large")
    release = make_sample_release(root, sft=20, preference=12, multi_turn=8, size=(48, 32))
    for photo in sorted(release.open_images.glob("*/*.jpg"))[::3]:
        photo.write_bytes(photo.read_bytes() + b"more")  # kept, and marked in the ledger
    jsonl = release.cdn / "jsonl/preference.jsonl"
    records = [json.loads(line) for line in jsonl.read_text(encoding="utf-8").splitlines()]
    for number, record in enumerate(records):
        # One address twice in a row, and a rejected image that is the chosen one.
        rejected = record["rejected_images"]
        rejected += rejected[:1] if number % 2 else []
        rejected += [f"nano-banana-300k/{record['output_image']}"] if number % 5 == 0 else []
    jsonl.write_text("".join(f"{json.dumps(one)}\n" for one in records), encoding="utf-8")
    return release


@pytest.mark.parametrize("on_missing", ["skip", pytest.param("null", marks=pytest.mark.long)])
def test_what_is_found_later_stands_where_it_would_have_stood(
    large: SampleRelease, tmp_path: Path, on_missing: str
) -> None:
    rng = random.Random(7)
    images = {config: images_of(large, config) for config in CONFIGS}
    paths = sorted({path for found in images.values() for one in found for path in one.values()})
    # Rows that lack a rejected image: one between others, and one whose address stands there twice.
    some = [[*images["preference"][number].values()] for number in (5, 11)]
    listed = {some[0][3], some[1][2]}
    had = {path for one in some for path in one} - listed
    gone = set(rng.sample(sorted({*paths} - had - listed), len(paths) // 16))
    passing = set(rng.sample(sorted({*paths} - had - gone), len(paths) // 8)) | listed
    # A record of which nothing is had.
    passing |= {*images["sft"][2].values()} - had - gone
    with serving(large) as cdn:
        words = (*CONFIGS, "--on-missing", on_missing)
        fail(cdn, gone, 404)
        assert pico_banana(*words_of(large, cdn, tmp_path / "calm", *words)).code == 1
        fail(cdn, passing, 500)
        out = tmp_path / "out"
        assert pico_banana(*words_of(large, cdn, out, *words)).code == 1
        assert digests(out) != digests(tmp_path / "calm")
        kinds = {
            (image["column"], image["reason"], entry["row"])
            for config in CONFIGS
            for ledger in ledgers(out, config)
            for entry in ledger["missing"]
            for image in entry["images"]
        }
        assert {(c, r) for c, r, _ in kinds} >= {(c, "server_error") for c in COLUMNS}
        assert len({column for column, reason, _ in kinds if reason == "not_found"}) > 2
        assert ("rejected_images", "server_error", True) in kinds
        expected: Counter[str] = sum(
            (to_ask(out, images[config], config) for config in CONFIGS), start=Counter()
        )
        cdn.clear()
        fail(cdn, gone, 404)
        ended = pico_banana(*words_of(large, cdn, out, *words, "--retry-missing"))
        assert ended.code == 1
        assert asked(cdn) == expected
    assert "trying missing images again" in ended.err
    assert digests(out) == digests(tmp_path / "calm")
    for config in CONFIGS:
        calm = ledgers(tmp_path / "calm", config)
        assert any(ledger["marks"] for ledger in calm)
        assert without_tries(ledgers(out, config)) == without_tries(calm)
        assert plan_of(out, config) == plan_of(tmp_path / "calm", config)
    assert pico_banana("verify", out, "--check", "decode").code == 0
    assert not list(out.glob("**/*.tmp"))


# Sft alone: shard 0 has what passes and what lasts, shard 1 what lasts, shard 2 is whole


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> SampleRelease:
    return make_sample_release(tmp_path_factory.mktemp("small"), sft=12, size=(48, 32))


@pytest.fixture(scope="module")
def edits(release: SampleRelease) -> list[str]:
    """The path of each record's edited image on the server."""
    return [[*images.values()][1] for images in images_of(release, "sft")]


@pytest.fixture
def cdn(release: SampleRelease) -> Iterator[FakeCDN]:
    with serving(release) as server:
        yield server


@pytest.fixture(scope="module")
def made(
    release: SampleRelease, edits: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Folders `calm`, where two images are not found, and `holed`, where two more failed."""
    folder = tmp_path_factory.mktemp("made")
    # This comes before a test has caches of its own.
    env = {name: os.fspath(folder / name) for name in ("PICO_BANANA_CACHE", "HF_HOME")}
    with serving(release) as server:
        fail(server, {edits[1], edits[5]}, 404)
        assert pico_banana(*words_of(release, server, folder / "calm"), env=env).code == 1
        fail(server, {edits[0], edits[3]}, 500)
        assert pico_banana(*words_of(release, server, folder / "holed"), env=env).code == 1
    return folder


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """An output with holes, to be worked on."""
    shutil.copytree(made / "holed", tmp_path / "out")
    return tmp_path / "out"


def test_only_shards_with_something_to_try_are_touched(
    release: SampleRelease, cdn: FakeCDN, edits: list[str], made: Path, out: Path
) -> None:
    files = [*out.glob("sft/*.parquet"), *out.glob("_ledger/sft/train-*.json")]
    before = {path: state_of(path) for path in files}
    ended = pico_banana(*words_of(release, cdn, out, "--retry-missing"))
    assert ended.code == 1
    assert "trying missing images again: images 2, shards 1" in ended.err
    assert "1 shard made, 2 kept" in ended.out
    assert "--retry-missing" not in ended.out  # what is left will not pass
    touched = {path.stem for path in files if state_of(path) != before[path]}
    assert touched == {SHARD}
    assert edits[1] not in asked(cdn)
    assert digests(out) == digests(made / "calm")

    cdn.clear()
    ended = pico_banana(*words_of(release, cdn, out, "--retry-missing"))
    assert "nothing to try again" in ended.err
    assert "--retry-missing-all" in ended.err
    assert "0 shards made, 3 kept" in ended.out
    assert not asked(cdn)

    # Both flags: all wins. What was not found is there now.
    ended = pico_banana(*words_of(release, cdn, out, "--retry-missing", "--retry-missing-all"))
    assert ended.code == 0, ended.err
    assert "2 shards made, 1 kept" in ended.out
    assert {path for path in asked(cdn) if path.startswith("/cdn")} == {edits[1], edits[5]}
    whole = out.parent / "whole"
    assert pico_banana(*words_of(release, cdn, whole, "--retry-missing")).code == 0
    assert digests(out) == digests(whole)


def test_what_fails_again_stays_as_it_was_with_its_tries_added(
    release: SampleRelease, cdn: FakeCDN, edits: list[str], made: Path, out: Path
) -> None:
    fail(cdn, {edits[0], edits[3]}, 500)
    ended = pico_banana(*words_of(release, cdn, out, "--retry-missing"))
    assert ended.code == 1
    assert "1 shard made, 2 kept" in ended.out
    assert "the same command with --retry-missing tries again" in ended.out
    assert digests(out) == digests(made / "holed")
    for tries, folder in ((3, made / "holed"), (6, out)):
        missing = ledgers(folder, "sft")[0]["missing"]
        assert [entry["images"][0]["tries"] for entry in missing] == [tries, 1, tries]
    assert without_tries(ledgers(out, "sft")) == without_tries(ledgers(made / "holed", "sft"))
    assert pico_banana("verify", out).code == 0


def test_holes_that_are_tried_again_do_not_count_beforehand(
    release: SampleRelease, cdn: FakeCDN, edits: list[str], out: Path
) -> None:
    """Of 4 examples with missing images 2 are kept: they count, the other 2 only if they fail."""
    fail(cdn, {edits[1]}, 404)
    for allowed, code in (("1", 1), ("2", 0)):
        words = words_of(release, cdn, out, "--retry-missing", "--max-missing", allowed)
        assert pico_banana(*words).code == code


def test_a_damaged_file_is_made_wholly_anew(
    release: SampleRelease, cdn: FakeCDN, edits: list[str], made: Path, out: Path
) -> None:
    path = out / f"sft/{SHARD}.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    fail(cdn, {edits[1]}, 404)
    ended = pico_banana(*words_of(release, cdn, out, "--retry-missing"))
    assert ended.code == 1
    assert f"{SHARD}.parquet must have the sha256 of its ledger" in ended.err
    assert {path for path in asked(cdn) if path.startswith("/cdn")} == {*edits[:4]}
    assert digests(out) == digests(made / "calm")
    assert pico_banana("verify", out).code == 0


def test_retrying_is_refused_together_with_overwriting(
    release: SampleRelease, cdn: FakeCDN, made: Path, out: Path
) -> None:
    for flag in ("--retry-missing", "--retry-missing-all"):
        ended = pico_banana(*words_of(release, cdn, out, flag, "--overwrite"))
        assert ended.code == 2
        assert "retry_missing must be left out with overwrite" in ended.err
    assert digests(out) == digests(made / "holed")


@pytest.mark.long
def test_row_groups_are_read_one_by_one(tmp_path: Path) -> None:
    """Three edits of 25 MB make two row groups."""
    release = make_sample_release(tmp_path / "release", sft=5, size=(48, 32))
    rng = random.Random(3)
    images = [[*one.values()][1].removeprefix("/cdn/") for one in images_of(release, "sft")]
    for path in images[1:4]:
        picture = Image.frombytes("RGB", (2900, 2900), rng.randbytes(2900 * 2900 * 3))
        picture.save(release.cdn / path, compress_level=0)
    words = ("--records-per-shard", "5")
    out = tmp_path / "out"
    with serving(release) as cdn:
        assert pico_banana(*words_of(release, cdn, tmp_path / "calm"), *words).code == 0
        fail(cdn, {f"/cdn/{images[0]}"}, 500)
        assert pico_banana(*words_of(release, cdn, out), *words).code == 1
        assert pq.ParquetFile(next(out.glob("sft/*.parquet"))).num_row_groups == 2
        cdn.clear()
        assert pico_banana(*words_of(release, cdn, out), *words, "--retry-missing").code == 0
        assert set(asked(cdn)) & {f"/cdn/{path}" for path in images} == {f"/cdn/{images[0]}"}
    assert digests(out) == digests(tmp_path / "calm")


# Kills

KILLER = """
import os, signal, sys

def hook(event, arguments):
    # Python tells of a rename before it is done.
    if event == "os.rename" and os.fspath(arguments[1]).endswith(os.environ["KILL_NAME"]):
        os.environ["KILL_TURN"] = str(int(os.environ["KILL_TURN"]) - 1)
        if os.environ["KILL_TURN"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
"""

STEPS = {
    "before the ledger carries the next one": (f"{SHARD}.json", 1),
    "before the new file has its name": (f"{SHARD}.parquet", 1),
    "before the new ledger stands alone": (f"{SHARD}.json", 2),
}


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(step, marks=pytest.mark.long if place != 1 else ())
        for place, step in enumerate(STEPS)
    ],
)
def test_a_kill_between_two_steps_loses_nothing(
    release: SampleRelease, cdn: FakeCDN, edits: list[str], made: Path, out: Path, step: str
) -> None:
    (out.parent / "killer").mkdir()
    (out.parent / "killer/sitecustomize.py").write_text(KILLER, encoding="utf-8")
    name, turn = STEPS[step]
    paths = [os.fspath(out.parent / "killer"), os.environ.get("PYTHONPATH", "")]
    env = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    env |= {"KILL_NAME": name, "KILL_TURN": str(turn)}
    words = words_of(release, cdn, out)
    fail(cdn, {edits[1]}, 404)
    ended = pico_banana(*words, "--retry-missing", env=env)
    assert ended.code == 1
    assert "a worker process ended by signal 9" in ended.err

    ledger, parquet = out / f"_ledger/sft/{SHARD}.json", f"sft/{SHARD}.parquet"
    is_new = step == "before the new ledger stands alone"
    generation = made / ("calm" if is_new else "holed")
    left = ledger.read_bytes()
    assert ("next" in json.loads(left)) == (step != "before the ledger carries the next one")
    assert (out / parquet).read_bytes() == (generation / parquet).read_bytes()

    # `verify` takes what fits, and changes nothing.
    shown = pico_banana("verify", out)
    assert shown.code == 0, shown.out
    missing, written = (2, 10) if is_new else (4, 8)
    counts = [line.split() for line in shown.out.splitlines() if line.startswith("sft")]
    assert counts == [["sft", "12", "0", "0", "0", str(missing), str(written)]]
    assert ledger.read_bytes() == left

    # A convert that tries nothing again takes it likewise, and leaves one ledger.
    cdn.clear()
    ended = pico_banana(*words)
    assert "0 shards made, 3 kept" in ended.out
    assert f"examples with missing images: {missing};" in ended.out
    assert not asked(cdn)
    assert digests(out) == digests(generation)
    assert without_tries(ledgers(out, "sft")) == without_tries(ledgers(generation, "sft"))
    assert not list(out.glob("**/*.tmp"))

    if step == "before the new file has its name":
        fail(cdn, {edits[1]}, 404)
        assert pico_banana(*words, "--retry-missing").code == 1
        assert digests(out) == digests(made / "calm")
        assert ledgers(out, "sft") == ledgers(made / "calm", "sft")


def begin(
    release: SampleRelease, cdn: FakeCDN, edits: list[str], out: Path
) -> subprocess.Popen[str]:
    """Start trying again, and wait until it waits for the first record's edited image."""
    cdn.hold(edits[0])
    words = arguments_of(*words_of(release, cdn, out, "--retry-missing"))
    run = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    cdn.wait_for_request(edits[0])
    return run


@pytest.mark.long
def test_killed_in_the_middle_and_continued(
    release: SampleRelease, cdn: FakeCDN, edits: list[str], made: Path, out: Path
) -> None:
    run = begin(release, cdn, edits, out)
    children = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signal.SIGKILL)
    run.communicate(timeout=30)
    psutil.wait_procs(children, timeout=20)
    assert digests(out) == digests(made / "holed")
    assert pico_banana("verify", out).code == 0
    cdn.release()
    cdn.clear()
    fail(cdn, {edits[1]}, 404)
    assert pico_banana(*words_of(release, cdn, out, "--retry-missing")).code == 1
    assert digests(out) == digests(made / "calm")
    assert ledgers(out, "sft") == ledgers(made / "calm", "sft")
    assert not list(out.glob("**/*.tmp"))


@pytest.mark.long
def test_an_old_file_that_is_deleted_meanwhile_is_named(
    release: SampleRelease, cdn: FakeCDN, edits: list[str], made: Path, out: Path
) -> None:
    run = begin(release, cdn, edits, out)
    (out / f"sft/{SHARD}.parquet").unlink()
    cdn.release()
    _, said = run.communicate(timeout=60)
    assert run.returncode == 1
    assert f"{SHARD}.parquet was whole when work on it began, but cannot be read any more" in said
    assert "Traceback" not in said
    fail(cdn, {edits[1]}, 404)
    assert pico_banana(*words_of(release, cdn, out)).code == 1
    assert digests(out) == digests(made / "calm")


def test_where_sizes_are_equal_the_bytes_decide(tmp_path: Path) -> None:
    ledger = Ledger(Store(os.fspath(tmp_path)), "sft")

    def of(data: bytes, writer: str) -> ShardLedger:
        sha256 = hashlib.sha256(data).hexdigest()
        writers = {"test": writer}
        return ShardLedger("s", "d", 0, len(data), sha256, [], [], writers=writers)

    for folder in ("sft", "_ledger/sft"):
        (tmp_path / folder).mkdir(parents=True)
    for old, new in ((b"old", b"new"), (b"old", b"newer"), (b"same", b"same")):
        ledger.write_next(of(old, "old"), of(new, "new"))
        for data in (old, new):
            (tmp_path / "sft/s.parquet").write_bytes(data)
            expected = of(new, "new") if data == new else of(old, "old")
            assert ledger.finished("s", "d") == ledger.read_shard("s") == expected
        (tmp_path / "sft/s.parquet").unlink()
        assert ledger.finished("s", "d") is None
        assert ledger.unsettled == {"s"}
