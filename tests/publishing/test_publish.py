"""Publishing while converting: what is on disk, what is committed, and what failures change."""

from __future__ import annotations

import itertools
import math
import os
import random
import signal
import subprocess
from io import BytesIO
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pico_banana.convert.demo.sample_release import SampleRelease
from pico_banana.schema import CONFIGS
from tests import fake_cdn
from tests.commands import (
    arguments_of,
    digests,
    ledgers,
    pico_banana,
    quick_settings,
    release_flags,
)
from tests.fake_cdn import FakeCDN
from tests.fake_hub import TOKEN, FakeHub
from tests.publish_commands import (
    REPO,
    check_loadable,
    committed,
    convert,
    env_of,
    parquet_of,
    watched,
    words_of,
)

ENDPOINTS = {
    "look-up": "GET /api/datasets/me/pico",
    "tree": "GET /api/datasets/me/pico/tree/*",
    "create": "POST /api/repos/create",
    "preupload": "POST /api/datasets/me/pico/preupload/*",
    "batch": "POST */info/lfs/objects/batch",
    "bytes": "PUT /-/lfs/*",
    "verify": "POST */info/lfs/objects/verify",
    "commit": "POST /api/datasets/me/pico/commit/*",
    "ledgers": "GET /datasets/me/pico/resolve/*",
    "yaml": "POST /api/validate-yaml",
}
FAULTS = (409, 412, 429, 500, 502, 503, None)


