"""What the HTTP client raises means what it says: each class is known, an unknown one passes."""

from __future__ import annotations

import datetime as dt
import os
import ssl
from pathlib import Path

import aiohttp
import pytest

import pico_banana_400k
from pico_banana.convert.demo.sample_release import SampleRelease
from pico_banana.errors import MissingImageError
from pico_banana.fetching.http_faults import REASONS, ask_error
from pico_banana.missing import MissingReason
from tests.certificates import make_certificate
from tests.commands import digests, ledgers, pico_banana, quick_settings, rows
from tests.fake_cdn import FakeCDN

BUCKET = "open-images-dataset.s3.amazonaws.com"


def classes() -> list[type[BaseException]]:
    found = vars(aiohttp.client_exceptions).values()
    return [
        kind
        for kind in found
        if isinstance(kind, type)
        and issubclass(kind, BaseException)
        and kind.__module__ == "aiohttp.client_exceptions"
    ]


def test_every_class_of_the_client_stands_in_the_table() -> None:
    assert len(classes()) >= 20  # as 3.9 has
    assert {kind.__name__ for kind in classes()} <= {*REASONS}


def raised(*parents: type[BaseException]) -> BaseException:
    """An exception of a class that nobody knows."""
    kind = type("NewError", parents, {"__init__": lambda _: None, "__str__": lambda _: "new"})
    return kind()


@pytest.mark.parametrize(
    ("parents", "reason"),
    [
        ((Exception,), MissingReason.CONNECTION),
        ((aiohttp.ClientError,), MissingReason.CONNECTION),
        ((aiohttp.ClientConnectorCertificateError,), MissingReason.CONNECTION),
        ((aiohttp.ClientSSLError,), MissingReason.CONNECTION),
        ((aiohttp.InvalidURL,), MissingReason.FORBIDDEN_ADDRESS),
        ((aiohttp.ServerTimeoutError,), MissingReason.TIMEOUT),
        ((ssl.SSLCertVerificationError,), MissingReason.CONNECTION),
        ((OSError,), MissingReason.CONNECTION),
        ((TimeoutError,), MissingReason.TIMEOUT),
        ((UnicodeError,), MissingReason.FORBIDDEN_ADDRESS),
    ],
)
def test_the_nearest_class_that_is_known_decides(
    parents: tuple[type[BaseException], ...], reason: MissingReason
) -> None:
    error = ask_error(raised(*parents))
    assert error.reason is reason
    assert error.detail == "NewError: new"


LONG_AGO = dt.datetime(2001, 1, 1, tzinfo=dt.timezone.utc)


@pytest.mark.parametrize("since", [None, LONG_AGO], ids=["unknown", "out of date"])
def test_a_certificate_that_is_not_trusted_leaves_no_hole_for_good(
    since: dt.datetime | None, release: SampleRelease, tmp_path: Path
) -> None:
    certificate = make_certificate(tmp_path / "certificate.pem", since=since)
    photos = [("/bucket/train", folder) for folder in release.open_images.glob("train_*")]
    out = tmp_path / "out"
    words = ["convert", "sft", "--cdn", release.cdn, "--output", out, "--limit", "5"]
    words += ["--open-images-metadata", release.metadata_csv, *quick_settings(tmp_path)]
    with FakeCDN(*photos, certificate=certificate) as bucket:
        mirror = ["--mirrors", f"{BUCKET}={bucket.url}/bucket"]
        ended = pico_banana(*words, *mirror)
        assert ended.code == 1
        assert ended.err.count("name its certificates in SSL_CERT_FILE") == 1
        assert "clock" in ended.err
        reasons = {
            image["reason"]
            for ledger in ledgers(out, "sft")
            for entry in ledger["missing"]
            for image in entry["images"]
        }
        assert reasons == {"connection"}
        arguments = {
            "cdn": os.fspath(release.cdn),
            "open_images_metadata": os.fspath(release.metadata_csv),
            "mirrors": {BUCKET: f"{bucket.url}/bucket"},
            "fetch": {"retries": 0},
            "limit": 3,
        }
        with pytest.raises(MissingImageError, match="ertificate"):
            pico_banana_400k.load("sft", split="train", **arguments)
        if since is None:
            trusted = {"SSL_CERT_FILE": os.fspath(certificate)}
            ended = pico_banana(*words, *mirror, "--retry-missing", env=trusted)
            assert ended.code == 0, ended.err
            assert len(rows(out, "sft")) == 5
    if since is None:
        with FakeCDN(*photos) as plain:
            calm = tmp_path / "calm"
            words[words.index(out)] = calm
            assert pico_banana(*words, "--mirrors", f"{BUCKET}={plain.url}/bucket").code == 0
        assert digests(out) == digests(calm)
