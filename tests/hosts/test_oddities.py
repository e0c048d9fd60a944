"""A host that answers everything oddly is broken off; a lone odd image is its own matter."""

from __future__ import annotations

import json
import logging
import socket
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import pytest

import pico_banana_400k
from pico_banana.convert.demo.sample_release import SampleRelease
from pico_banana.errors import MissingImageError
from pico_banana.fetching.fetcher import Fetcher
from pico_banana.fetching.sources import ImageRef
from pico_banana.input_sources import Place
from pico_banana.missing import Missing, MissingReason
from pico_banana.settings import Settings, build_settings
from tests import fake_cdn
from tests.commands import QUICK_FETCH, digests, ledgers, pico_banana, quick_settings, rows
from tests.fake_cdn import Answer, FakeCDN

LOGIN = fake_cdn.body(b"<html><form action=/login></form></html>")
PORTALS = {
    "a login page": LOGIN,
    "an empty answer": fake_cdn.body(b""),
    "401": fake_cdn.status(401),
    "451": fake_cdn.status(451),
    "a redirect to a login page": fake_cdn.redirect("http://login.example/?next=/"),
    "a redirect that never ends": fake_cdn.redirect_loop(),
}
BUCKET = "open-images-dataset.s3.amazonaws.com"


def reasons(out: Path) -> set[str]:
    return {
        image["reason"]
        for ledger in ledgers(out, "sft")
        for entry in ledger["missing"]
        for image in entry["images"]
    }


@pytest.fixture
def photos(release: SampleRelease):
    """The bucket, beside a release whose edits lie in a folder."""
    with FakeCDN(*[("/bucket/train", path) for path in release.open_images.iterdir()]) as served:
        yield served


def arguments(release: SampleRelease, photos: FakeCDN, **fetch: Any) -> dict[str, Any]:
    return {
        "cdn": str(release.cdn),
        "open_images_metadata": str(release.metadata_csv),
        "input_sources": ["bucket"],
        "mirrors": {BUCKET: f"{photos.url}/bucket"},
        "fetch": {**QUICK_FETCH, **fetch},
    }


def convert(release: SampleRelease, photos: FakeCDN, out: Path, *words: str, **fetch: Any) -> Any:
    given = arguments(release, photos, **fetch)
    settings = quick_settings(out.parent, **given)
    return pico_banana(
        "convert", "sft", *settings, "--output", out, "--records-per-shard", "20", *words
    )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.long] * (place > 1))
        for place, name in enumerate(PORTALS)
    ],
)
def test_a_portal_leaves_no_hole_for_good(
    name: str, release: SampleRelease, photos: FakeCDN, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole" / "out", tmp_path / "portal" / "out"
    whole.parent.mkdir()
    out.parent.mkdir()
    assert convert(release, photos, whole, "--limit", "30").code == 0
    photos.fail("/bucket/*", forever=PORTALS[name])
    ended = convert(release, photos, out, "--limit", "30")
    assert ended.code == 1
    assert "as a login page or a proxy would" in ended.err
    assert "not asked for" in ended.err
    assert "given up for this run" in ended.err
    assert reasons(out) == {"server_error"}
    assert rows(out, "sft") == []
    photos.clear()
    ended = convert(release, photos, out, "--limit", "30", "--retry-missing")
    assert ended.code == 0, ended.err
    assert digests(out) == digests(whole)


@pytest.mark.parametrize("concurrency", ["1", "64"])
def test_a_portal_that_goes_leaves_no_hole(
    concurrency: str, release: SampleRelease, photos: FakeCDN, tmp_path: Path
) -> None:
    photos.fail("/bucket/*", forever=LOGIN)
    words = ("--workers", "1", "--concurrency", concurrency, "--records-per-shard", "70")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            convert, release, photos, tmp_path / "out", *words, breaker_pause_s=0.2
        )
        photos.wait_for_request("/bucket/*", n=20)  # of 13 photos, seven for the last time
        photos.clear()
        ended = running.result()
    assert reasons(tmp_path / "out") == set()
    assert ended.code == 0, ended.err


