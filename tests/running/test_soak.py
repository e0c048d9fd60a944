"""Long runs: killed again and again, against failing servers, with ever more records.

`make soak` runs the long form, `make check` a short one.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from PIL import Image

from pico_banana.convert.demo.sample_release import SampleRelease, make_sample_release
from pico_banana.convert.options import ROW_GROUP_BYTES
from tests import fake_cdn
from tests.commands import (
    arguments_of,
    digests,
    ledgers,
    pico_banana,
    release_flags,
)
from tests.fake_cdn import FakeCDN

pytestmark = [pytest.mark.long, pytest.mark.soak]
SHORT = os.environ.get("SOAK") != "long"


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> SampleRelease:
    root = tmp_path_factory.mktemp("release")
    count, size = (100, (48, 32)) if SHORT else (2000, (96, 64))
    return make_sample_release(root, sft=count, preference=20, multi_turn=10, size=size)


def command(release: SampleRelease, cdn: FakeCDN, out: Path, *words: str) -> list[str]:
    flags = [*release_flags(release, f"{cdn.url}/cdn"), "--output", os.fspath(out)]
    return ["convert", "all", *flags, "--records-per-shard", "10", *words]


def test_killed_at_any_moment_and_continued(release: SampleRelease, tmp_path: Path) -> None:
    """The kill takes the parent or a worker, in the middle of whatever it does."""
    rng = random.Random(11)
    with FakeCDN(("/cdn", release.cdn)) as cdn:
        assert pico_banana(*command(release, cdn, tmp_path / "calm")).code == 0
        requests = cdn.count()
        out = tmp_path / "out"
        kills = finished = 0
        while kills < (4 if SHORT else 50):
            words = arguments_of(*command(release, cdn, out, "--workers", "2"))
            run = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            # From the first request up to the last one, and sooner than a run that has few to do.
            until = cdn.count() + rng.randrange(1, requests // 2)
            while run.poll() is None and cdn.count() < until:
                with contextlib.suppress(TimeoutError):
                    cdn.wait_for_request(n=until, timeout_s=0.1)
            if run.poll() is None:
                victims = [psutil.Process(run.pid)]
                victims += victims[0].children(recursive=True)
                victim = rng.choice(victims)
                victim.send_signal(signal.SIGKILL)
                kills += 1
                run.wait(timeout=60)
                psutil.wait_procs(victims[1:], timeout=60)
            else:
                assert run.returncode in (0, 1)
                finished += 1
                for path in rng.sample(sorted(out.glob("*/*.parquet")), 8):
                    path.unlink()
        assert pico_banana(*command(release, cdn, out)).code == 0
    assert digests(out) == digests(tmp_path / "calm")
    assert pico_banana("verify", out, "--check", "decode").code == 0
    assert not list(out.glob("**/*.tmp"))
    print(f"{kills} kills survived, {finished} runs got through in between")  # noqa: T201


FAULTS = [
    fake_cdn.status(500),
    fake_cdn.status(503),
    fake_cdn.too_many(),
    fake_cdn.cut(100),
    fake_cdn.reset(50),
    fake_cdn.corrupt(),
    fake_cdn.body(b"<html>busy</html>"),
]


def test_faults_that_pass_leave_no_trace(release: SampleRelease, tmp_path: Path) -> None:
    """A fifth of the first answers fails; four workers keep within the host's budget."""
    rng = random.Random(13)
    connections, rate = 6, 150.0
    hosts = {"127.0.0.1": {"connections": connections, "requests_per_second": rate}}
    settings = tmp_path / "settings.yaml"
    fetch = {"backoff_s": 0.01, "retries": 3, "recovery_s": 1, "hosts": hosts}
    settings.write_text(json.dumps({"fetch": fetch}), encoding="utf-8")
    with FakeCDN(("/cdn", release.cdn)) as cdn:
        assert pico_banana(*command(release, cdn, tmp_path / "calm")).code == 0
    with FakeCDN(("/cdn", release.cdn)) as cdn:
        names = sorted(path.name for path in release.cdn.rglob("*.png"))
        for name in rng.sample(names, len(names) // 5):
            cdn.fail(f"*/{name}", rng.choice(FAULTS))
        cdn.delay_s = 0.02
        words = ("--workers", "4", "--settings", os.fspath(settings))
        ended = pico_banana(*command(release, cdn, tmp_path / "out", *words))
        assert ended.code == 0, ended.err
        log = cdn.requests("*/images/*")
        peak = cdn.most_open("*/images/*")
    assert len(log) > len(names)
    assert peak <= connections
    starts = sorted(request.started for request in log)
    most = max(sum(begin <= at < begin + 5 for at in starts) for begin in starts[::20])
    assert most <= 1.1 * rate * 5 + 2
    assert digests(tmp_path / "out") == digests(tmp_path / "calm")
    for config in ("sft", "preference", "multi_turn"):
        assert not [one for one in ledgers(tmp_path / "out", config) if one["missing"]]
    print(  # noqa: T201
        f"{len(names)} images, {len(names) // 5} faults, {len(log)} requests, at most {peak} at "
        f"once of {connections}, at most {most} in 5 s"
    )


def test_memory_does_not_grow_with_the_number_of_records(tmp_path: Path) -> None:
    """Private memory (USS) of a worker at its peak, at 1 MB an image."""
    release = make_sample_release(tmp_path / "release", sft=300 if SHORT else 3000, size=(96, 64))
    picture = tmp_path / "noise.png"
    Image.frombytes("RGB", (640, 560), random.Random(1).randbytes(640 * 560 * 3)).save(picture)
    assert picture.stat().st_size > 1_000_000
    for path in sorted(release.cdn.glob("images/positive-edit/*.png")):
        path.unlink()
        os.link(picture, path)
    peaks = {}
    with FakeCDN(("/cdn", release.cdn)) as cdn:
        for count in (150, 300) if SHORT else (300, 3000):
            out = tmp_path / f"out-{count}"
            words = ["convert", "sft", *release_flags(release, f"{cdn.url}/cdn"), "--workers", "1"]
            words += ["--limit", str(count), "--output", os.fspath(out)]
            run = subprocess.Popen(arguments_of(*words), stderr=subprocess.DEVNULL)
            peak = 0
            while run.poll() is None:
                # Workers are forked from a child of the run.
                for child in psutil.Process(run.pid).children(recursive=True):
                    with contextlib.suppress(psutil.Error):  # it has just ended
                        peak = max(peak, child.memory_full_info().uss)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    run.wait(0.02)
            assert run.returncode == 0
            peaks[count] = peak
    few, many = peaks.values()
    print({count: f"{peak / 1e6:.0f} MB" for count, peak in peaks.items()})  # noqa: T201
    assert few > ROW_GROUP_BYTES  # else no worker was looked at
    assert many < 500e6
    assert many < 1.25 * few
