"""Worker processes run what the command runs, from wherever it is started, with files enough."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from pico_banana.convert.demo.sample_release import SampleRelease
from tests.commands import pico_banana, release_flags, rows
from tests.strangers import SCRIPT, make_strangers, noted, run_in


@pytest.fixture
def strange(tmp_path: Path) -> Path:
    return make_strangers(tmp_path / "strange")


@pytest.mark.skipif(not SCRIPT.exists(), reason="the project is not installed")
def test_no_process_imports_from_the_current_folder(
    strange: Path, release: SampleRelease, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["convert", "sft", *release_flags(release), "--limit", "5", "--output", out]
    ended = run_in(strange, *words, "--workers", "2")
    assert ended.code == 0, ended.err
    assert noted(strange) == ""
    assert len(rows(out, "sft")) == 5


def test_an_output_that_is_named_from_here_lies_here(
    release: SampleRelease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = pico_banana("convert", "sft", *release_flags(release), "--output", "out")
    assert ended.code == 0, ended.err
    assert len(rows(tmp_path / "out", "sft")) == release.good["sft"]


def limited(soft: int, hard: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_too_few_open_files_are_refused_before_any_work(
    release: SampleRelease, tmp_path: Path
) -> None:
    words = ["convert", "sft", *release_flags(release), "--output", tmp_path / "out"]
    ended = pico_banana(*words, preexec=lambda: limited(60, 60))
    assert ended.code == 2
    assert "the limit of open files (ulimit -n) must be at least 128" in ended.err
    assert "but is 60" in ended.err
    assert not (tmp_path / "out" / "sft").exists()
    # Any process may raise its own soft limit up to the hard one, and fewer need fewer.
    assert pico_banana(*words, preexec=lambda: limited(60, 512)).code == 0
    words[-1] = tmp_path / "few"
    ended = pico_banana(*words, "--concurrency", "8", preexec=lambda: limited(100, 100))
    assert ended.code == 0, ended.err
