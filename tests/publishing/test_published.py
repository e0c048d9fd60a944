"""What is published is read back by plain `datasets`: the published bytes, on every version."""

from __future__ import annotations

from pathlib import Path

from pico_banana.convert.demo.sample_release import make_sample_release
from pico_banana.schema import CONFIGS
from tests.fake_hub import FakeHub
from tests.hub_clients import READ, client, digested, held_rows
from tests.make_read_back import check_bytes
from tests.publish_commands import REPO, convert


def test_plain_datasets_reads_the_published_bytes(tmp_path: Path):
    release = make_sample_release(
        tmp_path / "release", sft=12, preference=6, multi_turn=5, photos=5, size=(48, 32)
    )
    with FakeHub() as hub:
        ended = convert(release, hub, tmp_path / "out", "--validation", "0.3", configs=("all",))
        assert ended.code == 0, ended.err
        found = client(hub, tmp_path, READ, [REPO, CONFIGS])
        for config in CONFIGS:
            train = held_rows(hub, config, "train")
            assert len(train) < len(held_rows(hub, config)) == release.good[config]
            assert sum(check_bytes(release, row) for row in train) >= 2 * len(train)
            assert found[f"{config} map-style"] == digested(train)
            assert found[f"{config} streaming"] == digested(train)
