"""What a plan is reckoned by: the sizes of some images, asked for within bounds, or averages."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import tarfile
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pico_banana_400k
from pico_banana.convert.demo.sample_release import SampleRelease, make_sample_release
from pico_banana.schema import CONFIGS
from tests.commands import Ended, digests, pico_banana, plan_of, release_flags
from tests.fake_cdn import FakeCDN, body, chunked, gzip, redirect, stall, status

IMAGES = ("/cdn/images/*", "/bucket/*")
AVERAGES = "by averages of the whole release"
BUCKET = "open-images-dataset.s3.amazonaws.com"
Size = tuple[int, int]


@pytest.fixture(scope="module", params=[(48, 32), (120, 90), (240, 180)], ids=str)
def sized(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A release of images of about this size, with more of them than are asked for."""
    root = tmp_path_factory.mktemp("sized")
    return make_sample_release(
        root, sft=100, preference=44, multi_turn=30, photos=80, size=request.param, seed=3
    )


def serving(release: SampleRelease) -> FakeCDN:
    photos = [("/bucket/train", release.open_images / f"train_{digit}") for digit in "01"]
    return FakeCDN(("/cdn", release.cdn), *photos)


def flags(release: SampleRelease, cdn: FakeCDN) -> list[str]:
    """Name the release as it lies at a server, its photos in the bucket."""
    return [
        *("--cdn", f"{cdn.url}/cdn", "--open-images-metadata", os.fspath(release.metadata_csv)),
        *("--mirrors", f"{BUCKET}={cdn.url}/bucket"),
    ]


def reckoned(ended: Ended) -> dict[str, float]:
    """What `plan` says of each config's bytes."""
    assert ended.code == 0, ended.err
    sizes = re.findall(r"^estimated size +([\d.,]+) (GB|MB)", ended.out, re.MULTILINE)
    names = re.findall(rf"^({'|'.join(CONFIGS)}) *$", ended.out, re.MULTILINE)
    units = {"GB": 1e9, "MB": 1e6}
    given = [float(number.replace(",", "")) * units[unit] for number, unit in sizes]
    return dict(zip(names, given, strict=True))


def asked(cdn: FakeCDN) -> int:
    return sum(map(cdn.count, IMAGES))


def written(out: Path, config: str) -> int:
    return sum(path.stat().st_size for path in (out / config).glob("*.parquet"))


@pytest.mark.long
def test_the_estimate_is_within_a_tenth_of_what_is_written(
    sized: SampleRelease, tmp_path: Path
) -> None:
    with serving(sized) as cdn:
        ended = pico_banana("plan", "all", *flags(sized, cdn), probe=True)
        # sft: inputs and edits; preference: rejected ones too; multi_turn: all turns are one kind.
        assert asked(cdn) <= (2 + 3 + 2) * 64
        assert all(request.method == "HEAD" for glob in IMAGES for request in cdn.requests(glob))
        cdn.clear()
        one = pico_banana("plan", "sft", *flags(sized, cdn), probe=True)
        assert [*map(cdn.count, IMAGES)] == [64, pytest.approx(50, abs=14)]
        out = tmp_path / "out"
        done = pico_banana("convert", "all", *flags(sized, cdn), "--output", out, probe=True)
    assert done.code == 0, done.err
    assert "by the sizes of 128 images" in one.out
    assert reckoned(one)["sft"] == reckoned(ended)["sft"]
    for config, estimate in reckoned(ended).items():
        # One decimal of a MB is shown.
        assert estimate == pytest.approx(written(out, config), rel=0.1, abs=5e4)


def test_a_selection_is_reckoned_by_its_own_images(release: SampleRelease) -> None:
    with serving(release) as cdn:
        ended = pico_banana("plan", "sft", *flags(release, cdn), "--limit", "5", probe=True)
        assert cdn.count("/cdn/images/*") == 5
    assert reckoned(ended)["sft"] < 1e5


