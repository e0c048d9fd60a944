"""A /dev/shm that is read only, full or absent, as in containers: the work needs none."""

from __future__ import annotations

import errno
import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pico_banana.convert.demo.sample_release import SampleRelease
from tests.commands import arguments_of, digests, pico_banana, release_flags
from tests.fake_hub import FakeHub
from tests.publish_commands import REPO, env_of, words_of

STAND_IN = Path(__file__).parent.parent / "without_shm"
NUMBERS = {"read only": errno.EROFS, "full": errno.ENOSPC, "absent": errno.ENOENT}
MOUNTS = {
    "read only": "mount -t tmpfs -o ro tmpfs /dev/shm",
    "full": "mount -t tmpfs -o size=4k tmpfs /dev/shm; head -c 4096 /dev/zero > /dev/shm/all",
    # A /dev of its own, for the machine's is not to be changed.
    "absent": 'mount -t tmpfs tmpfs "$0"; for name in null zero random urandom; do '
    'touch "$0/$name"; mount --bind /dev/$name "$0/$name"; done; '
    'ln -s /proc/self/fd "$0/fd"; mount --rbind "$0" /dev',
}

Start = Callable[..., subprocess.CompletedProcess[str]]


@functools.cache
def may_mount() -> bool:
    words = ["unshare", "-m", "bash", "-c", MOUNTS["read only"]]
    try:
        return subprocess.run(words, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture(params=["stand-in", pytest.param("real", marks=pytest.mark.long)])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Start:
    """Run a command where /dev/shm is as is named, to its end."""
    if request.param == "real" and not may_mount():
        pytest.skip("nothing may be mounted here")

    def run(
        shm: str, command: list[str], env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        whole = {**os.environ, **(env or {})}
        if request.param == "real":
            (tmp_path / "dev").mkdir(exist_ok=True)
            script = f'set -e; {MOUNTS[shm]}; exec "$@"'
            command = ["unshare", "-m", "bash", "-c", script, os.fspath(tmp_path / "dev"), *command]
        else:
            paths = [os.fspath(STAND_IN), whole.get("PYTHONPATH", "")]
            whole["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
            whole["SHM_ERRNO"] = str(NUMBERS[shm])
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, env=whole, check=False
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.mark.parametrize(
    "shm",
    [
        "read only",
        pytest.param("full", marks=pytest.mark.long),
        pytest.param("absent", marks=pytest.mark.long),
    ],
)
def test_a_conversion_needs_no_shared_memory(
    shm: str, start: Start, release: SampleRelease, tmp_path: Path
) -> None:
    words = ["convert", "sft", *release_flags(release), "--records-per-shard", "20", "--output"]
    assert pico_banana(*words, tmp_path / "usual").code == 0
    ended = start(shm, arguments_of(*words, tmp_path / "out", "--workers", "2"))
    assert ended.returncode == 0, ended.stderr
    assert digests(tmp_path / "out") == digests(tmp_path / "usual")


@pytest.mark.long
@pytest.mark.parametrize("shm", ["read only", "absent"])
def test_a_disk_budget_needs_none(
    shm: str, start: Start, release: SampleRelease, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with FakeHub() as hub:
        words = words_of(release, out, "--disk-budget", "60KB", "--workers", "3")
        ended = start(shm, arguments_of(*words), env_of(hub, out))
        assert ended.returncode == 0, ended.stderr
        published = [path for path in hub.repos[REPO].files if path.endswith(".parquet")]
    assert len(published) == release.good["sft"] / 2
    assert not list(out.glob("sft/*.parquet"))


LOAD = """
import sys
import pico_banana_400k
names = ("cdn", "open_images", "open_images_metadata")
given = dict(zip(names, sys.argv[2:]), num_proc=int(sys.argv[1]) or None)
try:
    print(len(pico_banana_400k.load("sft", split="train", **given)))
except ValueError as error:
    print(error)
"""


@pytest.mark.long
@pytest.mark.parametrize(
    "shm",
    ["full", *[pytest.param(n, marks=pytest.mark.long) for n in NUMBERS if n != "full"]],
)
def test_the_loader_says_what_its_processes_need(
    shm: str, start: Start, release: SampleRelease
) -> None:
    def said(num_proc: str) -> str:
        places = release_flags(release)[1::2]
        ended = start(shm, [sys.executable, "-c", LOAD, num_proc, *places])
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    refused = said("2")
    assert refused.startswith("num_proc must be left out where processes can share no semaphores")
    assert f"({os.strerror(NUMBERS[shm])}), but got 2; on Linux /dev/shm must be there" in refused
    if shm == "full":
        assert said("0") == said("1") == f"{release.good['sft']}\n"


@pytest.mark.parametrize("shm", ["read only", pytest.param("absent", marks=pytest.mark.long)])
def test_ray_is_refused_in_words(
    shm: str, start: Start, release: SampleRelease, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["convert", "sft", *release_flags(release), "--output", out, "--runner", "ray"]
    ended = start(shm, arguments_of(*words))
    assert ended.returncode == 2
    assert "Ray needs /dev/shm, which is not there or cannot be written" in ended.stderr
    assert not list(out.glob("**/*.parquet"))
