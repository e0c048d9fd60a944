"""What is refused to be published, and why; the card of what `push_to_hub` has pushed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from pico_banana.convert.demo.sample_release import SampleRelease, make_sample_release
from pico_banana.schema import columns
from tests.commands import Ended, arguments_of, digests, pico_banana, quick_settings, release_flags
from tests.fake_cdn import FakeCDN
from tests.fake_hub import READ_TOKEN, FakeHub, Repo
from tests.hub_clients import PUSH, client
from tests.publish_commands import REPO, convert, env_of, parquet_of, words_of

ACCEPTED = ("--public", "--accept-license")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> SampleRelease:
    root = tmp_path_factory.mktemp("release")
    return make_sample_release(root, sft=8, preference=4, multi_turn=4, photos=5, size=(48, 32))


@pytest.fixture(scope="module")
def made(release: SampleRelease, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "out"
    words = ("--output", out, "--records-per-shard", "4")
    assert pico_banana("convert", "sft", *release_flags(release), *words).code == 0
    return out


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "out")
    return tmp_path / "out"


def publish(hub: FakeHub, out: Path, *words: str) -> Ended:
    return pico_banana("publish", out, REPO, *words, env=env_of(hub, out))


def test_a_finished_output_is_published_and_stays(out: Path):
    before = digests(out)
    with FakeHub() as hub:
        ended = publish(hub, out)
        assert ended.code == 0, ended.err
        repo = hub.repos[REPO]
        assert repo.private
        assert "(private), 2 Parquet files, 1 commit in this run" in ended.out
        assert digests(out) == before
        before.pop("README.md")
        assert parquet_of(repo.commits[-1]) == before
        again = publish(hub, out)
        assert again.code == 0, again.err
        assert "0 commits in this run" in again.out
        # Public only when all is there, and only when it is asked for.
        ended = publish(hub, out, *ACCEPTED)
        assert ended.code == 0, ended.err
        assert not repo.private
        refused = publish(hub, out)
        assert refused.code == 2
        assert "me/pico is public, and --public was not given" in refused.err
        assert "allowed is to pass on unchanged files" in refused.err
        assert publish(hub, out, *ACCEPTED).code == 0


def flip_a_byte(out: Path) -> None:
    path = out / "sft" / "train-00001-of-00002.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def delete_a_ledger(out: Path) -> None:
    (out / "_ledger/sft/train-00000-of-00002.json").unlink()


def drop_a_column(out: Path) -> None:
    """A file of other columns, with a ledger that agrees with it."""
    path = out / "sft" / "train-00001-of-00002.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["attribution"]), path)
    ledger = out / "_ledger/sft/train-00001-of-00002.json"
    value = json.loads(ledger.read_bytes())
    sha256 = digests(out)["sft/train-00001-of-00002.parquet"]
    value |= {"sha256": sha256, "size_bytes": path.stat().st_size}
    ledger.write_text(json.dumps(value), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "words", "why"),
    [
        (flip_a_byte, (), "its bytes are not those that were written"),
        (flip_a_byte, ACCEPTED, "its bytes are not those that were written"),
        (delete_a_ledger, (), "is not finished, or its ledger is absent"),
        (drop_a_column, ACCEPTED, "its columns are not those of sft"),
    ],
)
def test_what_no_ledger_vouches_for_is_refused(out: Path, change, words, why: str):
    change(out)
    with FakeHub() as hub:
        refused = publish(hub, out, *words)
        assert refused.code == 2
        assert why in refused.err
        assert not hub.repos
        assert not hub.requests("PUT *")


def test_public_asks_for_the_licence(release: SampleRelease, out: Path):
    with FakeHub() as hub:
        refused = publish(hub, out, "--public")
        assert refused.code == 2
        assert "public must come with --accept-license: edits and texts are CC BY-NC" in refused.err
        assert "without --public the repository stays private" in refused.err
        assert convert(release, hub, out, "--public").code == 2
        assert not hub.log


def test_a_foreign_file_keeps_a_repository_private(out: Path):
    with FakeHub() as hub:
        assert publish(hub, out).code == 0
        repo = hub.repos[REPO]
        repo.commit("by hand", {"sft/extra.parquet": b"PAR1"})
        refused = publish(hub, out, *ACCEPTED)
        assert refused.code == 2
        assert "must not be made public: sft/extra.parquet" in refused.err
        assert repo.private
        assert publish(hub, out).code == 0  # private is allowed


def test_a_foreign_file_among_replaced_ones_keeps_it_private(
    release: SampleRelease, out: Path, tmp_path: Path
):
    with FakeHub() as hub:
        assert publish(hub, out).code == 0
        hub.repos[REPO].commit("by hand", {"sft/extra.parquet": b"PAR1"})
        new = tmp_path / "new" / "out"
        ended = convert(release, hub, new, "--replace", *ACCEPTED, shard=1)
        assert ended.code == 1
        assert "must not be made public: sft/extra.parquet" in ended.err
        assert hub.repos[REPO].private


def test_a_repository_of_others_is_left_alone(release: SampleRelease, out: Path):
    with FakeHub() as hub:
        assert publish(hub, out).code == 0
        hub.repos[REPO].commit("begin anew", dict.fromkeys(hub.repos[REPO].files))
        hub.repos[REPO].commit("theirs", {"data/train.parquet": b"PAR1"})
        refused = convert(release, hub, out)
        assert refused.code == 2
        assert "me/pico holds other files (data/train.parquet), and no plan of ours" in refused.err


@pytest.mark.parametrize(
    ("token", "is_there", "why"),
    [
        ("hf_wrong", False, "the Hub does not accept the token"),
        (READ_TOKEN, False, "the token needs the right to write there"),
        (READ_TOKEN, True, "the token needs the right to write there"),
        ("", True, "there is no token for the Hub: set HF_TOKEN"),
    ],
)
def test_a_token_that_may_not_write_is_told_before_any_image(
    release: SampleRelease, made: Path, tmp_path: Path, token: str, is_there: bool, why: str
):
    out = tmp_path / "new" / "out"
    with FakeHub() as hub, FakeCDN(("/cdn", release.cdn)) as cdn:
        if is_there:
            assert publish(hub, made).code == 0
        ended = pico_banana(
            *(
                "convert",
                "sft",
                *release_flags(release, f"{cdn.url}/cdn"),
                *quick_settings(tmp_path),
            ),
            *("--output", out, "--records-per-shard", "4", "--publish", REPO),
            env={**env_of(hub, out, token), "HF_HUB_DISABLE_IMPLICIT_TOKEN": ""},
        )
        assert ended.code == 2, ended.err
        assert why in ended.err
        assert not token or token not in ended.err
        assert not [one for one in cdn.log if "/images/" in one.path]
        assert not [*out.glob("sft/*.parquet")]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--publish", "pico"), "REPO must be OWNER/NAME"),
        (("--publish", REPO, "--overwrite"), "overwrite must be left out with --publish"),
        (("--publish", REPO, "--slice", "0/2"), "slice must be left out with --publish"),
        (("--publish", REPO, "--runner", "ray"), "runner must be left out with --publish"),
        (("--publish", REPO, "--disk-budget", "much"), "disk_budget must be a size like 10GB"),
        (("--publish", REPO, "--disk-budget", "1GB", "--keep-local"), "must be left out with"),
        (("--disk-budget", "1GB"), "disk_budget must come with --publish REPO"),
        (("--public",), "public must come with --publish REPO"),
    ],
)
def test_flags_that_do_not_go_together(release: SampleRelease, tmp_path: Path, words, why: str):
    with FakeHub() as hub:
        ended = pico_banana(
            *("convert", "sft", *release_flags(release), "--output", tmp_path / "out", *words),
            env=env_of(hub, tmp_path / "out"),
        )
        assert ended.code == 2
        assert why in ended.err
        assert not hub.log


@pytest.mark.parametrize("words", [("finish",), ("convert", "sft", "--output")])
def test_a_repository_is_no_output(release: SampleRelease, out: Path, words):
    place = f"hf://datasets/{REPO}"
    with FakeHub() as hub:
        assert publish(hub, out).code == 0
        flags = release_flags(release) if words[0] == "convert" else []
        ended = pico_banana(*words, place, *flags, env=env_of(hub, out))
        assert ended.code == 2
        assert "the output must be a folder or an object store" in ended.err
        unseen = pico_banana("verify", place, env=env_of(hub, out, "hf_wrong"))
        assert unseen.code == 2
        assert unseen.err.count("cannot be read") == 1
        assert len(hub.repos[REPO].commits) == 2


def test_a_signal_ends_a_wait_for_the_hub(release: SampleRelease, tmp_path: Path):
    out = tmp_path / "out"
    words = words_of(release, out, "--disk-budget", "1MB")
    with FakeHub() as hub:
        hub.fail("POST */commit/*", 429, headers={"Retry-After": "600"})
        running = subprocess.Popen(
            arguments_of(*words),
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **env_of(hub, out)},
        )
        while not any(one.status == 429 for one in hub.log):
            hub.wait(len(hub.log) + 1, 0.05)
        running.terminate()
        _, told = running.communicate(timeout=20)
        assert running.returncode == 143
        assert told.endswith("run the same command again to continue\n")
        assert "semaphore" not in told
        assert convert(release, hub, out).code == 0


def test_a_disk_budget_that_no_shard_fits_is_told(release: SampleRelease, tmp_path: Path):
    with FakeHub() as hub:
        ended = convert(release, hub, tmp_path / "out", "--disk-budget", "9KB")
        assert ended.code == 1
        assert "--disk-budget must hold the shards that are written at once" in ended.err
        assert not [*(tmp_path / "out" / "sft").iterdir()]
        assert convert(release, hub, tmp_path / "out").code == 0


def test_a_card_alone_keeps_what_the_head_says_of_the_files(tmp_path: Path):
    info = {
        "config_name": "sft",
        "features": [{"name": column.name, "dtype": "string"} for column in columns("sft")],
        "splits": [{"name": "train", "num_bytes": 100, "num_examples": 70}],
        "download_size": 100,
        "dataset_size": 100,
    }
    files = {"config_name": "sft", "data_files": [{"split": "train", "path": "sft/train-*"}]}
    before = {"configs": [files], "dataset_info": info}
    with FakeHub() as hub:
        repo = hub.repos[REPO] = Repo(REPO, private=True)
        card = f"---\n{yaml.safe_dump(before)}---\n"
        repo.commit("push", {"README.md": card.encode(), "sft/train-0.parquet": b"PAR1"})
        ended = pico_banana("publish", "--card-only", REPO, env=hub.env(tmp_path / "huggingface"))
        assert ended.code == 0, ended.err
    card = repo.files["README.md"].decode()
    head = yaml.safe_load(card.split("---\n")[1])
    assert before.items() <= head.items()
    assert head["license"] == "cc-by-nc-nd-4.0"
    assert "| `sft` | `train` | 70 |" in card


@pytest.mark.long
def test_the_card_of_what_push_to_hub_pushed(release: SampleRelease, tmp_path: Path):
    given = {
        "cdn": os.fspath(release.cdn),
        "open_images": os.fspath(release.open_images),
        "open_images_metadata": os.fspath(release.metadata_csv),
    }
    with FakeHub() as hub:
        client(hub, tmp_path, PUSH, [REPO, ["sft"], given, {}])
        repo = hub.repos[REPO]
        before = yaml.safe_load(repo.files["README.md"].decode().split("---\n")[1])
        words = ("publish", "--card-only", REPO)
        refused = pico_banana(*words, *ACCEPTED, env=hub.env(tmp_path / "huggingface"))
        assert refused.code == 2
        assert "must be private: it has no ledgers" in refused.err
        ended = pico_banana(*words, env=hub.env(tmp_path / "huggingface"))
        assert ended.code == 0, ended.err
        card = repo.files["README.md"].decode()
        after = yaml.safe_load(card.split("---\n")[1])
        for name in ("configs", "dataset_info"):
            assert after[name] == before[name]
        assert after["license"] == "cc-by-nc-nd-4.0"
        assert "**CC BY 2.0**" in card
        assert "## Removal" in card
        assert f"| `sft` | `train` | {release.good['sft']} |" in card
        commits = len(repo.commits)
        assert pico_banana(*words, env=hub.env(tmp_path / "huggingface")).code == 0
        assert len(repo.commits) == commits
        repo.private = False
        assert pico_banana(*words, env=hub.env(tmp_path / "huggingface")).code == 2


PATIENCE = """
from pico_banana.convert.publishing.repository import Patience, Repository
from pico_banana.errors import UsageError

said = []
try:
    Repository("me/pico", said.append, Patience(tries=3, first_s=0.01))
except UsageError as error:
    print(error, len(said))
"""


def test_a_hub_that_stays_away_is_given_up(tmp_path: Path):
    with FakeHub() as hub:
        hub.fail("GET *", 503, times=9)
        ended = subprocess.run(
            [sys.executable, "-c", PATIENCE],
            capture_output=True,
            text=True,
            env={**os.environ, **hub.env(tmp_path)},
            check=True,
        )
    assert "me/pico could not be looked up after 3 tries" in ended.stdout
    assert ended.stdout.endswith(" 2\n")