@pytest.fixture
def steady(release: SampleRelease) -> Iterator[FakeCDN]:
    with serving(release) as cdn:
        yield cdn


HEADS = {
    "405": status(405),
    "403": status(403),
    "501": status(501),
    "without a length": chunked(),
}


@pytest.mark.parametrize("head", HEADS)
def test_where_head_is_refused_the_first_byte_is_asked_for(
    head: str, release: SampleRelease, steady: FakeCDN
) -> None:
    usual = reckoned(pico_banana("plan", "sft", *flags(release, steady), probe=True))
    steady.clear()
    steady.fail("*/*.*g", forever=HEADS[head], method="HEAD")
    ended = pico_banana("plan", "sft", *flags(release, steady), probe=True)
    gets = [request for request in steady.requests("/cdn/images/*") if request.method == "GET"]
    assert steady.count("/cdn/images/*") <= 64
    assert len(gets) >= 56
    assert {request.headers["Range"] for request in gets} == {"bytes=0-0"}
    assert reckoned(ended)["sft"] == pytest.approx(usual["sft"], rel=0.1)
    assert "by the sizes of" in ended.out


def test_where_ranges_are_ignored_no_body_is_read(release: SampleRelease, steady: FakeCDN) -> None:
    steady.ranges = False
    steady.fail("*/*.*g", forever=status(405), method="HEAD")
    steady.fail("*/*.*g", forever=stall(), method="GET")  # the head, and not a byte
    begun_s = time.monotonic()
    ended = pico_banana("plan", "sft", *flags(release, steady), probe=True)
    assert "by the sizes of" in ended.out
    assert "for no sizes were told" not in ended.out
    assert time.monotonic() - begun_s < 8


NO_SIZES = {
    "a page": body(b"<html>" + b"x" * 10**6),
    "packed": gzip(),
    "nothing there": status(404),
    "refused": status(403),
    "down": status(500),
    "too much": status(429, {"Retry-After": "3600"}),
    "nothing": body(b"", "image/png"),
    "without end": redirect("/-/redirect-loop"),
}


@pytest.mark.parametrize("name", NO_SIZES)
def test_what_tells_no_size_is_left_out(name: str, release: SampleRelease, steady: FakeCDN) -> None:
    steady.fail("/cdn/images/*", forever=NO_SIZES[name])
    steady.fail("/bucket/*", forever=NO_SIZES[name])
    begun_s = time.monotonic()
    ended = pico_banana("plan", "sft", *flags(release, steady), probe=True)
    assert time.monotonic() - begun_s < 8
    assert f"{AVERAGES}, for no sizes were told" in ended.out
    assert reckoned(ended)["sft"] == pytest.approx(70 * 1.7e6, rel=0.01)
    assert max(map(steady.count, IMAGES)) <= 64
    if name == "too much":
        assert asked(steady) <= 2 * 8  # those that were under way


@pytest.mark.long
def test_a_host_that_says_nothing_delays_a_run_by_ten_seconds(
    release: SampleRelease, steady: FakeCDN, tmp_path: Path
) -> None:
    steady.fail("/cdn/images/*", forever=stall(-1), method="HEAD")
    begun_s = time.monotonic()
    words = [*flags(release, steady), "--output", tmp_path / "out", "--limit", "20"]
    ended = pico_banana("convert", "sft", *words, probe=True)
    assert time.monotonic() - begun_s < 20
    assert ended.code == 0, ended.err
    # What has come counts.
    assert re.search(rf"by the sizes of \d+ images, edited images {AVERAGES}", ended.err)


def test_a_host_that_is_not_there_is_not_waited_for(release: SampleRelease) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{unused.getsockname()[1]}"
    begun_s = time.monotonic()
    words = [*release_flags(release), "--input-sources", "bucket", "--mirrors", f"{BUCKET}={away}"]
    ended = pico_banana("plan", "sft", *words, probe=True)
    assert time.monotonic() - begun_s < 8
    assert f"by the sizes of 64 images, input images {AVERAGES}" in ended.out


