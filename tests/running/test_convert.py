"""The converter through its command line, against a real server and real processes."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import resource
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import huggingface_hub
import psutil
import pyarrow.parquet as pq
import pytest

from pico_banana.convert.demo.sample_release import SampleRelease, make_sample_release
from pico_banana.schema import CONFIGS
from tests import fake_cdn
from tests.commands import (
    arguments_of,
    count,
    digests,
    ledgers,
    pico_banana,
    plan_of,
    quick_settings,
    release_flags,
    rows,
)
from tests.fake_cdn import FakeCDN
from tests.make_read_back import check_bytes

SFT = 70


def convert(release: SampleRelease, output: Path, *words: Any, cdn: FakeCDN | None = None):
    base = f"{cdn.url}/cdn" if cdn else None
    output.parent.mkdir(parents=True, exist_ok=True)
    return pico_banana(
        "convert",
        *(words if words and words[0] in (*CONFIGS, "all") else ("sft", *words)),
        *release_flags(release, base),
        *quick_settings(output.parent),
        *("--output", output),
    )


def bucket_at(cdn: FakeCDN) -> str:
    """The mirror that stands for Open Images' bucket."""
    return f"open-images-dataset.s3.amazonaws.com={cdn.url}/bucket"


def test_all_configs_hold_the_published_bytes(release: SampleRelease, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = convert(release, out, "all", "--records-per-shard", "30")
    assert ended.code == 0, ended.err
    for config in CONFIGS:
        found = rows(out, config)
        assert len(found) == release.good[config]
        checked = sum(check_bytes(release, row) for row in found)
        assert checked >= 2 * len(found)
    assert pico_banana("verify", out, "--check", "decode").code == 0


def test_workers_servers_and_ways_do_not_change_a_byte(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path
) -> None:
    assert convert(release, tmp_path / "a", "--records-per-shard", "14", "--workers", "1").code == 0
    words = ("--records-per-shard", "14", "--workers", "3", "--concurrency", "5")
    assert convert(release, tmp_path / "b", *words, cdn=cdn).code == 0
    words = ("--records-per-shard", "14", "--input-sources", "bucket")
    assert convert(release, tmp_path / "c", *words, "--mirrors", bucket_at(cdn)).code == 0
    assert cdn.count("/bucket/*.jpg") > 0
    assert digests(tmp_path / "a") == digests(tmp_path / "b") == digests(tmp_path / "c")
    assert len(digests(tmp_path / "a")) == 6
    assert {way for one in ledgers(tmp_path / "a", "sft") for way, _ in one["ways"]} == {"folder"}
    assert {way for one in ledgers(tmp_path / "c", "sft") for way, _ in one["ways"]} == {"bucket"}


def test_ledgers_say_how_an_address_was_found_in_the_image_list(
    release: SampleRelease, tmp_path: Path
) -> None:
    rows_of_list = release.metadata_csv.read_text(encoding="utf-8").splitlines(keepends=True)
    respelled, unlisted = rows_of_list[1:4], rows_of_list[4]
    urls = {line.split(",")[2] for line in respelled}
    edited = [re.sub(r"//farm\d+\.|//c\d+\.", "//live.", line) for line in respelled]
    assert all(new != old for new, old in zip(edited, respelled, strict=True))
    listed = tmp_path / "list.csv"
    listed.write_text("".join([rows_of_list[0], *edited, *rows_of_list[5:]]), encoding="utf-8")
    out = tmp_path / "out"
    words = ("--open-images-metadata", listed, "--on-missing", "null", "--output", out)
    # without an ImageID there is no place to ask, and the input is null
    assert pico_banana("convert", "sft", *release_flags(release), *words).code == 1
    found = rows(out, "sft")
    expected = [
        "name" if row["input_url"] in urls else "exact" if row["image_id"] else None
        for row in found
    ]
    assert {"name", "exact", None} == set(expected)
    absent = [row["input_url"] for row in found if row["image_id"] is None]
    assert set(absent) == {unlisted.split(",")[2]}
    told = [one for made in ledgers(out, "sft") for how, n in made["matches"] for one in [how] * n]
    assert told == expected
    assert pico_banana("verify", out).code == 0


def test_within_a_shard_an_address_is_fetched_once(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path
) -> None:
    words = ("--records-per-shard", "100", "--input-sources", "bucket", "--workers", "1")
    assert convert(release, tmp_path / "o", *words, "--mirrors", bucket_at(cdn), cdn=cdn).code == 0
    asked = [request.path for request in cdn.requests("/bucket/*.jpg")]
    assert len(asked) == len(set(asked)) == 10
    edits = [request.path for request in cdn.requests("*/images/*")]
    assert len(edits) == len(set(edits)) == SFT


def test_only_a_deleted_file_is_made_again(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert convert(release, out, "--records-per-shard", "14", cdn=cdn).code == 0
    before = digests(out)
    times = {path: path.stat().st_mtime_ns for path in out.glob("sft/*.parquet")}
    lost = out / "sft" / "train-00002-of-00005.parquet"
    lost.unlink()
    cdn.clear()
    assert convert(release, out, "--records-per-shard", "14", cdn=cdn).code == 0
    assert digests(out) == before
    assert {p for p in times if p.stat().st_mtime_ns != times[p]} == {lost}
    assert cdn.count("*/images/*") == 14
    cdn.clear()
    assert convert(release, out, "--records-per-shard", "14", cdn=cdn).code == 0
    assert cdn.count("*/images/*") == 0


def begin(release: SampleRelease, out: Path, cdn: FakeCDN) -> subprocess.Popen[str]:
    """Start a conversion whose third shard waits in the middle, and wait for that."""
    cdn.hold("*/images/positive-edit/*")
    words = [
        "convert",
        "sft",
        *release_flags(release, f"{cdn.url}/cdn"),
        "--output",
        os.fspath(out),
    ]
    words += ["--records-per-shard", "10", "--workers", "2", *quick_settings(out.parent)]
    run = subprocess.Popen(arguments_of(*words), stderr=subprocess.PIPE, text=True)
    cdn.wait_for_request("*/images/positive-edit/*", n=20)
    return run


@pytest.mark.parametrize("who", [pytest.param("workers", marks=pytest.mark.long), "parent"])
def test_killed_in_the_middle_and_continued(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path, who: str
) -> None:
    assert convert(release, tmp_path / "calm", "--records-per-shard", "10").code == 0
    out = tmp_path / "out"
    run = begin(release, out, cdn)
    children = psutil.Process(run.pid).children(recursive=True)
    workers = [child for child in children if child.ppid() != run.pid]  # they are forked
    assert len(workers) == 2
    for victim in workers if who == "workers" else [psutil.Process(run.pid)]:
        victim.send_signal(signal.SIGKILL)
    _, said = run.communicate(timeout=30)
    if who == "workers":
        assert run.returncode == 1
        assert "a worker process ended by signal 9" in said
        assert "run the same command again" in said
    # Workers end with their parent, however that ended.
    gone, alive = psutil.wait_procs(children, timeout=20)
    assert not alive, gone
    assert not [path for path in out.glob("sft/*") if path.suffix == ".parquet"]
    cdn.release()
    assert convert(release, out, "--records-per-shard", "10", cdn=cdn).code == 0
    assert digests(out) == digests(tmp_path / "calm")
    assert not list(out.glob("**/*.tmp"))


def test_the_front_of_the_card_is_as_the_hubs_library_writes_it(sound: Path) -> None:
    card = (sound / "README.md").read_text(encoding="utf-8")
    data = huggingface_hub.DatasetCard(card).data.to_dict()
    assert data["license"] == "cc-by-nc-nd-4.0"
    written = huggingface_hub.DatasetCardData(**data).to_yaml()
    assert card.startswith(f"---\n{written}\n---\n")


def test_what_a_kill_left_of_the_card_is_swept(sound: Path, release: SampleRelease) -> None:
    left = sound / ".README.md.0123456789abcdef.tmp"
    left.write_text("half", encoding="utf-8")
    mine = sound / ".notes.tmp"
    mine.write_text("mine", encoding="utf-8")
    assert convert(release, sound, "--records-per-shard", "14").code == 0
    assert not left.exists()
    assert mine.exists()
    mine.unlink()


def test_an_empty_shard_is_a_file_without_a_row_group(
    own_release: SampleRelease, tmp_path: Path
) -> None:
    lines = (own_release.cdn / "jsonl/sft.jsonl").read_text(encoding="utf-8").splitlines()
    for line in lines[10:20]:
        (own_release.cdn / json.loads(line)["output_image"]).unlink()
    out = tmp_path / "out"
    ended = convert(own_release, out, "--limit", "30", "--records-per-shard", "10")
    assert ended.code == 1
    assert "missing: 10 images are not_found" in ended.out
    made = pq.ParquetFile(out / "sft/train-00001-of-00003.parquet")
    assert (made.num_row_groups, made.metadata.num_rows) == (0, 0)
    assert pico_banana("verify", out).code == 0


@pytest.fixture
def three_absent(own_release: SampleRelease) -> SampleRelease:
    lines = (own_release.cdn / "jsonl/sft.jsonl").read_text(encoding="utf-8").splitlines()
    for number in (4, 41, 67):
        (own_release.cdn / json.loads(lines[number])["output_image"]).unlink()
    return own_release


def test_missing_images_are_skipped_and_listed(three_absent: SampleRelease, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = convert(three_absent, out, "--records-per-shard", "50")
    assert ended.code == 1
    assert "examples with missing images: 3" in ended.out
    assert len(rows(out, "sft")) == SFT - 3
    missing = [entry for ledger in ledgers(out, "sft") for entry in ledger["missing"]]
    assert [entry["line"] for entry in missing] == [5, 42, 68]
    assert {image["reason"] for entry in missing for image in entry["images"]} == {"not_found"}
    assert all(image["url"].startswith("https://ml-site") for e in missing for image in e["images"])
    assert sum(count(ledger["written"]) for ledger in ledgers(out, "sft")) == SFT - 3
    assert sum(count(ledger["missing_lines"]) for ledger in ledgers(out, "sft")) == 3
    assert pico_banana("verify", out).code == 0


def test_missing_images_may_be_null(three_absent: SampleRelease, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert convert(three_absent, out, "--on-missing", "null").code == 1
    found = rows(out, "sft")
    assert len(found) == SFT
    null = [row for row in found if row["edited_image"] is None]
    assert len(null) == 3
    for row in null:
        assert row["edited_url"].startswith("https://ml-site.cdn-apple.com/")
        assert row["edited_width"] is row["edited_height"] is row["edited_sha256"] is None
        assert row["input_image"] is not None
    assert pico_banana("verify", out, "--check", "decode").code == 0


def test_a_missing_image_may_stop_the_run(three_absent: SampleRelease, tmp_path: Path) -> None:
    ended = convert(three_absent, tmp_path / "out", "--on-missing", "fail")
    assert ended.code == 1
    assert "on_missing is fail" in ended.err
    assert "images/positive-edit/" in ended.err
    assert not list((tmp_path / "out").glob("sft/*.parquet"))


@pytest.mark.parametrize(("allowed", "code"), [("3", 0), ("2", 1), ("0.05", 0), ("0.04", 1)])
def test_max_missing(three_absent: SampleRelease, tmp_path: Path, allowed: str, code: int) -> None:
    assert convert(three_absent, tmp_path / "out", "--max-missing", allowed).code == code


def test_max_missing_stops_early(release: SampleRelease, cdn: FakeCDN, tmp_path: Path) -> None:
    cdn.fail("*/images/*", forever=fake_cdn.status(404))
    words = ("--records-per-shard", "10", "--max-missing", "5", "--workers", "1")
    ended = convert(release, tmp_path / "out", *words, "--concurrency", "4", cdn=cdn)
    assert ended.code == 1
    assert "more than --max-missing 5 allows" in ended.err
    assert cdn.count("*/images/*") < SFT


SELECTIONS: dict[str, tuple[list[str], Any]] = {
    "types": (["--edit-types", "zoom-in,outpainting"], lambda _n, r: "oom" in r or "Outp" in r),
    "offset": (["--offset", "60"], lambda n, _r: n >= 60),
    "limit": (["--limit", "7"], lambda n, _r: n < 7),
    "both": (["--offset", "10", "--limit", "5"], lambda n, _r: 10 <= n < 15),
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_a_selection_fetches_what_it_needs_and_no_more(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path, name: str
) -> None:
    words, wanted = SELECTIONS[name]
    lines = (release.cdn / "jsonl/sft.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    expected = [r for n, r in enumerate(records) if wanted(n, r["edit_type"])]
    assert 0 < len(expected) < SFT
    out = tmp_path / "out"
    assert convert(release, out, *words, cdn=cdn).code == 0
    assert [row["edit_prompt"] for row in rows(out, "sft")] == [r["text"] for r in expected]
    asked = sorted(request.path for request in cdn.requests("*/images/*"))
    assert asked == sorted(f"/cdn/{r['output_image']}" for r in expected)
    plan = plan_of(out, "sft")
    gone = count(plan["filtered"]) + count(plan["left_out"])
    assert gone + len(expected) == plan["lines"] == SFT


def test_ids_and_exclude_ids(release: SampleRelease, cdn: FakeCDN, tmp_path: Path) -> None:
    assert convert(release, tmp_path / "all", "--records-per-shard", "14").code == 0
    found = rows(tmp_path / "all", "sft")
    photo = found[30]["image_id"]
    listed = tmp_path / "ids.txt"
    listed.write_text(f"{photo}\n{found[0]['id']}\n", encoding="utf-8")
    assert convert(release, tmp_path / "some", "--ids", f"@{listed}", cdn=cdn).code == 0
    expected = [row["id"] for row in found if row["image_id"] == photo or row is found[0]]
    assert [row["id"] for row in rows(tmp_path / "some", "sft")] == expected
    assert cdn.count("*/images/*") == len(expected)
    # A takedown acts after the cut: only the shards that hold the photo are made again.
    before = digests(tmp_path / "all")
    ended = convert(release, tmp_path / "all", "--records-per-shard", "14", "--exclude-ids", photo)
    assert ended.code == 0, ended.err
    after = digests(tmp_path / "all")
    held = {n // 14 for n, row in enumerate(found) if row["image_id"] == photo}
    touched = {f"sft/train-{n:05d}-of-00005.parquet" for n in held} | {"README.md"}
    assert {name for name in after if after[name] != before[name]} == touched
    assert [row for row in found if row["image_id"] != photo] == rows(tmp_path / "all", "sft")
    assert pico_banana("verify", tmp_path / "all").code == 0


def test_validation_puts_a_photo_on_one_side_in_all_configs(
    release: SampleRelease, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert convert(release, out, "all", "--validation", "0.4").code == 0
    sides: dict[str, set[str]] = {"train": set(), "validation": set()}
    for path in out.glob("*/*.parquet"):
        sides[path.name.partition("-")[0]] |= set(pq.read_table(path)["image_id"].to_pylist())
    assert sides["train"]
    assert sides["validation"]
    assert not sides["train"] & sides["validation"]


def test_parquet_has_a_page_an_image_and_bounded_row_groups(
    release: SampleRelease, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert convert(release, out, "preference").code == 0
    found = pq.ParquetFile(next(out.glob("preference/*.parquet"))).metadata
    group = found.row_group(0)
    columns = {group.column(n).path_in_schema: group.column(n) for n in range(group.num_columns)}
    for name in ("input_image.bytes", "chosen_image.bytes", "rejected_images.list.element.bytes"):
        assert columns[name].compression == "UNCOMPRESSED"
        assert not columns[name].has_dictionary_page
        assert not columns[name].is_stats_set
        assert columns[name].has_offset_index
    assert columns["edit_prompt"].compression == "UNCOMPRESSED"
    assert columns["edit_prompt"].has_column_index


VERIFY_FAULTS = {
    "a flipped byte": "sha256 differs from the ledger",
    "a missing shard": "the file is missing",
    "a row too few": "has 13 rows, but its ledger says 14",
    "a ledger of other settings": "is of other settings or records than the plan",
    "a record that is nowhere": "is planned here, but nowhere in its ledger",
    "a line that is nowhere": "of the JSONL file is nowhere in plan.json",
    "a strange file": "not in the plan",
    "no ledger": "not finished (no ledger)",
    "no card": "the card is missing",
}


@pytest.fixture(scope="module")
def sound(release: SampleRelease, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sound") / "out"
    assert convert(release, out, "--records-per-shard", "14").code == 0
    assert pico_banana("verify", out).code == 0
    return out


@pytest.mark.parametrize("fault", VERIFY_FAULTS)
def test_verify_finds(sound: Path, tmp_path: Path, fault: str) -> None:
    out = tmp_path / "out"
    shutil.copytree(sound, out)
    shard = out / "sft/train-00001-of-00005.parquet"
    ledger = out / "_ledger/sft/train-00001-of-00005.json"
    plan = out / "_ledger/sft/plan.json"
    if fault == "a flipped byte":
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
    elif fault == "a missing shard":
        shard.unlink()
    elif fault == "a row too few":
        pq.write_table(pq.read_table(shard).slice(0, 13), shard)
    elif fault == "a ledger of other settings":
        change(ledger, lambda value: value.update(digest="0" * 64))
    elif fault == "a record that is nowhere":
        change(ledger, lambda value: value.update(written=[[15, 27]], rows=13))
    elif fault == "a line that is nowhere":
        change(plan, lambda value: value["shards"][1].update(lines=[[15, 27]]))
    elif fault == "a strange file":
        shutil.copy(shard, out / "sft/train-00000-of-00099.parquet")
    elif fault == "no ledger":
        ledger.unlink()
    elif fault == "no card":
        (out / "README.md").unlink()
    ended = pico_banana("verify", out)
    assert ended.code == 1
    assert VERIFY_FAULTS[fault] in ended.out


def change(path: Path, how: Any) -> None:
    value = json.loads(path.read_bytes())
    how(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def test_verify_with_decode_finds_a_picture_that_is_not_its_sha256(
    sound: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(sound, out)
    name = "train-00001-of-00005"
    shard = out / f"sft/{name}.parquet"
    table = pq.read_table(shard)
    place = table.column_names.index("edited_sha256")
    wrong = table["edited_sha256"].to_pylist()
    wrong[3] = "0" * 64
    pq.write_table(table.set_column(place, table.schema.field(place), [wrong]), shard)
    ended = pico_banana("verify", out, "--check", "decode")
    assert ended.code == 1
    assert "is not what its sha256 column says" in ended.out


def test_a_quirky_release_is_accounted_for_to_the_last_line(tmp_path: Path) -> None:
    release = make_sample_release(tmp_path / "release", size=(48, 32), quirks=True)
    out = tmp_path / "out"
    ended = convert(release, out, "all", "--records-per-shard", "20")
    assert ended.code == 0, ended.err
    for config in CONFIGS:
        plan = plan_of(out, config)
        assert len(plan["bad"]) == release.bad[config]
        assert len(rows(out, config)) == release.good[config]
        assert plan["lines"] == release.bad[config] + release.good[config]
        assert all(bad["reason"] and bad["detail"] and bad["line"] for bad in plan["bad"])
    assert pico_banana("verify", out, "--check", "decode").code == 0
    shown = pico_banana("plan", "all", *release_flags(release))
    assert shown.code == 0
    for word in ("not_json", "turns_mismatch", "unknown edit type", "repeated output image"):
        assert word in shown.out


def test_another_plan_is_refused_and_overwritten_on_demand(
    release: SampleRelease, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert convert(release, out, "--limit", "20").code == 0
    stranger = out / "sft" / "notes.txt"
    stranger.write_text("mine", encoding="utf-8")
    refused = convert(release, out, "--limit", "30")
    assert refused.code == 2
    assert "limit: 20 before, 30 now" in refused.err
    assert "--overwrite" in refused.err
    assert convert(release, out, "--limit", "30", "--overwrite").code == 0
    assert len(rows(out, "sft")) == 30
    assert stranger.exists()
    assert len(list(out.glob("sft/*.parquet"))) == 1


def test_a_release_that_changed_goes_on_with_the_kept_copy(
    own_release: SampleRelease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PICO_BANANA_CACHE", os.fspath(tmp_path / "cache"))
    jsonl = own_release.cdn / "jsonl/sft.jsonl"
    out = tmp_path / "out"
    words = ("--limit", "20", "--records-per-shard", "10")
    with FakeCDN(("/cdn", own_release.cdn)) as cdn:
        assert convert(own_release, out, *words, cdn=cdn).code == 0
        before = digests(out)
        jsonl.write_bytes(jsonl.read_bytes().partition(b"\n")[2])
        (out / "sft/train-00000-of-00002.parquet").unlink()
        ended = convert(own_release, out, *words, cdn=cdn)
        assert ended.code == 0, ended.err
        assert "has changed since this output was begun" in ended.err
        assert digests(out) == before
        shutil.rmtree(tmp_path / "cache")
        ended = convert(own_release, out, *words, cdn=cdn)
        assert ended.code == 2
        assert "JSONL file has changed" in ended.err


@pytest.mark.long
def test_two_conversions_of_one_output_do_not_meet(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path
) -> None:
    run = begin(release, tmp_path / "out", cdn)
    try:
        ended = convert(release, tmp_path / "out", "--records-per-shard", "10")
        assert ended.code == 2
        assert "another pico-banana convert of sft is writing" in ended.err
    finally:
        cdn.release()
        _, said = run.communicate(timeout=60)
    assert run.returncode == 0, said


@pytest.mark.long
def test_a_full_disk_in_the_middle_leaves_no_unfinished_file(
    release: SampleRelease, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["convert", "sft", *release_flags(release), "--output", out, "--workers", "1"]

    def small_files() -> None:
        # The system's own refusal to write on, as a full disk's: EFBIG in place of ENOSPC.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    ended = pico_banana(*words, "--records-per-shard", "50", preexec=small_files)
    assert ended.code == 1
    assert "cannot be written" in ended.err
    assert "run the same command again to continue" in ended.err
    assert not list(out.glob("sft/*"))
    assert pico_banana(*words, "--records-per-shard", "50").code == 0
    assert pico_banana("verify", out).code == 0


@pytest.fixture(scope="module")
def too_large(release: SampleRelease, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of more records than the disk has room for."""
    folder = tmp_path_factory.mktemp("large")
    line = (release.cdn / "jsonl/sft.jsonl").read_bytes().partition(b"\n")[0]
    shutil.copytree(release.cdn / "manifest", folder / "manifest")
    (folder / "jsonl").mkdir()
    count = (shutil.disk_usage(folder).free + 25 * 10**9) // 1_700_000  # others may free some
    (folder / "jsonl/sft.jsonl").write_bytes((line + b"\n") * count)
    return folder


def test_too_small_a_disk_is_refused_before_any_fetch(
    release: SampleRelease, too_large: Path, tmp_path: Path
) -> None:
    with FakeCDN(("/cdn", too_large)) as cdn:
        flags = [*release_flags(release, f"{cdn.url}/cdn"), "--output", tmp_path / "out"]
        ended = pico_banana("convert", "sft", *flags)
        assert ended.code == 2
        assert "GB free, but the plan needs about" in ended.err
        assert not (tmp_path / "out").exists()
        assert cdn.count("*.jsonl") > 0
        assert cdn.count("*/images/*") == 0


BAD_INPUT: list[tuple[list[str], list[str]]] = [
    (["sftt"], ["CONFIG must be one of", "did you mean 'sft'?"]),
    (["sft", "--edit-types", "zom-in"], ["edit_types", "did you mean 'zoom-in'?"]),
    (["sft", "--on-missing", "skp"], ["on_missing must be one of", "did you mean 'skip'?"]),
    (["sft", "--check", "decod"], ["check must be one of", "did you mean 'decode'?"]),
    (["multi_turn", "--edit-types", "zoom-in"], ["edit_types must be left out with multi_turn"]),
    (["all", "--edit-types", "zoom-in"], ["edit_types must be left out with multi_turn"]),
    (["sft", "--limit", "x"], ["--limit"]),
    (["sft", "--limt", "3"], ["No such option: --limt"]),
    (["sft", "--mirrors", "x"], ["mirrors must be GLOB=BASE"]),
    (["sft", "--max-missing", "1.5"], ["max_missing must be a count like 25"]),
    (["sft", "--cdn", "http://127.0.0.1:9/x"], ["http://127.0.0.1:9/x/jsonl/sft.jsonl", "network"]),
    (["sft", "--cdn", "/"], ["jsonl/sft.jsonl", "is not there"]),
    (["sft", "--settings", "/no/such.yaml"], ["/no/such.yaml"]),
    (["sft", "--images", "url"], ["cdn must be an http(s) URL"]),
]


@pytest.mark.parametrize(("words", "said"), BAD_INPUT, ids=lambda value: " ".join(value)[:40])
def test_bad_input_is_refused(
    release: SampleRelease, tmp_path: Path, words: list[str], said: list[str]
) -> None:
    own = [] if "--cdn" in words else release_flags(release)
    ended = pico_banana("convert", *words, *own, "--output", tmp_path / "out")
    assert ended.code == 2, ended
    for text in said:
        assert text in ended.err
    assert not list((tmp_path / "out").glob("*/*.parquet"))


def test_a_folder_of_photos_that_is_none_is_refused(release: SampleRelease, tmp_path: Path) -> None:
    for folder in (tmp_path / "nope", release.metadata_csv):
        flags = [*release_flags(release), "--open-images", folder, "--output", tmp_path / "out"]
        ended = pico_banana("convert", "sft", *flags)
        assert ended.code == 2
        assert "open_images must be a folder" in ended.err
        assert os.fspath(folder) in ended.err


@pytest.mark.long
def test_photos_that_vanish_stop_the_run(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(release.open_images, photos)
    flags = [*release_flags(release, f"{cdn.url}/cdn"), "--open-images", os.fspath(photos)]
    words = ["convert", "sft", *flags, "--output", os.fspath(tmp_path / "out"), "--workers", "1"]
    words += ["--records-per-shard", "10", "--concurrency", "2"]
    cdn.hold("*/images/*")
    run = subprocess.Popen(arguments_of(*words), stderr=subprocess.PIPE, text=True)
    cdn.wait_for_request("*/images/*", n=1)
    photos.rename(tmp_path / "away")
    cdn.release()
    _, said = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "is no folder any more" in said
    (tmp_path / "away").rename(photos)
    assert pico_banana(*words).code == 0
    assert len(rows(tmp_path / "out", "sft")) == SFT


def test_somebody_elses_readme_is_left_alone(release: SampleRelease, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "README.md").write_text("mine", encoding="utf-8")
    ended = convert(release, out, "--limit", "3")
    assert ended.code == 2
    assert "the card would replace it" in ended.err
    assert (out / "README.md").read_text(encoding="utf-8") == "mine"
    ended = convert(release, release.cdn, "--limit", "3")
    assert ended.code == 2
    assert "must not be the release itself" in ended.err


def test_a_broken_plan_is_named_and_overwritten_on_demand(
    release: SampleRelease, sound: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(sound, out)
    words = ("--records-per-shard", "14")
    for text in ("", "[]", '{"format": 1}', '{"format": 99}'):
        (out / "_ledger/sft/plan.json").write_text(text, encoding="utf-8")
        verified = pico_banana("verify", out)
        assert verified.code == 1
        for ended in (convert(release, out, *words), verified):
            assert "plan.json" in ended.err + ended.out
            assert "--overwrite" in ended.err + ended.out
    assert convert(release, out, *words, "--overwrite").code == 0
    assert pico_banana("verify", out).code == 0


def test_verify_goes_on_after_a_broken_ledger(sound: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(sound, out)
    (out / "_ledger/sft/train-00001-of-00005.json").write_text("", encoding="utf-8")
    (out / "sft/train-00003-of-00005.parquet").unlink()
    ended = pico_banana("verify", out)
    assert ended.code == 1
    assert "train-00001-of-00005.json is no JSON" in ended.out
    assert "train-00003-of-00005.parquet: the file is missing" in ended.out


def test_a_cache_folder_that_cannot_be_written_is_named(
    release: SampleRelease, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    flags = [*release_flags(release), "--output", tmp_path / "out"]
    env = {"PICO_BANANA_CACHE": os.fspath(tmp_path / "file")}
    ended = pico_banana("convert", "sft", *flags, env=env)
    assert ended.code == 2
    assert "set PICO_BANANA_CACHE to another folder" in ended.err


def test_ledgers_name_the_versions_that_decide(sound: Path) -> None:
    """Pillow's says what of odd images is corrupt: XMP that is not UTF-8, say."""
    named = {"pico_banana_400k", "pillow", "pyarrow"}
    versions = {name: importlib.metadata.version(name.replace("_", "-")) for name in named}
    assert [ledger["writers"] for ledger in ledgers(sound, "sft")] == 5 * [versions]


def test_a_long_tmpdir_is_no_hindrance(release: SampleRelease, tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    flags = [*release_flags(release), "--limit", "3", "--output", tmp_path / "out"]
    ended = pico_banana("convert", "sft", *flags, env={"TMPDIR": os.fspath(folder)})
    assert ended.code == 0, ended.err
    assert not list(folder.iterdir())


def test_a_selection_that_keeps_nothing_is_refused(release: SampleRelease, tmp_path: Path) -> None:
    ended = convert(release, tmp_path / "out", "--offset", "1000")
    assert ended.code == 2
    assert "nothing is selected (sft: 70 lines, 0 bad, 0 filtered, 70 left out)" in ended.err
    ended = convert(release, tmp_path / "o", "--exclude-ids", "nobody", "--limit", "3")
    assert ended.code == 0
    assert "exclude_ids: 1 match no record of sft: nobody" in ended.err
    again = convert(release, tmp_path / "o", "--limit", "3")
    assert "exclude_ids is another list than before" in again.err


@pytest.mark.parametrize("command", ["plan", "convert"])
def test_ids_that_match_no_record_are_named(
    release: SampleRelease, tmp_path: Path, command: str
) -> None:
    """Whatever filters leave, of any of the configs, by id or by ImageID."""
    sound = tmp_path / "sound"
    for config in ("sft", "preference"):
        words = ["convert", config, *release_flags(release), "--images", "none", "--output", sound]
        assert pico_banana(*words).code == 0
    found, other = rows(sound, "sft"), rows(sound, "preference")[-1]["id"]
    photo = next(row["image_id"] for row in found if row["image_id"])
    named = [found[0]["id"], found[-1]["id"], photo, other]
    wrong = sorted(f"{name}x" for name in [*named, *(row["id"] for row in found[1:11])])
    listed = tmp_path / "takedowns.txt"
    listed.write_text("\n".join([*named, *wrong]))
    flags = [*release_flags(release), "--exclude-ids", f"@{listed}", "--images", "none"]
    flags += [
        "--edit-types",
        "zoom-in",
        "--limit",
        "2",
        "--ids",
        f"{photo},{found[5]['id']},nobody",
    ]
    flags += ["--output", os.fspath(tmp_path / "out")] if command == "convert" else []
    ended = pico_banana(command, "sft", "preference", *flags)
    said = [line for line in ended.err.splitlines() if "match no record" in line]
    assert said == [
        "ids: 1 match no record of sft, preference: nobody",
        f"exclude_ids: 14 match no record of sft, preference: {', '.join(wrong[:10])} and 4 more",
    ]


def test_edit_types_are_printed_whatever_the_encoding() -> None:
    ended = pico_banana("types", env={"PYTHONIOENCODING": "ascii"})
    assert ended.code == 0
    assert "change-overall-color-tone" in ended.out


@pytest.mark.parametrize(
    "output", ["/dev/null/out", "nosuch://bucket/out", "memory://out", "s3:/bucket/out"]
)
def test_an_output_that_cannot_be_written_is_refused(release: SampleRelease, output: str) -> None:
    ended = pico_banana("convert", "sft", *release_flags(release), "--output", output)
    assert ended.code == 2
    assert output in ended.err


def test_tasks_and_ledgers_larger_than_a_pipe_do_not_lock(tmp_path: Path) -> None:
    """Parent and worker both send more than a pipe holds, while neither receives."""
    folder = tmp_path / "cdn" / "jsonl"
    folder.mkdir(parents=True)
    record = {"open_image_input_url": "https://farm1.staticflickr.com/1/1_a_o.jpg"}
    with open(folder / "sft.jsonl", "w", encoding="utf-8") as file:
        for n in range(3600):
            line = {**record, "text": "t" * 300, "output_image": f"images/p/{n}.png"}
            file.write(json.dumps(line) + "\n")
    flags = ["--cdn", tmp_path / "cdn", "--open-images-metadata", "none"]
    flags += ["--input-sources", "flickr", "--mirrors", f"*.staticflickr.com={tmp_path}"]
    words = ["--workers", "1", "--records-per-shard", "1200", "--concurrency", "1"]
    ended = pico_banana("convert", "sft", *flags, *words, "--output", tmp_path / "out")
    assert ended.code == 1
    assert "examples with missing images: 3,600" in ended.out


def test_a_refused_run_changes_nothing(
    release: SampleRelease, sound: Path, too_large: Path, tmp_path: Path
) -> None:
    """The way out that the refusal names must be open."""
    out = tmp_path / "out"
    shutil.copytree(sound, out)
    before = digests(out)
    flags = [*release_flags(release, too_large), "--output"]
    ended = pico_banana("convert", "sft", *flags, out, "--overwrite")
    assert ended.code == 2
    assert "GB free" in ended.err
    assert digests(out) == before
    new = tmp_path / "new"
    assert pico_banana("convert", "sft", *flags, new).code == 2
    limited = ("--limit", "3", "--on-missing", "null")
    assert pico_banana("convert", "sft", *flags, new, *limited).code == 1
    assert len(rows(new, "sft")) == 3


def test_foreign_text_is_harmless_in_card_and_terminal(
    own_release: SampleRelease, tmp_path: Path
) -> None:
    jsonl = own_release.cdn / "jsonl/sft.jsonl"
    first, rest = jsonl.read_text(encoding="utf-8").split("\n", 1)
    kind = "`x`[click](http://evil) <img src=x> | \x1b[31mred \u202e"
    text = json.dumps({**json.loads(first), "edit_type": kind})
    jsonl.write_text(f"{text}\n{rest}", encoding="utf-8")
    out = tmp_path / "out"
    assert convert(own_release, out, "--limit", "4").code == 0
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "\\`x\\`\\[click\\](http://evil) \\<img src=x\\> \\|" in card
    assert pq.read_table(out / "sft")["edit_type"].to_pylist()[0] == kind
    shown = pico_banana("plan", "sft", *release_flags(own_release)).out
    assert "click" in shown
    for text in (card, shown):
        assert "\x1b" not in text
        assert "\u202e" not in text


def test_secrets_are_not_shown(release: SampleRelease, tmp_path: Path) -> None:
    settings = tmp_path / "settings.yaml"
    for text in ("storage_option: {secret: S3CR3T}", "storage_options: key=S3CR3T"):
        settings.write_text(text, encoding="utf-8")
        flags = [*release_flags(release), "--settings", settings, "--output", tmp_path / "out"]
        ended = pico_banana("convert", "sft", *flags)
        assert ended.code == 2
        assert "storage_option" in ended.err
        assert "S3CR3T" not in ended.err + ended.out


def test_five_thousand_of_one_type_are_twenty_files(tmp_path: Path) -> None:
    """Shards are cut after selection; the plan needs no image to be there."""
    folder = tmp_path / "cdn" / "jsonl"
    folder.mkdir(parents=True)
    record = {"open_image_input_url": "https://farm1.staticflickr.com/1/1_a_o.jpg", "text": "t"}
    with open(folder / "sft.jsonl", "w", encoding="utf-8") as file:
        for n in range(5000 * 18):
            kind = "Zoom in" if n % 18 == 0 else "Remove an existing object"
            line = {**record, "output_image": f"images/p/{n}.png", "edit_type": kind}
            file.write(json.dumps(line) + "\n")
    flags = ["--cdn", tmp_path / "cdn", "--open-images-metadata", "none"]
    flags += ["--input-sources", "flickr", "--edit-types", "zoom-in"]
    ended = pico_banana("plan", "sft", *flags)
    assert ended.code == 0, ended.err
    facts = [line.split() for line in ended.out.splitlines()]
    assert ["planned", "records", "5,000"] in facts
    assert ["shards", "of", "train", "20"] in facts
    assert ["filtered", "85,000"] in facts
