"""What every test gets: caches of its own, and the same examples of hypothesis at each run.

And what many ask for: a small release that all of them read, and a server of it.
"""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from filelock import FileLock

from pico_banana.convert.demo.sample_release import SampleRelease, make_sample_release
from tests import fake_s3
from tests.fake_cdn import FakeCDN

# Seeded, and without a deadline: a busy machine is no failure.
hypothesis.settings.register_profile(
    "repeatable",
    database=None,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def own_caches(tmp_path_factory, monkeypatch):
    """Point the caches to a new folder, also in processes that the test starts."""
    caches = tmp_path_factory.mktemp("caches")
    monkeypatch.setenv("PICO_BANANA_CACHE", str(caches / "pico_banana"))
    monkeypatch.setenv("HF_HOME", str(caches / "huggingface"))
    return caches


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> SampleRelease:
    """The release that tests read and none changes: made once, for all processes of a test run."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    made = folder / "release.pickle"
    with FileLock(folder / "release.lock"):
        if not made.exists():
            root = folder / "release"
            given = make_sample_release(root, sft=70, preference=12, multi_turn=8, size=(48, 32))
            made.write_bytes(pickle.dumps(given))
        found: SampleRelease = pickle.loads(made.read_bytes())  # noqa: S301  (just written here)
    return found


@pytest.fixture
def own_release(release: SampleRelease, tmp_path_factory: pytest.TempPathFactory) -> SampleRelease:
    """A copy of `release` that the test may change."""
    root = tmp_path_factory.mktemp("own") / "release"
    shutil.copytree(release.root, root)
    return moved(release, root)


def moved(release: SampleRelease, root: Path) -> SampleRelease:
    """The same release, as it lies elsewhere."""
    places = ("cdn", "open_images", "metadata_csv", "flickr")
    there = {name: root / getattr(release, name).relative_to(release.root) for name in places}
    return replace(release, root=root, **there)


@pytest.fixture
def cdn(release: SampleRelease) -> Iterator[FakeCDN]:
    """A server of the edits of `release` below /cdn, and of its photos as the bucket has them."""
    photos = [("/bucket/train", release.open_images / f"train_{digit}") for digit in "01"]
    with FakeCDN(("/cdn", release.cdn), *photos) as server:
        yield server


@pytest.fixture
def s3() -> Iterator[Any]:
    """A client of an object store whose address stands in the environment; see `fake_s3`."""
    with fake_s3.serving() as client:
        yield client