def test_flickr_is_never_asked_but_a_mirror_of_it_may_be(
    release: SampleRelease, steady: FakeCDN
) -> None:
    words = ["plan", "sft", "--cdn", f"{steady.url}/cdn", "--input-sources", "flickr"]
    words += ["--open-images-metadata", os.fspath(release.metadata_csv)]
    # A proxy would see what is asked of Flickr.
    proxied = {"http_proxy": steady.url, "https_proxy": steady.url, "no_proxy": "127.0.0.1"}
    begun_s = time.monotonic()
    ended = pico_banana(*words, probe=True, env=proxied)
    assert time.monotonic() - begun_s < 8  # its pace is not waited for
    assert f"by the sizes of 64 images, input images {AVERAGES}" in ended.out
    assert {request.path.split("/")[1] for request in steady.log} == {"cdn"}
    assert "flickr" not in " ".join(str(request.raw_path) for request in steady.log)
    with FakeCDN(("/flickr", release.flickr)) as mirror:
        led = f"*.staticflickr.com={mirror.url}/flickr/{{host}}"
        ended = pico_banana(*words, "--mirrors", led, probe=True)
        assert "by the sizes of 128 images" in ended.out
        assert 0 < mirror.count() <= 64
    led = f"*.staticflickr.com={release.flickr}/{{host}}"
    assert "by the sizes of 128 images" in pico_banana(*words, "--mirrors", led, probe=True).out
    # Nor by a detour.
    steady.clear()
    steady.fail("/cdn/images/*", forever=redirect("http://live.staticflickr.com/1/1_a_o.jpg"))
    ended = pico_banana(*words, probe=True, env=proxied)
    assert f"{AVERAGES}, for no sizes were told" in ended.out
    assert "flickr" not in " ".join(str(request.raw_path) for request in steady.log)


def test_nobody_is_asked_where_it_is_said_or_nothing_is_fetched(
    release: SampleRelease, steady: FakeCDN, tmp_path: Path
) -> None:
    given = flags(release, steady)
    settings = tmp_path / "settings.yaml"
    settings.write_text("no_probe: true\n", encoding="utf-8")
    for more in (["--no-probe"], ["--settings", settings], ["--images", "url"]):
        ended = pico_banana("plan", "sft", *given, *more, probe=True)
        assert AVERAGES in ended.out
        assert "no sizes" not in ended.out
    out = tmp_path / "links"
    for images in ("url", "none"):
        words = [*given, "--output", out / images, "--images", images]
        assert pico_banana("convert", "sft", *words, probe=True).code == 0
    assert asked(steady) == 0


def heads(cdn: FakeCDN) -> int:
    return sum(request.method == "HEAD" for glob in IMAGES for request in cdn.requests(glob))


@pytest.mark.parametrize("place", ["folder", pytest.param("s3", marks=pytest.mark.long)])
def test_all_slices_and_runs_share_one_answer(
    place: str, release: SampleRelease, steady: FakeCDN, tmp_path: Path, request: Any
) -> None:
    out: Any = tmp_path / "out"
    if place == "s3":
        request.getfixturevalue("s3").create_bucket(Bucket="made")
        out = "s3://made/out"
    words = ["convert", "sft", *flags(release, steady), "--records-per-shard", "20"]
    told = set()
    for index in range(3):
        ended = pico_banana(*words, "--output", out, "--slice", f"{index}/3", probe=True)
        assert ended.code == 0, ended.err
        told.add(re.findall(r"about [\d.]+ MB by the sizes of \d+ images", ended.err)[0])
        if not index:
            first = heads(steady)
    assert first > 0
    assert heads(steady) == first
    assert len(told) == 1
    steady.clear()
    assert pico_banana(*words, "--output", out, probe=True).code == 0  # all is finished
    assert asked(steady) == 0
    if place == "folder":
        (out / "_ledger" / "sft" / "sizes.json").unlink()
        assert pico_banana(*words, "--output", out, probe=True).code == 0
        assert asked(steady) == 0
        assert pico_banana("verify", out).code == 0


