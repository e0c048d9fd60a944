"""A disk that fails for a moment, and a folder that goes away, leave no hole for good."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

import pico_banana_400k
from pico_banana.convert.demo.sample_release import SampleRelease
from pico_banana.errors import PicoBananaError
from pico_banana.missing import MissingReason, reason_of_fault
from tests.commands import QUICK_FETCH, arguments_of, digests, pico_banana, quick_settings, rows
from tests.fake_cdn import FakeCDN

FLAKY = Path(__file__).parents[1] / "flaky"
ERRNOS = [errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.ENOTCONN, errno.EMFILE, errno.EAGAIN]


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_a_fault_passes_unless_it_says_absent_or_refused(number: int) -> None:
    expected = {
        **dict.fromkeys([errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG], "not_found"),
        **dict.fromkeys([errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR], "forbidden"),
    }.get(number, "connection")
    assert reason_of_fault(OSError(number, "x")) is MissingReason(expected)


def words_of(release: SampleRelease, tmp_path: Path, *more: str | Path) -> list[str | Path]:
    quick = quick_settings(tmp_path, fetch={**QUICK_FETCH, "retries": 9})
    return [
        *("convert", "all", "--cdn", release.cdn, "--open-images", release.open_images),
        *("--open-images-metadata", release.metadata_csv, *quick, *more),
    ]


def flaky(*folders: Path) -> dict[str, str]:
    return {
        "PYTHONPATH": os.fspath(FLAKY),
        "FLAKY_FOLDERS": ":".join(map(os.fspath, folders)),
        "FLAKY_ERRNOS": ",".join(map(str, ERRNOS)),
    }


@pytest.fixture(scope="module")
def calm(release: SampleRelease, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("calm")
    assert pico_banana(*words_of(release, out, "--output", out / "out")).code == 0
    return out / "out"


def test_a_disk_that_fails_once_in_five_looks_changes_no_byte(
    release: SampleRelease, calm: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    env = flaky(release.cdn / "images", release.open_images)
    ended = pico_banana(*words_of(release, tmp_path, "--output", out), env=env)
    assert ended.code == 0, ended.err
    assert "connection" in ended.err  # faults there were, and they were tried again
    assert digests(out) == digests(calm)


@pytest.mark.long
def test_tars_on_such_a_disk_give_every_photo(
    release: SampleRelease, calm: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for digit in "01":
        with tarfile.open(photos / f"train_{digit}.tar.gz", "w:gz") as tar:
            tar.add(release.open_images / f"train_{digit}", f"train_{digit}")
    out = tmp_path / "out"
    words = words_of(release, tmp_path, "--output", out, "--input-sources", "tar")
    words[words.index(release.open_images)] = photos
    ended = pico_banana(*words, env=flaky(photos))
    assert ended.code == 0, ended.err
    assert digests(out) == digests(calm)


LOADING = """
import json, sys
import pico_banana_400k
print(len(pico_banana_400k.load("sft", split="train", **json.loads(sys.argv[1]))))
"""


def test_the_loader_has_every_row_too(release: SampleRelease) -> None:
    arguments = {
        "cdn": os.fspath(release.cdn),
        "open_images": os.fspath(release.open_images),
        "open_images_metadata": os.fspath(release.metadata_csv),
        "fetch": {**QUICK_FETCH, "retries": 9},
    }
    env = flaky(release.cdn / "images", release.open_images)
    ended = subprocess.run(
        [sys.executable, "-c", LOADING, json.dumps(arguments)],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == [str(release.good["sft"])]


@pytest.mark.parametrize(
    "gone",
    [
        pytest.param("", marks=pytest.mark.long),
        pytest.param("images", marks=pytest.mark.long),
        "images/positive-edit",
    ],
)
def test_a_folder_of_the_release_that_goes_away_stops_the_run(
    gone: str, own_release: SampleRelease, cdn: FakeCDN, tmp_path: Path
) -> None:
    out, release = tmp_path / "out", own_release
    flags = [
        *("convert", "sft", "--cdn", release.cdn, "--open-images-metadata", release.metadata_csv),
        *("--mirrors", f"open-images-dataset.s3.amazonaws.com={cdn.url}/bucket"),
        *("--output", out, "--records-per-shard", "5", "--concurrency", "2", "--workers", "1"),
    ]
    cdn.hold("/bucket/*")
    run = subprocess.Popen(
        arguments_of(*flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    cdn.wait_for_request("/bucket/*", n=1, timeout_s=60)
    folder = release.cdn / gone
    folder.rename(tmp_path / "elsewhere")
    cdn.release()
    _, said = run.communicate(timeout=60)
    assert run.returncode == 1, said
    assert "was there in this run and is no folder any more" in said
    (tmp_path / "elsewhere").rename(folder)
    ended = pico_banana(*flags)
    assert ended.code == 0, ended.err
    assert len(rows(out, "sft")) == release.good["sft"]


@pytest.mark.parametrize("gone", ["images", "images/positive-edit"])
def test_nothing_is_cached_of_a_folder_that_went_away(
    gone: str, own_release: SampleRelease, tmp_path: Path
) -> None:
    release = own_release
    arguments: dict[str, Any] = {
        "cdn": os.fspath(release.cdn),
        "open_images": os.fspath(release.open_images),
        "open_images_metadata": os.fspath(release.metadata_csv),
        "fetch": QUICK_FETCH,
        "cache_dir": os.fspath(tmp_path / "datasets"),
    }
    assert pico_banana_400k.load("sft", split="train", limit=3, **arguments).num_rows == 3
    folder = release.cdn / gone
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(PicoBananaError):
        pico_banana_400k.load("sft", split="train", limit=30, **arguments)
    (tmp_path / "elsewhere").rename(folder)
    assert pico_banana_400k.load("sft", split="train", limit=30, **arguments).num_rows == 30


def test_a_mirror_that_lacks_a_folder_from_the_beginning_has_holes(
    own_release: SampleRelease, tmp_path: Path
) -> None:
    (own_release.cdn / "images" / "rejected-edit").rename(tmp_path / "elsewhere")
    out = tmp_path / "out"
    words = words_of(own_release, tmp_path, "--output", out, "--on-missing", "null")
    ended = pico_banana(*words)
    assert ended.code == 1
    assert "are not_found" in ended.out
    assert all(row["rejected_images"][0] is None for row in rows(out, "preference"))
