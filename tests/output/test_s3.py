"""Outputs on an object store: moto's S3 server, on loopback."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pico_banana.convert.demo.sample_release import SampleRelease
from tests.commands import digests, ledgers, pico_banana, quick_settings, release_flags
from tests.fake_cdn import FakeCDN, status
from tests.fake_hub import FakeHub
from tests.fake_s3 import BUCKET, fetch
from tests.publish_commands import parquet_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_an_output_on_s3_is_that_of_a_folder_and_continues(
    s3: Any, release: SampleRelease, tmp_path: Path
) -> None:
    words = ["convert", "sft", *release_flags(release), "--limit", "8", "--workers", "1"]
    words += ["--records-per-shard", "2"]
    assert pico_banana(*words, "--output", tmp_path / "here").code == 0
    ended = pico_banana(*words, "--output", f"s3://{BUCKET}/out")
    assert ended.code == 0, ended.err
    fetch(s3, tmp_path / "there")
    assert digests(tmp_path / "there") == digests(tmp_path / "here")
    assert len(digests(tmp_path / "there")) == 5
    s3.delete_object(Bucket=BUCKET, Key="out/sft/train-00001-of-00004.parquet")
    assert pico_banana("verify", f"s3://{BUCKET}/out").code == 1
    ended = pico_banana(*words, "--output", f"s3://{BUCKET}/out")
    assert "1 shard made, 3 kept" in ended.out
    assert pico_banana("verify", f"s3://{BUCKET}/out", "--check", "decode").code == 0


@pytest.mark.long
def test_holes_of_an_output_on_s3_are_filled_later(
    s3: Any, release: SampleRelease, cdn: FakeCDN, tmp_path: Path
) -> None:
    settings = [
        *quick_settings(tmp_path),
        "--limit",
        "6",
        "--records-per-shard",
        "2",
        "--workers",
        "1",
    ]
    there = f"s3://{BUCKET}/holed"
    words = ["convert", "sft", *release_flags(release, f"{cdn.url}/cdn"), *settings]
    assert pico_banana(*words, "--output", tmp_path / "here").code == 0
    failing = cdn.requests("*/images/*")[1].path
    cdn.clear()
    cdn.fail(failing, forever=status(500))
    assert pico_banana(*words, "--output", there).code == 1
    cdn.clear()
    ended = pico_banana(*words, "--output", there, "--retry-missing")
    assert ended.code == 0, ended.err
    assert "1 shard made, 2 kept" in ended.out
    assert [request.path for request in cdn.requests("*/images/*")] == [failing]
    fetch(s3, tmp_path / "there", "holed/")
    assert digests(tmp_path / "there") == digests(tmp_path / "here")
    assert ledgers(tmp_path / "there", "sft") == ledgers(tmp_path / "here", "sft")
    assert pico_banana("verify", there, "--check", "decode").code == 0


@pytest.mark.usefixtures("s3")
def test_a_bucket_that_is_not_there_is_refused(release: SampleRelease) -> None:
    ended = pico_banana("convert", "sft", *release_flags(release), "--output", "s3://nosuch/out")
    assert ended.code == 2
    assert "s3://nosuch" in ended.err or "nosuch/out" in ended.err


def test_a_release_on_s3_is_read(s3: Any, release: SampleRelease, tmp_path: Path) -> None:
    for path in release.cdn.rglob("*"):
        if path.is_file():
            s3.upload_file(os.fspath(path), BUCKET, f"cdn/{path.relative_to(release.cdn)}")
    there = release_flags(release, f"s3://{BUCKET}/cdn")
    for name, flags in (("there", there), ("here", release_flags(release))):
        ended = pico_banana(
            "convert", "sft", *flags, "--limit", "6", "--workers", "1", "--output", tmp_path / name
        )
        assert ended.code == 0, ended.err
    assert digests(tmp_path / "there") == digests(tmp_path / "here")


@pytest.mark.long
def test_slices_put_together_on_s3_are_the_output_of_a_folder(
    s3: Any, release: SampleRelease, tmp_path: Path
) -> None:
    words = ["convert", "sft", *release_flags(release), "--limit", "8", "--workers", "1"]
    words += ["--records-per-shard", "2"]
    assert pico_banana(*words, "--output", tmp_path / "here").code == 0
    out = f"s3://{BUCKET}/slices"
    for part in ("1/2", "0/2"):
        ended = pico_banana(*words, "--slice", part, "--output", out)
        assert ended.code == 0, ended.err
    fetch(s3, tmp_path / "before", "slices/")
    assert not (tmp_path / "before/README.md").exists()
    ended = pico_banana("finish", out)
    assert ended.code == 0, ended.err
    fetch(s3, tmp_path / "there", "slices/")
    assert digests(tmp_path / "there") == digests(tmp_path / "here")


@pytest.mark.long
def test_an_output_on_s3_is_published(s3: Any, release: SampleRelease, tmp_path: Path) -> None:
    words = ["convert", "sft", *release_flags(release), "--limit", "8", "--workers", "1"]
    words += ["--records-per-shard", "4"]
    out = f"s3://{BUCKET}/published"
    with FakeHub() as hub:
        env = hub.env(tmp_path / "huggingface")
        assert pico_banana(*words, "--output", out).code == 0
        ended = pico_banana("publish", out, "me/pico", env=env)
        assert ended.code == 0, ended.err
        fetch(s3, tmp_path / "there", "published/")
        there = digests(tmp_path / "there")
        there.pop("README.md")
        assert parquet_of(hub.repos["me/pico"].commits[-1]) == there
        refused = pico_banana(*words, "--output", out, "--publish", "me/pico", env=env)
    assert refused.code == 2
    assert "--output must be a local folder with --publish" in refused.err