def test_slices_that_start_at_once_ask_once(
    release: SampleRelease, steady: FakeCDN, tmp_path: Path
) -> None:
    words = ["convert", "sft", *flags(release, steady), "--records-per-shard", "20"]
    words += ["--output", os.fspath(tmp_path / "out")]
    alone = pico_banana("plan", *words[1:-2], probe=True)
    assert alone.code == 0, alone.err
    first = heads(steady)
    steady.clear()
    with ThreadPoolExecutor(3) as pool:
        slices = [[*words, "--slice", f"{index}/3"] for index in range(3)]
        ended = [*pool.map(lambda mine: pico_banana(*mine, probe=True), slices)]
    assert [one.code for one in ended] == [0, 0, 0], [one.err for one in ended]
    assert heads(steady) == first > 0


def test_the_output_is_the_same_with_and_without_an_answer(
    release: SampleRelease, steady: FakeCDN, tmp_path: Path
) -> None:
    words = ["convert", "all", *flags(release, steady)]
    outs = [tmp_path / name for name in ("asked", "not", "broken")]
    assert pico_banana(*words, "--output", outs[0], probe=True).code == 0
    assert pico_banana(*words, "--output", outs[1]).code == 0
    (outs[2] / "_ledger" / "sft").mkdir(parents=True)
    (outs[2] / "_ledger" / "sft" / "sizes.json").write_text('{"of": 3, "means": []}')
    assert pico_banana(*words, "--output", outs[2], probe=True).code == 0
    for out in outs[1:]:
        assert digests(out) == digests(outs[0])
        assert all(plan_of(out, config) == plan_of(outs[0], config) for config in CONFIGS)
    assert not (outs[1] / "_ledger" / "sft" / "sizes.json").exists()
    kept = json.loads((outs[2] / "_ledger" / "sft" / "sizes.json").read_bytes())
    assert {*kept["means"]} == {"input", "edited"}


def test_folders_are_looked_at(release: SampleRelease) -> None:
    ended = pico_banana("plan", "preference", *release_flags(release), probe=True)
    assert "by the sizes of" in ended.out
    assert "averages" not in ended.out
    assert reckoned(ended)["preference"] < 5e5


