"""What is added in one place is there in all others: a source, a measure, a budget's field."""

from __future__ import annotations

import ast
import fnmatch
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pico_banana.convert.demo.sample_release import SampleRelease
from pico_banana.convert.options import ConvertSettings, PublishOptions, RunOptions, Slice
from pico_banana.fetching.inspect import inspect
from pico_banana.input_sources import SOURCES
from pico_banana.schema import CONFIGS, MEASURES
from pico_banana.settings import FetchPolicy, HostBudget, Settings, build_settings
from tests.commands import Ended, pico_banana, quick_settings, release_flags, rows
from tests.fake_cdn import FakeCDN, status

ROOT = Path(__file__).parents[1]
CHANGES = {"PYTHONPATH": os.fspath(Path(__file__).parent / "changes")}
IMAGES = {  # the columns of images, and the list's plural
    "sft": [("input", ""), ("edited", "")],
    "preference": [("input", ""), ("chosen", ""), ("rejected", "s")],
    "multi_turn": [("input", ""), ("edited", "s")],
}


def flags(release: SampleRelease, cdn: FakeCDN) -> list[str]:
    """Name the release, with inputs from the source that `changes/` adds, a few records of it."""
    return [
        *("--cdn", f"{cdn.url}/cdn", "--open-images-metadata", os.fspath(release.metadata_csv)),
        *("--input-sources", "shelf", "--mirrors", f"shelf.example={cdn.url}/bucket"),
        *("--limit", "6"),
    ]


def changed(*words: str | os.PathLike[str]) -> Ended:
    """Run a command of the changed project."""
    return pico_banana(*words, env=CHANGES)


def trials(row: dict[str, Any], config: str) -> list[str | None]:
    """What the new measure tells of each image of a row."""
    found = []
    for prefix, plural in IMAGES[config]:
        told = row[f"{prefix}_trial{plural}"]
        found += told if plural else [told]
    return found


def test_a_source_and_a_measure_travel_to_rows_ledgers_card_and_old_shards(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path
) -> None:
    out, quick = tmp_path / "out", quick_settings(tmp_path)
    second = json.loads((release.cdn / "jsonl" / "sft.jsonl").read_bytes().splitlines()[1])
    cdn.fail(f"/cdn/{second['output_image']}", forever=status(500))
    words = ["convert", "all", *flags(release, cdn), *quick, "--output", out]
    ended = changed(*words)
    assert ended.code == 1, ended.err
    assert len(rows(out, "sft")) == 5
    cdn.clear()
    ended = changed(*words, "--retry-missing")
    assert ended.code == 0, ended.err
    # The shard was made anew from its old file, but for the image that it lacked.
    assert [request.path for request in cdn.requests("/cdn/images/*")] == [
        f"/cdn/{second['output_image']}"
    ]
    for config in CONFIGS:
        found = rows(out, config)
        assert len(found) == 6
        for row in found:
            assert row["input_source"] == "shelf"
            told = trials(row, config)
            assert set(told) == {"JPEG", "PNG"}
            assert told[0] == "JPEG"
    assert changed("verify", out, "--check", "decode").code == 0
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "or `shelf` (a copy on a shelf)" in card
    assert "| `shelf` | 6 | 6 | 6 |" in card
    assert "format, on trial, of the input image" in card
    assert "format, on trial, of each rejected image" in card


def test_a_source_and_a_measure_travel_to_plan_links_and_messages(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path
) -> None:
    words = [*release_flags(release), "--input-sources", "shelf", "--bandwidth", "1Gbit"]
    ended = changed("plan", "sft", *words)
    assert ended.code == 0, ended.err
    assert "shelf.example" in ended.out  # what it is asked for is reckoned
    out = tmp_path / "links"
    words = [*flags(release, cdn), "--images", "url", "--output", out]
    ended = changed("convert", "preference", *words)
    assert ended.code == 0, ended.err
    for row in rows(out, "preference"):
        address = f"{cdn.url}/bucket/train/{row['image_id']}.jpg"
        assert row["input_image"] == {"bytes": None, "path": address}
        assert row["input_source"] == "shelf"
        assert row["rejected_trials"] == [None] * len(row["rejected_images"])
    ended = changed("plan", "sft", *release_flags(release), "--input-sources", "shelv")
    assert f"one of {', '.join(SOURCES)}, shelf, but got" in ended.err
    assert "did you mean 'shelf'?" in ended.err
    none = ["--open-images-metadata", "none"]
    assert changed("plan", "sft", *flags(release, cdn), *none).code == 2


