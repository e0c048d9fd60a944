"""Outputs on an object store: moto's S3 server, on loopback."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

boto3 = pytest.importorskip("boto3")
pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")

from pico_banana.convert.demo.sample_release import make_sample_release  # noqa: E402
from tests.commands import (  # noqa: E402
    digests,
    ledgers,
    pico_banana,
    quick_settings,
    release_flags,
)
from tests.fake_cdn import FakeCDN, status  # noqa: E402
from tests.fake_hub import FakeHub  # noqa: E402
from tests.publish_commands import parquet_of  # noqa: E402

BUCKET = "shelf"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    yield client
    server.stop()


def fetch(client: object, folder: Path, prefix: str = "out/") -> None:
    """Copy an output of the bucket into a folder."""
    found = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)  # type: ignore[attr-defined]
    for entry in found["Contents"]:
        path = folder / entry["Key"].removeprefix(prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(BUCKET, entry["Key"], os.fspath(path))  # type: ignore[attr-defined]


def test_an_output_on_s3_is_that_of_a_folder_and_continues(s3, tmp_path: Path) -> None:
    release = make_sample_release(tmp_path / "release", sft=40, size=(96, 64))
    words = ["convert", "sft", *release_flags(release), "--records-per-shard", "10"]
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


def test_holes_of_an_output_on_s3_are_filled_later(s3, tmp_path: Path) -> None:
    release = make_sample_release(tmp_path / "release", sft=12, size=(48, 32))
    settings = [*quick_settings(tmp_path), "--records-per-shard", "4"]
    there = f"s3://{BUCKET}/holed"
    with FakeCDN(("/cdn", release.cdn)) as cdn:
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
def test_a_bucket_that_is_not_there_is_refused(tmp_path: Path) -> None:
    release = make_sample_release(tmp_path / "release", sft=5, size=(96, 64))
    ended = pico_banana("convert", "sft", *release_flags(release), "--output", "s3://nosuch/out")
    assert ended.code == 2
    assert "s3://nosuch" in ended.err or "nosuch/out" in ended.err


def test_a_release_on_s3_is_read(s3, tmp_path: Path) -> None:
    release = make_sample_release(tmp_path / "release", sft=12, size=(96, 64))
    for path in release.cdn.rglob("*"):
        if path.is_file():
            s3.upload_file(os.fspath(path), BUCKET, f"cdn/{path.relative_to(release.cdn)}")
    flags = release_flags(release, f"s3://{BUCKET}/cdn")
    ended = pico_banana("convert", "sft", *flags, "--output", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert (
        pico_banana("convert", "sft", *release_flags(release), "--output", tmp_path / "o").code == 0
    )
    assert digests(tmp_path / "out") == digests(tmp_path / "o")


def test_slices_put_together_on_s3_are_the_output_of_a_folder(s3, tmp_path: Path) -> None:
    release = make_sample_release(tmp_path / "release", sft=40, size=(96, 64))
    words = ["convert", "sft", *release_flags(release), "--records-per-shard", "10"]
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


def test_an_output_on_s3_is_published(s3, tmp_path: Path) -> None:
    release = make_sample_release(tmp_path / "release", sft=8, size=(96, 64))
    words = ["convert", "sft", *release_flags(release), "--records-per-shard", "4"]
    out = f"s3://{BUCKET}/published"
    with FakeHub() as hub:
        assert pico_banana(*words, "--output", out).code == 0
        ended = pico_banana("publish", out, "me/pico", env=hub.env(tmp_path / "huggingface"))
        assert ended.code == 0, ended.err
        fetch(s3, tmp_path / "there", "published/")
        there = digests(tmp_path / "there")
        there.pop("README.md")
        assert parquet_of(hub.repos["me/pico"].commits[-1]) == there
        refused = pico_banana(
            *words, "--output", out, "--publish", "me/pico", env=hub.env(tmp_path / "huggingface")
        )
    assert refused.code == 2
    assert "--output must be a local folder with --publish" in refused.err