@pytest.mark.parametrize("packing", ["", pytest.param("gz", marks=pytest.mark.long)])
@pytest.mark.parametrize("is_indexed", [False, True])
def test_tars_are_looked_into_without_an_index(
    packing: str, is_indexed: bool, release: SampleRelease, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for digit in "01":
        name = f"train_{digit}.tar" + (f".{packing}" if packing else "")
        mode: Any = f"w:{packing}"
        with tarfile.open(photos / name, mode) as archive:
            archive.add(release.open_images / f"train_{digit}", f"train_{digit}")
    there = replace(release, open_images=photos)
    words = [*release_flags(there), "--input-sources", "tar", "--limit", "60"]
    if is_indexed:
        done = pico_banana("convert", "sft", *words, "--output", tmp_path / "out")
        assert done.code == 0, done.err
    before = {path.name for path in photos.iterdir()}
    ended = pico_banana("plan", "sft", *words, probe=True)
    assert {path.name for path in photos.iterdir()} == before
    assert "by the sizes of" in ended.out
    assert ("averages" in ended.out) is False
    if is_indexed:
        real = written(tmp_path / "out", "sft")
        assert reckoned(ended)["sft"] == pytest.approx(real, rel=0.1, abs=5e4)


@pytest.fixture(scope="module")
def many(release: SampleRelease, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release whose records would not fit on the disk by averages; all are of a few images."""
    root = tmp_path_factory.mktemp("many") / "cdn"
    shutil.copytree(release.cdn, root)
    lines = (release.cdn / "jsonl/sft.jsonl").read_bytes()
    times = shutil.disk_usage(root).free // 1_700_000 // 70 + 100
    (root / "jsonl/sft.jsonl").write_bytes(lines * times)
    return root


def sparse(folder: Path, size_bytes: int) -> None:
    """Make every image of a folder as large as that, with hardly a byte on the disk."""
    for path in folder.rglob("*.*g"):
        with open(path, "r+b") as file:
            file.truncate(size_bytes)


@pytest.mark.long
def test_small_images_pass_where_averages_refused(
    release: SampleRelease, many: Path, tmp_path: Path
) -> None:
    words = ["convert", "sft", *release_flags(release, many), "--output", tmp_path / "out"]
    refused = pico_banana(*words)
    assert refused.code == 2
    assert f"reckoned {AVERAGES}; take less" in refused.err
    # One of very many slices: all of it would take long, but is what the plan is reckoned by.
    ended = pico_banana(*words, "--slice", "0/100000", "--slices-at-once", "1", probe=True)
    assert ended.code == 0, ended.err
    assert "by the sizes of 128 images" in ended.err


@pytest.mark.long
def test_large_images_are_refused_with_what_they_take(
    own_release: SampleRelease, tmp_path: Path
) -> None:
    # Far more than the average, so that 70 records fit by averages and not by their sizes.
    size = min(shutil.disk_usage(tmp_path).free // 60, 99_000_000)
    free = shutil.disk_usage(tmp_path).free
    sparse(own_release.cdn / "images", size)
    jsonl = own_release.cdn / "jsonl/sft.jsonl"
    jsonl.write_bytes(jsonl.read_bytes() * (free // size // 70 + 2))
    out = tmp_path / "out"
    ended = pico_banana("convert", "sft", *release_flags(own_release), "--output", out, probe=True)
    assert ended.code == 2
    said = re.search(r"needs about ([\d,.]+) GB, reckoned by the sizes of 128 images", ended.err)
    assert said, ended.err
    count = len(jsonl.read_bytes().splitlines())
    assert float(said[1].replace(",", "")) == pytest.approx(count * size / 1e9, rel=0.02)
    assert not out.exists()


def test_a_load_is_reckoned_by_sizes_where_much_is_at_stake(
    release: SampleRelease, tmp_path: Path
) -> None:
    root = tmp_path / "cdn"
    (root / "jsonl").mkdir(parents=True)
    lines = (release.cdn / "jsonl/sft.jsonl").read_bytes()
    (root / "jsonl/sft.jsonl").write_bytes(lines * 300)  # 36 GB by averages
    with FakeCDN(("/cdn", root), ("/cdn", release.cdn)) as cdn:
        given: dict[str, Any] = {
            "cdn": f"{cdn.url}/cdn",
            "open_images": os.fspath(release.open_images),
            "open_images_metadata": os.fspath(release.metadata_csv),
            "cache_dir": os.fspath(tmp_path / "cache"),
        }
        builder = pico_banana_400k.PicoBanana400K(config_name="sft", **given)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # none of 36 GB
            builder._estimate()
        assert builder.info.size_in_bytes < 2e8
        assert 0 < cdn.count("/cdn/images/*") <= 64
        cdn.clear()
        cdn.fail("/cdn/images/*", forever=status(404))
        with pytest.warns(UserWarning, match=rf"images, edited images {AVERAGES}, 42,000 requests"):
            builder._estimate()
        cdn.clear()
        stream = pico_banana_400k.load("sft", split="train", streaming=True, **given)
        next(iter(stream))
        assert not any(request.method == "HEAD" for request in cdn.requests("/cdn/images/*"))
        cdn.clear()
        assert len(pico_banana_400k.load("sft", split="train", limit=3, **given)) == 3
        assert not any(request.method == "HEAD" for request in cdn.requests("/cdn/images/*"))