LOADING = """
import json, sys
import pico_banana_400k
config, arguments = json.loads(sys.argv[1])
for row in pico_banana_400k.load(config, split="train", streaming=True, **arguments):
    told = [name for name in row if "trial" in name or name == "input_source"]
    print(json.dumps({name: row[name] for name in told}))
"""


@pytest.mark.parametrize(
    "config",
    [
        "preference",
        *[pytest.param(config, marks=pytest.mark.long) for config in ("sft", "multi_turn")],
    ],
)
def test_a_source_and_a_measure_travel_to_the_loader(
    config: str, release: SampleRelease, cdn: FakeCDN
) -> None:
    arguments = {
        "cdn": f"{cdn.url}/cdn",
        "open_images_metadata": os.fspath(release.metadata_csv),
        "input_sources": ["shelf"],
        "mirrors": {"shelf.example": f"{cdn.url}/bucket"},
        "limit": 3,
    }
    ended = subprocess.run(
        [sys.executable, "-c", LOADING, json.dumps([config, arguments])],
        env={**os.environ, **CHANGES},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(found) == 3
    assert {row["input_source"] for row in found} == {"shelf"}
    assert {kind for row in found for kind in trials(row, config)} == {"JPEG", "PNG"}


def test_every_measure_is_made_where_images_are_looked_into(release: SampleRelease) -> None:
    data = next(release.open_images.glob("*/*.jpg")).read_bytes()
    made = {"url", "sha256", *inspect(data, decode=False, max_pixels=10**9).measures()}
    assert {measure.name for measure in MEASURES} <= made


class _Wider(HostBudget):
    """A budget as it is after somebody has given it a field."""

    retry_after_max_s: float | None = None


def test_a_field_of_a_budget_travels_to_the_narrower_glob_and_to_every_slice() -> None:
    hosts = {
        "*.example": _Wider(connections=8, retry_after_max_s=60),
        "a.example": _Wider(requests_per_second=4),
    }
    settings = build_settings(ConvertSettings, {})
    policy: FetchPolicy = settings.fetch.model_copy(update={"hosts": hosts})
    whole = policy.budget_of("a.example")
    assert whole == _Wider(connections=8, requests_per_second=4, retry_after_max_s=60)
    settings = settings.model_copy(update={"fetch": policy})
    shared = Slice(0, 4, 4).settings(settings).fetch.budget_of("a.example")
    assert shared == _Wider(connections=2, requests_per_second=1, retry_after_max_s=60)


@pytest.mark.parametrize("name", sorted(HostBudget.model_fields))
def test_a_budgets_field_is_known_by_its_own_name_in_a_settings_file(name: str) -> None:
    hosts = {"example.org": {name: 7}}
    assert build_settings(Settings, {"fetch": {"hosts": hosts}}).fetch.budget_of(
        "example.org"
    ).said.items() >= {(name, 7)}


def host_of_base(base: str) -> str:
    return urlsplit(base).hostname or ""


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_has_all_that_its_row_must_say(name: str) -> None:
    source = SOURCES[name]
    assert source.link in SOURCES
    assert SOURCES[source.link].is_remote
    assert all(fnmatch.fnmatchcase(host_of_base(base), source.hosts) for base in source.bases)
    assert not source.is_remote or source.hosts in build_settings(Settings, {}).fetch.hosts
    documents = {
        "README.md": [f"| `{name}` |", f"`{name}`"],
        "docs/open-images.md": [name],
        "ARCHITECTURE.md": [f"`{name}`"],
    }
    for path, words in documents.items():
        text = (ROOT / path).read_text(encoding="utf-8")
        assert [word for word in words if word not in text] == [], path
    assert source.hosts in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_option_of_a_run_is_read_where_it_acts() -> None:
    asked = {
        node.attr
        for path in (ROOT / "convert").rglob("*.py")
        if path.name != "options.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
    }
    # These act by others: a property or a validator of the model.
    others = {
        "accept_license": "public",
        "retry_missing": "refill",
        "retry_missing_all": "refill",
        "slices_at_once": "slice",
        "disk_budget": "budget_bytes",
        "keep_local": "budget_bytes",
    }
    for model in (RunOptions, PublishOptions):
        for name in model.model_fields:
            assert others.get(name, name) in asked, name