@pytest.fixture(scope="module")
def local(release: SampleRelease, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of a conversion of sft that publishes nothing."""
    out = tmp_path_factory.mktemp("local") / "out"
    words = ("--output", out, "--records-per-shard", "2")
    assert pico_banana("convert", "sft", *release_flags(release), *words).code == 0
    found = digests(out)
    found.pop("README.md")
    return found


@pytest.mark.long
def test_a_small_disk_is_enough(release: SampleRelease, local: dict[str, str], tmp_path: Path):
    out, largest = tmp_path / "out", 50_000
    with FakeHub() as hub:
        # Uploads stand still for a while: the converter must wait for them.
        hub.fail("PUT /-/lfs/*", 503, times=2)
        with watched(out / "sft") as seen:
            ended = convert(release, hub, out, "--disk-budget", f"{3 * largest}B")
        assert ended.code == 0, ended.err
        commits = hub.repos[REPO].commits
        assert parquet_of(commits[-1]) == local
    assert len(local) == 35
    assert largest < seen[0] <= 3 * largest, seen
    assert hub.repos[REPO].private
    # Up to 40 shards are a commit, which also has the card: there is no other.
    assert [one.title for one in commits[1:]] == ["Add 35 files (35 of 35)"]
    assert set(commits[-1].added) == {
        *local,
        *[path.replace("sft/", "_ledger/sft/").replace(".parquet", ".json") for path in local],
        "_ledger/sft/plan.json",
        "README.md",
    }
    assert check_loadable(commits[-1]) == 70
    assert not [*out.glob("sft/*.parquet")]
    assert len(ledgers(out, "sft")) == 35
    assert b'load_dataset("me/pico", "sft"' in commits[-1].files["README.md"]
    assert 'load_dataset("me/pico", "sft")' in ended.out


def test_every_commit_can_be_loaded(release: SampleRelease, tmp_path: Path):
    with FakeHub() as hub:
        ended = convert(release, hub, tmp_path / "out", configs=("all",), shard=1)
        assert ended.code == 0, ended.err
        commits = hub.repos[REPO].commits
    assert [check_loadable(one) for one in commits[1:]] == [40, 80, 90]
    assert "Not complete yet" in commits[1].files["README.md"].decode()
    assert "Not complete yet" not in commits[-1].files["README.md"].decode()
    assert set(committed(hub).values()) == {1}


def test_configs_come_to_a_repository_one_after_the_other(release: SampleRelease, tmp_path: Path):
    with FakeHub() as hub:
        rows = []
        for config in ("preference", "sft"):
            ended = convert(release, hub, tmp_path / config / "out", configs=(config,), shard=40)
            assert ended.code == 0, ended.err
            rows.append(check_loadable(hub.repos[REPO].commits[-1]))
        card = hub.repos[REPO].files["README.md"].decode()
    assert rows == [12, 82]
    assert card.index("- config_name: preference") < card.index("- config_name: sft")
    assert card.index("config_name: sft") < card.index("default: true")


def test_another_machine_goes_on_and_makes_nothing_again(
    release: SampleRelease, local: dict[str, str], tmp_path: Path
):
    with FakeHub() as hub:
        assert convert(release, hub, tmp_path / "here" / "out").code == 0
        before = len(hub.repos[REPO].commits)
        away = tmp_path / "away" / "out"
        for status in (503, 429, None):
            hub.fail(ENDPOINTS["ledgers"], status)
        ended = convert(release, hub, away)
        assert ended.code == 0, ended.err
        assert ended.err.count("could not be asked for _ledger/sft/") == 3
        assert "0 shards made, 35 kept" in ended.out
        assert "0 commits in this run" in ended.out
        assert len(hub.repos[REPO].commits) == before
        assert not [*away.glob("sft/*.parquet")]
        verified = pico_banana("verify", f"hf://datasets/{REPO}", env=env_of(hub, away))
        assert verified.code == 0, verified.out
        name = next(iter(local))
        files = {**hub.repos[REPO].files}
        hub.repos[REPO].commit("damage", {name: files[name][:-9] + b"x" + files[name][-8:]})
        verified = pico_banana("verify", f"hf://datasets/{REPO}", env=env_of(hub, away))
        assert verified.code == 1
        assert "its bytes are not those that were written" in verified.out
        # What is not its ledger's is made again, and nothing else is.
        ended = convert(release, hub, away)
        assert "1 shard made, 34 kept" in ended.out, ended.err
        assert parquet_of(hub.repos[REPO].commits[-1]) == local


@pytest.mark.long
@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_a_fault_at_every_endpoint_changes_nothing(
    release: SampleRelease, local: dict[str, str], tmp_path: Path, late: bool
):
    with FakeHub() as hub:
        faults = itertools.cycle(FAULTS)
        for glob in ENDPOINTS.values():
            hub.fail(glob, next(faults), late=late)
        out = tmp_path / "out"
        ended = convert(release, hub, out)
        assert ended.code == 0, ended.err
        # Reading ledgers has its faults where another machine goes on.
        faulty = [name for name, glob in ENDPOINTS.items() if hub.requests(glob)]
        assert parquet_of(hub.repos[REPO].commits[-1]) == local
    assert set(committed(hub).values()) == {1}
    assert len(hub.repos[REPO].commits) == 2
    assert faulty == [name for name in ENDPOINTS if name != "ledgers"]
    assert "again in" in ended.err


@pytest.mark.parametrize(
    "status",
    [412, None, *[pytest.param(status, marks=pytest.mark.long) for status in (409, 429, 503)]],
)
def test_a_commit_that_landed_unheard_is_not_made_twice(
    release: SampleRelease, tmp_path: Path, status: int | None
):
    with FakeHub() as hub:
        hub.fail(ENDPOINTS["commit"], status, late=True)
        hub.fail(ENDPOINTS["commit"], 500)  # the newest acts first
        ended = convert(release, hub, tmp_path / "out", "--limit", "4")
        assert ended.code == 0, ended.err
        assert len(hub.requests(ENDPOINTS["commit"])) == 2
        assert len(hub.repos[REPO].commits) == 2
    assert committed(hub) == dict.fromkeys(parquet_of(hub.repos[REPO].commits[-1]), 1)


@pytest.mark.long
def test_a_refused_upload_loses_nothing(
    release: SampleRelease, local: dict[str, str], tmp_path: Path
):
    out = tmp_path / "out"
    with FakeHub() as hub:
        hub.fail("POST */info/lfs/objects/batch", 403, times=math.inf)
        refused = convert(release, hub, out)
        assert refused.code == 1
        assert "the Hub refused: me/pico could not be given sft/train-0000" in refused.err
        assert "enough storage; what is published stays" in refused.err
        assert len(hub.repos[REPO].commits) == 1
        hub.clear()
        ended = convert(release, hub, out)
        assert ended.code == 0, ended.err
        assert parquet_of(hub.repos[REPO].commits[-1]) == local


def test_uploads_before_a_refusal_are_committed(release: SampleRelease, tmp_path: Path):
    out = tmp_path / "out"
    with FakeHub() as hub:
        hub.fail("POST */info/lfs/objects/batch", 403, times=math.inf, after=5)
        refused = convert(release, hub, out)
        assert refused.code == 1
        assert len(parquet_of(hub.repos[REPO].commits[-1])) == 5
        assert check_loadable(hub.repos[REPO].commits[-1]) == 10


@pytest.mark.long
def test_missing_images_are_tried_again_with_one_shard_on_disk(
    release: SampleRelease, cdn: FakeCDN, local: dict[str, str], tmp_path: Path
):
    out = tmp_path / "out"
    with FakeHub() as hub:
        words = [
            *("convert", "sft", *release_flags(release, f"{cdn.url}/cdn")),
            *("--input-sources", "bucket", "--records-per-shard", "2", "--output", out),
            *("--mirrors", f"open-images-dataset.s3.amazonaws.com={cdn.url}/bucket"),
            *quick_settings(tmp_path),
            *("--publish", REPO),
        ]
        edits = sorted((release.cdn / "images").rglob("*.png"))
        for path in random.Random(8).sample(edits, 12):
            cdn.fail(f"/cdn/{path.relative_to(release.cdn)}", forever=fake_cdn.status(503))
        first = pico_banana(*words, env=env_of(hub, out))
        assert first.code == 1, first.err
        holed = {one["shard"] for one in ledgers(out, "sft") if one["missing"]}
        assert holed
        cdn.clear()
        sizes = [len(hub.repos[REPO].files[path]) for path in local]
        again = (*words, "--retry-missing")
        tight = pico_banana(*again, "--disk-budget", f"{min(sizes)}B", env=env_of(hub, out))
        assert tight.code == 1
        assert "--disk-budget must hold the shards that are written at once" in tight.err
        with watched(out / "sft") as seen:
            ended = pico_banana(*again, "--disk-budget", "200KB", env=env_of(hub, out))
        assert ended.code == 0, ended.err
        last = hub.repos[REPO].commits[-1]
        assert parquet_of(last) == local
        assert {path for path in last.added if path.endswith(".parquet")} == {
            f"sft/{name}.parquet" for name in holed
        }
        sizes = [len(hub.repos[REPO].files[path]) for path in local]
        assert 0 < seen[0] <= 2 * max(sizes)  # the old file, and the new one that takes its place
        assert not [*out.glob("sft/*.parquet")]
        check_loadable(last)


def test_a_takedown_makes_again_only_the_shards_that_hold_the_photo(
    release: SampleRelease, local: dict[str, str], tmp_path: Path
):
    out = tmp_path / "out"
    with FakeHub() as hub:
        assert convert(release, hub, out).code == 0
        data = hub.repos[REPO].files["sft/train-00001-of-00035.parquet"]
        taken = pq.read_table(BytesIO(data), columns=["id"])["id"][0].as_py()
        ended = convert(release, hub, tmp_path / "away" / "out", "--exclude-ids", taken)
        assert ended.code == 0, ended.err
        last = hub.repos[REPO].commits[-1]
        after = parquet_of(last)
        changed = {path for path in local if after[path] != local[path]}
        assert changed == {path for path in last.added if path.endswith(".parquet")}
        assert len(changed) == 1
        assert set(after) == set(local)
        assert check_loadable(last) == 69


@pytest.mark.long
def test_another_cut_is_refused_or_replaces_in_the_last_commit(
    release: SampleRelease, tmp_path: Path
):
    with FakeHub() as hub:
        assert convert(release, hub, tmp_path / "old" / "out", shard=40).code == 0
        old = set(parquet_of(hub.repos[REPO].commits[-1]))
        new = tmp_path / "new" / "out"
        refused = convert(release, hub, new, shard=1)
        assert refused.code == 2
        assert "me/pico holds sft of another plan" in refused.err
        assert "--replace" in refused.err
        begun = len(hub.repos[REPO].commits)
        ended = convert(release, hub, new, "--replace", shard=1)
        assert ended.code == 0, ended.err
        commits = hub.repos[REPO].commits[begun:]
        assert [bool(one.deleted) for one in commits] == [False, True]
        assert [check_loadable(one) for one in commits] == [70, 70]
        assert set(commits[-1].deleted) > old
        assert set(parquet_of(commits[-1])) == {
            f"sft/train-{number:05d}-of-00070.parquet" for number in range(70)
        }
        verified = pico_banana("verify", f"hf://datasets/{REPO}", env=env_of(hub, new))
        assert verified.code == 0, verified.out


def test_the_link_edition_is_published_by_the_same_command(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path
):
    out = tmp_path / "out"
    with FakeHub() as hub:
        words = [
            *("convert", "all", "--images", "url", "--output", out, "--publish", REPO),
            *("--cdn", f"{cdn.url}/cdn", "--open-images-metadata", release.metadata_csv),
        ]
        ended = pico_banana(*words, env=env_of(hub, out))
        assert ended.code == 0, ended.err
        files = hub.repos[REPO].files
        card = files["README.md"].decode()
        links = pq.read_table(BytesIO(files["sft/train-00000-of-00001.parquet"])).to_pylist()
        assert check_loadable(hub.repos[REPO].commits[-1]) == 90
    assert {row["edited_image"]["bytes"] for row in links} == {None}
    assert "`{bytes: null, path: URL}`" in card
    assert "CC BY-NC-ND 4.0" in card


@pytest.mark.long
def test_what_a_conversion_left_is_published_first(
    release: SampleRelease, local: dict[str, str], tmp_path: Path
):
    out = tmp_path / "out"
    words = ("--output", out, "--records-per-shard", "2")
    assert pico_banana("convert", "sft", *release_flags(release), *words).code == 0
    with FakeHub() as hub:
        ended = convert(release, hub, out, "--keep-local")
        assert ended.code == 0, ended.err
        assert "0 shards made, 35 kept" in ended.out
        assert len([*out.glob("sft/*.parquet")]) == 35
        assert parquet_of(hub.repos[REPO].commits[-1]) == local
        assert convert(release, hub, out).code == 0
        assert not [*out.glob("sft/*.parquet")]  # without --keep-local, what is published goes
        assert len(hub.repos[REPO].commits) == 2


@pytest.mark.long
def test_killed_again_and_again_it_ends_with_the_planned_files(
    release: SampleRelease, tmp_path: Path
):
    """Seeded kills, two of them in a commit; at each a fault, so that every endpoint has one."""
    kills, chosen, out = 10, random.Random(20261124), tmp_path / "out"
    plain = tmp_path / "plain"
    words = ("--records-per-shard", "1", "--output", plain)
    assert pico_banana("convert", "all", *release_flags(release), *words).code == 0
    faults = [*ENDPOINTS.values()]
    killed = 0
    with FakeHub() as hub:
        for turn in range(kills):
            for glob in (faults[turn % len(faults)], chosen.choice(faults)):
                hub.fail(glob, chosen.choice(FAULTS), late=chosen.random() < 0.5)
            # Two runs get as far as their commit, the others to one of their first requests.
            glob = ENDPOINTS["commit"] if turn in (3, 7) else "*"
            until = len(hub.requests(glob)) + (1 if turn in (3, 7) else chosen.randrange(1, 20))
            running = subprocess.Popen(
                arguments_of(*words_of(release, out, configs=("all",), shard=1)),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **env_of(hub, out)},
                start_new_session=True,
            )
            while running.poll() is None and not hub.wait(until, 0.05, glob):
                pass
            killed += running.poll() is None
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
        ended = convert(release, hub, out, configs=("all",), shard=1)
        assert ended.code == 0, ended.err
        wanted = digests(plain)
        wanted.pop("README.md")
        commits = hub.repos[REPO].commits
        assert parquet_of(commits[-1]) == wanted
        for one in commits[1:]:
            check_loadable(one)
    assert committed(hub) == dict.fromkeys(wanted, 1)
    assert killed == kills
    everything = {*wanted, "README.md", ".gitattributes"}
    everything |= {f"_ledger/{path.removesuffix('.parquet')}.json" for path in wanted}
    everything |= {f"_ledger/{config}/plan.json" for config in CONFIGS}
    assert set(commits[-1].files) == everything
    print(f"\n{kills} kills, {len(commits) - 1} commits")  # noqa: T201
    text = b"".join(data for one in commits for data in one.files.values())
    text += b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert TOKEN.encode() not in text
