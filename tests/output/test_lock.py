"""Test who may write to an output: with flock, without it, and after a death."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pico_banana.convert.demo.sample_release import SampleRelease
from tests.commands import (
    QUICK_FETCH,
    arguments_of,
    digests,
    pico_banana,
    quick_settings,
    release_flags,
)
from tests.fake_cdn import FakeCDN

FLAKY = Path(__file__).parents[1] / "flaky"
NO_FLOCK = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP]
LOCK = "_ledger/sft/.lock"


def without_flock(number: int) -> dict[str, str]:
    return {"PYTHONPATH": os.fspath(FLAKY), "FLAKY_FLOCK": str(number)}


def words_of(release: SampleRelease, out: Path, *more: str | Path, cdn: FakeCDN | None = None):
    place = f"{cdn.url}/cdn" if cdn else release.cdn
    # What a test holds back must not be given up meanwhile.
    patient = {**QUICK_FETCH, "read_timeout_s": 120}
    flags = [*release_flags(release, place), *quick_settings(out.parent, fetch=patient)]
    return ["convert", "sft", "--output", out, "--records-per-shard", "10", *flags, *more]


def left(folder: Path) -> list[str]:
    return sorted(os.fspath(path.relative_to(folder)) for path in folder.rglob("*"))


@contextmanager
def running(
    release: SampleRelease, out: Path, cdn: FakeCDN, env: dict[str, str], *more: str
) -> Iterator[subprocess.Popen[str]]:
    """A convert in the middle of its work; killed in the end, if it is not over."""
    cdn.hold("*/images/positive-edit/*")
    words = words_of(release, out, *more, cdn=cdn)
    with subprocess.Popen(
        arguments_of(*words), stderr=subprocess.PIPE, text=True, env={**os.environ, **env}
    ) as run:
        try:
            cdn.wait_for_request("*/images/positive-edit/*", n=2)
            yield run
        finally:
            run.kill()


@pytest.fixture(scope="module")
def whole(release: SampleRelease, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    assert pico_banana(*words_of(release, out)).code == 0
    return out


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(number, marks=[pytest.mark.long] * (number != errno.ENOLCK))
        for number in NO_FLOCK
    ],
    ids=[errno.errorcode[number] for number in NO_FLOCK],
)
def test_an_output_needs_no_flock(
    release: SampleRelease, whole: Path, tmp_path: Path, number: int
) -> None:
    env, out = without_flock(number), tmp_path / "out"
    for words in (
        words_of(release, out, "--slice", "1/2"),
        words_of(release, out, "--slice", "0/2"),
        ["finish", out],
        words_of(release, out),
        ["verify", out],
    ):
        ended = pico_banana(*words, env=env)
        assert ended.code == 0, ended.err
    assert digests(out) == digests(whole)
    assert not [name for name in left(out) if "lock" in name]


@pytest.mark.parametrize(
    "env",
    [{}, pytest.param(without_flock(errno.ENOLCK), marks=pytest.mark.long)],
    ids=["flock", "none"],
)
def test_a_second_convert_learns_who_writes_and_where_that_stands(
    release: SampleRelease, whole: Path, cdn: FakeCDN, tmp_path: Path, env: dict[str, str]
) -> None:
    out = tmp_path / "out"
    with running(release, out, cdn, env) as run:
        holder = f"{out}/{LOCK} is held by process {run.pid} on {socket.gethostname()} since 20"
        for words in (
            words_of(release, out),
            words_of(release, out, "--overwrite"),
            ["finish", out],
        ):
            ended = pico_banana(*words, env=env)
            assert ended.code == 2
            assert "another pico-banana convert of sft is writing to" in ended.err
            assert holder in ended.err
            assert "if that has ended, delete this file" in ended.err
        assert (out / LOCK).exists()
        run.send_signal(signal.SIGKILL)
        run.wait()
    # What the dead process left is taken over.
    cdn.release()
    assert pico_banana(*words_of(release, out), env=env).code == 0
    assert digests(out) == digests(whole)


@pytest.mark.long
@pytest.mark.parametrize(
    "said",
    ["4711\nnode7\n", "4711\nnode7?pidns-f0000001\n9\n", ""],
    ids=["host", "pod", "empty"],
)
def test_what_another_machine_left_is_named_and_can_be_deleted(
    release: SampleRelease, tmp_path: Path, said: str
) -> None:
    env, out = without_flock(errno.ENOSYS), tmp_path / "out"
    (out / LOCK).parent.mkdir(parents=True)
    (out / LOCK).write_text(said)
    os.utime(out / LOCK, (1_700_000_000, 1_700_000_000))
    ended = pico_banana(*words_of(release, out), env=env)
    assert ended.code == 2
    who = "process 4711 on node7" if said else "a process"
    assert (
        f"{out}/{LOCK} is held by {who} since 2023-11-14 22:13:20 UTC; if that has ended, delete "
        "this file"
    ) in ended.err
    assert (out / LOCK).read_text() == said
    (out / LOCK).unlink()
    assert pico_banana(*words_of(release, out), env=env).code == 0


@pytest.mark.long
def test_a_cache_that_a_dead_machine_locked_says_so_while_it_waits(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path, own_caches: Path
) -> None:
    env, out = without_flock(errno.ENOSYS), tmp_path / "out"
    assert pico_banana("plan", "sft", *release_flags(release, f"{cdn.url}/cdn"), env=env).code == 0
    (made,) = (own_caches / "pico_banana" / "jsonl").iterdir()
    made.unlink()
    lock = made.with_name(made.name + ".lock")
    lock.write_text("4711\nnode7\n")
    words = words_of(release, out, cdn=cdn)
    with subprocess.Popen(
        arguments_of(*words), stderr=subprocess.PIPE, text=True, env={**os.environ, **env}
    ) as run:
        assert run.stderr is not None
        line = next(line for line in run.stderr if "waiting: " in line)
        assert f"{lock} is held by process 4711 on node7 since 20" in line
        lock.unlink()
        _, said = run.communicate(timeout=30)
    assert run.returncode == 0, said


def test_a_refused_command_leaves_nothing(release: SampleRelease, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    out.parent.mkdir()
    quick_settings(out.parent)
    before = left(tmp_path)
    for more in (
        ("--cdn", tmp_path / "nowhere"),
        ("--ids", "none/1"),
        ("--offset", "1000"),
        ("--slice", "0/0"),
        ("--edit-types", "zoom"),
        ("--open-images", tmp_path / "nowhere"),
    ):
        ended = pico_banana(*words_of(release, out, *more))
        assert ended.code == 2, (more, ended)
        assert left(tmp_path) == before, more


def test_a_refused_plan_leaves_an_output_as_it_was(
    release: SampleRelease, whole: Path, cdn: FakeCDN, tmp_path: Path
) -> None:
    before = left(whole)
    for words in (
        words_of(release, whole, "--images", "none"),
        words_of(release, whole, "--limit", "3"),
        words_of(release, whole, "--slice", "1/2", "--limit", "3"),
    ):
        ended = pico_banana(*words)
        assert ended.code == 2
        assert "of another plan" in ended.err
    assert left(whole) == before
    # The lock of one that writes stays where another one is refused.
    out = tmp_path / "out"
    with running(release, out, cdn, {}, "--slice", "1/2"):
        there = [name for name in left(out) if ".lock" in name]
        ended = pico_banana(*words_of(release, out, "--slice", "0/2", "--limit", "3"))
        assert ended.code == 2
        assert "of another plan" in ended.err
        assert there == ["_ledger/sft/.lock-1-of-2"]
        assert [name for name in left(out) if ".lock" in name] == there