@pytest.mark.parametrize("answer", [LOGIN, PORTALS["401"], PORTALS["a redirect to a login page"]])
def test_a_few_odd_images_are_their_own_matter(
    answer: Answer, release: SampleRelease, photos: FakeCDN, tmp_path: Path
) -> None:
    lines = (release.cdn / "jsonl" / "sft.jsonl").read_text(encoding="utf-8").splitlines()
    links = [json.loads(line)["open_image_input_url"] for line in lines]
    images = {row["input_url"]: row["image_id"] for row in rows_of(release, photos, tmp_path)}
    odd = [images[link] for link in links if link in images][3:40:12]
    for image_id in odd:
        photos.fail(f"/bucket/train/{image_id}.jpg", forever=answer)
    out = tmp_path / "out"
    ended = convert(release, photos, out, breaker_pause_s=3600)  # it would never end
    assert ended.code == 1
    assert "not asked for" not in ended.err
    found = [n for ledger in ledgers(out, "sft") for n in ledger["missing"]]
    assert len(found) >= len(odd)
    assert reasons(out) <= {"not_an_image", "forbidden", "forbidden_address"}


def rows_of(release: SampleRelease, photos: FakeCDN, folder: Path) -> list[dict[str, Any]]:
    """The rows of the release, and nothing in the server's log."""
    (folder / "before").mkdir()
    assert convert(release, photos, folder / "before" / "out").code == 0
    photos.clear()
    return rows(folder / "before" / "out", "sft")


def test_four_odd_images_that_are_all_wait_for_nothing(
    release: SampleRelease, photos: FakeCDN, tmp_path: Path
) -> None:
    photos.fail("/bucket/*", forever=LOGIN)
    ended = convert(release, photos, tmp_path / "out", "--limit", "4", breaker_pause_s=3600)
    assert ended.code == 1
    assert reasons(tmp_path / "out") == {"not_an_image"}


def test_a_name_that_resolves_to_a_private_address_is_odd_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.168.1.1", 443))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [entry])
    places = [Place("bucket", f"https://{BUCKET}/train/{number}.jpg") for number in range(30)]
    refs = [ImageRef(place.address, "a.jpg", (place,)) for place in places]
    with Fetcher(build_settings(Settings, {}, {"fetch": QUICK_FETCH})) as fetcher:
        found = [one for (one,) in fetcher.in_order([[[ref] for ref in refs]])]
    assert all(isinstance(one, Missing) for one in found)
    assert {one.reason for one in found if isinstance(one, Missing)} == {MissingReason.SERVER_ERROR}


# ---- the loader ----------------------------------------------------------------------------------


@pytest.fixture
def load(release: SampleRelease, photos: FakeCDN, tmp_path: Path) -> Callable[..., Any]:
    """Loads the release into a cache of its own."""
    usual = {**arguments(release, photos), "cache_dir": str(tmp_path / "datasets")}
    return lambda **given: pico_banana_400k.load("sft", **{**usual, **given})


@pytest.mark.parametrize("limit", [3, 30])
@pytest.mark.parametrize("on_missing", ["skip", "null"])
def test_a_portal_is_cached_by_no_load(
    limit: int, on_missing: str, load: Callable[..., Any], photos: FakeCDN
) -> None:
    given = {"limit": limit, "on_missing": on_missing}
    photos.fail("/bucket/*", forever=LOGIN)
    with pytest.raises(MissingImageError, match="Nothing is cached"):
        load(**given)
    photos.clear()
    assert load(**given)["train"].num_rows == limit


def test_a_host_that_gave_nothing_is_no_reason_for_a_whole_set_of_nulls(
    load: Callable[..., Any], photos: FakeCDN
) -> None:
    given = {"limit": 4, "on_missing": "null", "num_proc": 2}
    photos.fail("/bucket/*", forever=fake_cdn.status(401))
    with pytest.raises(MissingImageError, match="gave none of the 4 images that it was asked for"):
        load(**given)
    photos.clear()
    assert None not in load(**given)["train"]["input_sha256"]


def test_one_photo_that_is_gone_leaves_no_example(
    load: Callable[..., Any], photos: FakeCDN
) -> None:
    photos.fail("/bucket/*", forever=fake_cdn.status(404))
    with pytest.raises(MissingImageError, match=r"no example is left: .*1 not_found"):
        load(limit=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = load(limit=30, on_missing="null")["train"]
    assert found["input_sha256"] == [None] * 30  # the host says so itself


def test_a_stream_warns(
    load: Callable[..., Any], photos: FakeCDN, caplog: pytest.LogCaptureFixture
) -> None:
    photos.fail("/bucket/*", forever=LOGIN)
    caplog.set_level(logging.WARNING, "pico_banana")
    stream = load(limit=3, split="train", streaming=True)
    assert isinstance(stream, datasets.IterableDataset)
    assert list(stream) == []
    assert any("gave none of the 3 images" in said for said in caplog.messages)
    assert any("no example is left" in said for said in caplog.messages)
