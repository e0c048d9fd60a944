"""`push_to_hub` keeps the published bytes: what the Hub then holds, and what is read from it.

Runs on every version of `datasets` that constraints/ names.
"""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from datasets import IterableDataset

from pico_banana.convert.demo.sample_release import SampleRelease, make_sample_release
from pico_banana.schema import CONFIGS
from tests.fake_hub import FakeHub
from tests.hub_clients import PUSH, READ, client, digested, held_rows
from tests.make_read_back import check_bytes, published
from tests.publish_commands import REPO

CLIENT = """
import json
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError

api, kind = HfApi(), {"repo_type": "dataset"}

def commit(repo, operations, **more):
    return api.create_commit(repo, operations, commit_message="change", **kind, **more)

def status(repo, **more):
    try:
        commit(repo, [CommitOperationAdd("note.txt", b"a note")], **more)
    except HfHubHTTPError as error:
        return error.response.status_code

for repo in ("me/other", "me/refused", "me/late"):
    api.create_repo(repo, **kind)
first = api.repo_info("me/other", **kind).sha
shards = [CommitOperationAdd(f"sft/{n}.parquet", bytes([n]) * 2500) for n in range(3)]
commit("me/other", [*shards, CommitOperationAdd("README.md", b"# A card")])
refused = [status("me/other", parent_commit=first), status("me/refused"), status("me/late")]
commit("me/other", [CommitOperationAdd("sft/0.parquet", bytes(2500))])  # as it was: no commit
commit("me/other", [CommitOperationDelete("sft/1.parquet")])
api.update_repo_settings("me/other", private=True, gated="manual", **kind)
tree = api.list_repo_tree("me/other", recursive=True, **kind)
print(json.dumps([refused, [entry.path for entry in tree]]))
"""


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> SampleRelease:
    root = tmp_path_factory.mktemp("release")
    return make_sample_release(
        root, sft=8, preference=6, multi_turn=6, photos=5, size=(48, 32), quirks=True
    )


WAYS = {
    "map-style": ({"streaming": False}, {}),
    # All there are, but with a limit no range is empty; the library cannot push one.
    "streaming": ({"streaming": True, "limit": 1000}, {}),
    "streaming with empty ranges": ({"streaming": True}, {"num_shards": 1}),
}


@pytest.fixture(
    scope="module",
    params=[
        "map-style",
        *[pytest.param(w, marks=pytest.mark.long) for w in WAYS if w != "map-style"],
    ],
)
def hub(
    request: pytest.FixtureRequest,
    release: SampleRelease,
    tmp_path_factory: pytest.TempPathFactory,
):
    """A Hub that all three configs were pushed to."""
    if request.param != "map-style" and not hasattr(IterableDataset, "push_to_hub"):
        pytest.skip("datasets before 4.0 pushes no streams")
    folder = tmp_path_factory.mktemp("push")
    more, pushing = WAYS[request.param]
    given = {
        **more,
        "cdn": os.fspath(release.cdn),
        "open_images": os.fspath(release.open_images),
        "open_images_metadata": os.fspath(release.metadata_csv),
    }
    with FakeHub() as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PICO_BANANA_CACHE", os.fspath(folder / "pico_banana"))
        client(running, folder, PUSH, [REPO, CONFIGS, given, pushing])
        yield running


@pytest.mark.parametrize("config", CONFIGS)
def test_the_hub_holds_the_published_bytes(hub: FakeHub, release: SampleRelease, config: str):
    held = held_rows(hub, config)
    assert len(held) == release.good[config]
    for row in held:
        assert check_bytes(release, row) == sum(
            len(value) if isinstance(value, list) else 1
            for name, value in row.items()
            if name.endswith(("_image", "_images"))
        )
        assert row["input_image"]["bytes"].startswith(b"\xff\xd8")  # still a JPEG, as published
        assert row["input_source"] == "open_images"


@pytest.mark.parametrize("config", CONFIGS)
def test_the_hashes_on_the_hub_are_those_of_the_published_files(
    hub: FakeHub, release: SampleRelease, config: str
):
    for row in held_rows(hub, config):
        for name in [name for name in row if "_sha256" in name]:
            urls, hashes = row[name.replace("_sha256", "_url")], row[name]
            if isinstance(hashes, str):
                urls, hashes = [urls], [hashes]
            files = [published(release, url, row["image_id"]) for url in urls]
            assert hashes == digested(files)


@pytest.mark.long
def test_plain_datasets_reads_the_same_bytes_from_the_hub(hub: FakeHub, tmp_path: Path):
    found = client(hub, tmp_path, READ, [REPO, CONFIGS])
    for config in CONFIGS:
        held = digested(held_rows(hub, config))
        assert found.pop(f"{config} map-style") == held
        assert found.pop(f"{config} streaming") == held
    assert not found


def test_the_repository_is_private(hub: FakeHub):
    assert hub.repos[REPO].private
    with pytest.raises(urllib.error.HTTPError, match="401") as refused:
        urllib.request.urlopen(f"{hub.url}/api/datasets/{REPO}")  # noqa: S310
    refused.value.close()


def test_the_stand_in_answers_as_the_hub_does(tmp_path: Path):
    with FakeHub() as hub:
        hub.part_bytes, hub.page_entries = 1000, 2
        hub.fail("PUT /-/lfs/*/2", 503)
        hub.fail("POST */me/refused/commit/*", 409)
        hub.fail("POST */me/late/commit/*", 503, late=True)
        refused, paths = client(hub, tmp_path, CLIENT)
    assert refused == [412, 409, 503]
    assert paths == [".gitattributes", "README.md", "sft", "sft/0.parquet", "sft/2.parquet"]
    repo = hub.repos["me/other"]
    assert repo.private
    assert repo.gated == "manual"
    assert [(one.added, one.deleted) for one in repo.commits[1:]] == [
        (("sft/0.parquet", "sft/1.parquet", "sft/2.parquet", "README.md"), ()),
        ((), ("sft/1.parquet",)),
    ]
    assert repo.files["sft/2.parquet"] == b"\2" * 2500
    assert len(hub.requests("PUT /-/lfs/*")) == 3 * 3 + 1  # in parts, one of them twice
    assert len(hub.repos["me/refused"].commits) == 1
    assert len(hub.repos["me/late"].commits) == 2
