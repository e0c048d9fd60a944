"""Runs that share a conversion, as a job array starts them, and what puts them together."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from pico_banana.convert.demo.sample_release import SampleRelease
from pico_banana.schema import CONFIGS
from tests import fake_cdn
from tests.commands import (
    QUICK_FETCH,
    Ended,
    digests,
    ledgers,
    pico_banana,
    plan_of,
    quick_settings,
    release_flags,
)
from tests.fake_cdn import FakeCDN

COUNT = 3


@pytest.fixture(scope="module")
def whole(release: SampleRelease, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of one run."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert pico_banana(*command(release, out)).code == 0
    return out


def command(release: SampleRelease, out: Path | str, *words: Any, cdn: FakeCDN | None = None):
    place = f"{cdn.url}/cdn" if cdn else None
    sizes = ("--records-per-shard", "5", "--output", out)
    return ["convert", "all", *release_flags(release, place), *sizes, *words]


def at_once(commands: list[list[Any]]) -> list[Ended]:
    """Run commands at the same time."""
    with ThreadPoolExecutor(len(commands)) as threads:
        return list(threads.map(lambda words: pico_banana(*words), commands))


def slices(release: SampleRelease, out: Path | str, *words: Any, **more: Any) -> list[list[Any]]:
    return [command(release, out, *words, "--slice", f"{n}/{COUNT}", **more) for n in range(COUNT)]


def test_slices_put_together_are_the_output_of_one_run(
    release: SampleRelease, whole: Path, cdn: FakeCDN, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for ended in at_once(slices(release, out, "--workers", "1", cdn=cdn)):
        assert ended.code == 0, ended.err
        assert f"`pico-banana finish {out}` writes the card" in ended.err
    assert not (out / "README.md").exists()
    assert cdn.count("*/images/*") == len(list(release.cdn.glob("images/**/*.png")))
    ended = pico_banana("finish", out)
    assert ended.code == 0, ended.err
    assert digests(out) == digests(whole)
    for config in CONFIGS:
        assert plan_of(out, config) == plan_of(whole, config)
        assert len(ledgers(out, config)) == len(ledgers(whole, config))
    assert pico_banana("verify", out, "--check", "decode").code == 0
    assert not [*out.glob("**/*.tmp"), *out.glob("**/.lock-*")]


def test_every_slice_has_its_share_of_every_budget(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path
) -> None:
    connections, rate = 6, 60.0
    hosts = {"127.0.0.1": {"connections": connections, "requests_per_second": rate}}
    cdn.delay_s = 0.03
    words = ("--workers", "2", *quick_settings(tmp_path, fetch={**QUICK_FETCH, "hosts": hosts}))
    for ended in at_once(slices(release, tmp_path / "out", *words, cdn=cdn)):
        assert ended.code == 0, ended.err
        assert "fewer connections" not in ended.err
    log = cdn.requests("*/images/*")
    assert cdn.most_open("*/images/*") <= connections
    starts = sorted(request.started for request in log)
    most = max(sum(begin <= at < begin + 1 for at in starts) for begin in starts)
    assert most <= 1.1 * rate + COUNT + 1


@pytest.mark.long
def test_more_slices_than_connections_is_said(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path
) -> None:
    hosts = {"127.0.0.1": {"connections": 2}}
    words = quick_settings(tmp_path, fetch={**QUICK_FETCH, "hosts": hosts})
    first = command(release, tmp_path / "out", *words, "--slice", "0/3", cdn=cdn)
    ended = pico_banana(*first)
    assert "127.0.0.1 may have fewer connections at once than there are slices" in ended.err
    cdn.clear()
    cdn.delay_s = 0.02
    second = command(release, tmp_path / "out", *words, "--slice", "1/3", cdn=cdn)
    ended = pico_banana(*second, "--slices-at-once", "1")
    assert "fewer connections" not in ended.err
    assert cdn.most_open("*/images/*") == 2


@pytest.mark.parametrize("mirror", [None, "*.staticflickr.com={flickr}/{{host}}"])
def test_what_is_said_of_a_host_is_said_of_one_that_is_contacted(
    release: SampleRelease, tmp_path: Path, mirror: str | None
) -> None:
    """The release lies in folders; without a mirror Flickr itself may be asked."""
    more = ["--mirrors", mirror.format(flickr=release.flickr)] if mirror else []
    words = command(release, tmp_path / "out", "--input-sources", "folder,flickr", *more)
    ended = pico_banana(*words, "--slice", "0/100")
    assert ended.code == 0, ended.err
    said = [line for line in ended.err.splitlines() if "may have fewer connections" in line]
    assert [line.split()[0] for line in said] == ([] if mirror else ["*.staticflickr.com"])


def test_what_is_not_finished_is_named(release: SampleRelease, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert pico_banana(*slices(release, out)[0]).code == 0
    ended = pico_banana("finish", out)
    assert ended.code == 1
    assert "sft/train-00001-of-00014, sft/train-00002-of-00014" in ended.err
    assert "not finished; run the slices that hold them again" in ended.err
    assert not (out / "README.md").exists()
    # A run without --slice makes what is left, and the card.
    assert pico_banana(*command(release, out)).code == 0
    assert (out / "README.md").exists()


def test_a_file_that_another_run_wrote_is_seen_and_made_again(
    release: SampleRelease, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for words in slices(release, out):
        assert pico_banana(*words).code == 0
    path = out / "sft" / "train-00004-of-00014.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    ended = pico_banana("finish", out)
    assert ended.code == 1
    assert "sft/train-00004-of-00014 is not what its ledger says" in ended.err
    again = pico_banana(*slices(release, out)[1])  # 4 = 1 + 3
    assert "1 shard made" in again.out
    assert pico_banana("finish", out).code == 0
    assert digests(out) == digests(whole)


@pytest.mark.long
def test_a_slice_that_is_started_twice_does_no_harm(
    release: SampleRelease, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first, *others = slices(release, out)
    ended = at_once([first, first, *others])
    assert {one.code for one in ended} <= {0, 2}
    assert all("is writing to" in one.err for one in ended if one.code == 2)
    assert [one.code for one in ended[2:]] == [0, 0]
    assert 0 in [one.code for one in ended[:2]]
    assert pico_banana(*first).code == 0
    assert pico_banana("finish", out).code == 0
    assert digests(out) == digests(whole)


def test_slices_and_a_whole_run_keep_out_of_each_others_way(
    release: SampleRelease, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    folder = out / "_ledger" / "sft"
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock-2-of-3"):
        for words in (command(release, out), ["finish", out]):
            if words[0] == "finish":
                (folder / "plan.json").write_text("{}")
            ended = pico_banana(*words)
            assert ended.code == 2
            assert "another pico-banana convert of sft is writing to" in ended.err


@pytest.mark.parametrize("on_missing", ["skip", pytest.param("null", marks=pytest.mark.long)])
def test_what_is_missing_counts_in_its_slice(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path, on_missing: str
) -> None:
    one = min((release.cdn / "images/positive-edit").glob("*.png"))
    cdn.fail(f"*/{one.name}", forever=fake_cdn.status(404))
    words = ("--on-missing", on_missing, *quick_settings(tmp_path))
    codes = [pico_banana(*w).code for w in slices(release, tmp_path / "out", *words, cdn=cdn)]
    assert sorted(codes) == [0, 0, 1]
    ended = pico_banana("finish", tmp_path / "out")
    assert ended.code == 0
    assert "missing: 1 image is not_found" in ended.out
    cdn.clear()
    again = slices(release, tmp_path / "out", *words, "--retry-missing-all", cdn=cdn)
    assert [pico_banana(*w).code for w in again] == [0, 0, 0]
    assert cdn.count("*/images/*") == 1


def test_links_are_sliced_too(release: SampleRelease, tmp_path: Path, cdn: FakeCDN) -> None:
    words = ("--images", "url")
    assert pico_banana(*command(release, tmp_path / "whole", *words, cdn=cdn)).code == 0
    for one in slices(release, tmp_path / "out", *words, cdn=cdn):
        assert pico_banana(*one).code == 0
    assert pico_banana("finish", tmp_path / "out").code == 0
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--slice", "3/3"], "slice must be i/n, i from 0 up to n-1"),
        (["--slice", "1"], "slice must be i/n"),
        (["--slice", "0/0"], "slice must be i/n"),
        (["--slice", "-1/3"], "slice must be i/n"),
        (["--slice", "0/3", "--overwrite"], "slice must be left out with overwrite"),
        (["--slice", "0/3", "--slices-at-once", "4"], "slices_at_once must be from 1 up to"),
        (["--slices-at-once", "2"], "slices_at_once must come with --slice"),
    ],
)
def test_wrong_slices_are_refused(
    release: SampleRelease, tmp_path: Path, words: list[str], said: str
) -> None:
    ended = pico_banana(*command(release, tmp_path / "out", *words))
    assert ended.code == 2
    assert said in ended.err
    assert not (tmp_path / "out").exists()


def test_what_is_no_output_cannot_be_finished(tmp_path: Path) -> None:
    ended = pico_banana("finish", tmp_path)
    assert ended.code == 2
    assert "is no output of `pico-banana convert`" in ended.err
    assert os.listdir(tmp_path) == []


def test_the_slices_settings_stand_in_no_plan(release: SampleRelease, tmp_path: Path) -> None:
    assert pico_banana(*slices(release, tmp_path / "out")[0]).code == 0
    assert "slice" not in json.dumps(plan_of(tmp_path / "out", "sft"))
