"""The link edition, and the one without images: what rows hold, and that nothing is fetched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pico_banana_400k
from pico_banana.convert.demo.sample_release import SampleRelease, make_sample_release
from pico_banana.convert.options import ConvertSettings
from pico_banana.errors import SettingError
from pico_banana.release.files import Release
from pico_banana.schema import CONFIGS, MEASURES, arrow_schema, columns, features
from pico_banana.settings import Settings, build_settings
from pico_banana.urls import PUBLISHED_BASE
from tests import hostile
from tests.commands import (
    Ended,
    arguments_of,
    count,
    digests,
    ledgers,
    pico_banana,
    plan_of,
    release_flags,
    rows,
)
from tests.fake_cdn import FakeCDN
from tests.hostile_world import World, add_lines, first_record, make_world

BUCKET = "https://open-images-dataset.s3.amazonaws.com/train"
MEASURED = tuple(f"_{measure.name}" for measure in MEASURES if measure.name != "url")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> SampleRelease:
    root = tmp_path_factory.mktemp("release")
    return make_sample_release(
        root, sft=60, preference=12, multi_turn=8, size=(48, 32), quirks=True
    )


@pytest.fixture
def cdn(release: SampleRelease):
    with FakeCDN(("/cdn", release.cdn)) as server:
        yield server


@pytest.fixture(scope="module")
def with_bytes(release: SampleRelease, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same records with their bytes, no row left out."""
    out = tmp_path_factory.mktemp("bytes") / "out"
    words = ("convert", "all", *release_flags(release), "--on-missing", "null", "--output", out)
    assert pico_banana(*words).code in (0, 1)
    return out


def link(
    release: SampleRelease, cdn: FakeCDN, out: Path, *words: Any, images: str = "url"
) -> Ended:
    configs = words[:1] if words and words[0] in CONFIGS else ("all",)
    more = words[len(configs) :] if configs != ("all",) else words
    flags = ("--cdn", f"{cdn.url}/cdn", "--open-images-metadata", release.metadata_csv)
    return pico_banana("convert", *configs, *flags, "--images", images, *more, "--output", out)


def is_measure(name: str) -> bool:
    return name.removesuffix("s").endswith(MEASURED)


def is_image(name: str) -> bool:
    return name.endswith(("_image", "_images"))


def each(value: Any, function: Any) -> Any:
    return [function(one) for one in value] if isinstance(value, list) else function(value)


def expected(row: dict[str, Any], base: str, images: str) -> dict[str, Any]:
    """What a row with bytes is in another edition."""
    made: dict[str, Any] = {}

    def edit(url: str) -> dict[str, Any] | None:
        tail = url.removeprefix(PUBLISHED_BASE)
        known = tail.startswith("images/")
        return {"bytes": None, "path": f"{base}/{tail}"} if known else None

    for name, value in row.items():
        if is_measure(name):
            made[name] = each(value, lambda _: None)
        elif not is_image(name):
            made[name] = value
        elif images == "url" and name == "input_image":
            image_id = row["image_id"]
            made[name] = {"bytes": None, "path": f"{BUCKET}/{image_id}.jpg"} if image_id else None
        elif images == "url":
            made[name] = each(row[name.replace("_image", "_url")], edit)
    listed = images == "url" and row["image_id"] is not None
    made["input_source"] = "open_images" if listed else None
    return made


@pytest.mark.parametrize("images", ["url", "none"])
def test_rows_are_those_with_bytes_but_for_what_bytes_tell(
    release: SampleRelease, cdn: FakeCDN, with_bytes: Path, tmp_path: Path, images: str
) -> None:
    ended = link(release, cdn, tmp_path / "out", images=images)
    assert ended.code == 0, ended.err
    assert cdn.count("/cdn/images/*") == 0
    for config in CONFIGS:
        wanted = [expected(row, f"{cdn.url}/cdn", images) for row in rows(with_bytes, config)]
        found = rows(tmp_path / "out", config)
        assert len(found) == release.good[config]
        assert found == [
            {column.name: row[column.name] for column in columns(config, images=images)}
            for row in wanted
        ]
        (path,) = (tmp_path / "out" / config).glob("*.parquet")
        schema = arrow_schema(config, images=images)
        assert pq.read_schema(path).equals(schema)
        assert pq.read_schema(path).metadata[b"huggingface"] == schema.metadata[b"huggingface"]
        (made,) = ledgers(tmp_path / "out", config)
        assert made["ways"] == [[None, len(found)]]
        assert sum(number for _, number in made["matches"]) == len(found)
        assert made["missing"] == made["missing_lines"] == made["marks"] == []
    # Some of the quirks: names that need quoting, and a path that nobody knows.
    paths = (
        [row["edited_image"] for row in rows(tmp_path / "out", "sft")] if images == "url" else []
    )
    assert images == "none" or any("%23" in path["path"] for path in paths if path)
    ended = pico_banana("verify", tmp_path / "out", "--check", "decode")
    assert ended.code == 0, ended.out


def test_the_card_says_what_the_edition_is(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path
) -> None:
    for images, said in (("url", "Links, not bytes"), ("none", "No images")):
        assert link(release, cdn, tmp_path / images, images=images).code == 0
        card = (tmp_path / images / "README.md").read_text(encoding="utf-8")
        assert f"## {said}" in card
        assert "CC BY-NC-ND 4.0" in card
        assert "to the\n  bit" not in card
        assert "Missing images" not in card
        assert ("### Where input images come from" in card) == (images == "url")
        assert ("| `input_image` | Image |" in card) == (images == "url")


# ---- addresses ---------------------------------------------------------------------------------


def test_mirrors_and_flickr_where_it_is_named(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path
) -> None:
    listed = release.metadata_csv.read_text(encoding="utf-8").splitlines(keepends=True)
    short = tmp_path / "list.csv"
    short.write_text("".join(listed[:4]), encoding="utf-8")
    words = (
        *("sft", "--open-images-metadata", short, "--input-sources", "bucket,flickr"),
        *("--mirrors", "open-images-dataset.s3.amazonaws.com=https://photos.example/b"),
        *("--mirrors", "farm*.staticflickr.com=https://flickr.example/{host}"),
    )
    assert link(release, cdn, tmp_path / "out", *words).code == 0
    seen = set()
    for row in rows(tmp_path / "out", "sft"):
        seen.add(row["input_source"])
        path = row["input_image"]["path"]
        if row["image_id"]:
            assert path == f"https://photos.example/b/train/{row['image_id']}.jpg"
            assert row["input_source"] == "open_images"
            continue
        assert row["input_source"] == "flickr"
        host, _, rest = row["input_url"].partition("://")[2].partition("/")
        is_farm = host.startswith("farm")
        assert path == (f"https://flickr.example/{host}/{rest}" if is_farm else row["input_url"])
    assert seen == {"open_images", "flickr"}


def test_flickr_alone_needs_no_image_list(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path
) -> None:
    words = ("sft", "--input-sources", "flickr", "--open-images-metadata", "none")
    assert link(release, cdn, tmp_path / "out", *words).code == 0
    for row in rows(tmp_path / "out", "sft"):
        assert row["input_image"] == {"bytes": None, "path": row["input_url"]}
        assert (row["image_id"], row["attribution"]) == (None, None)


LOCAL: list[tuple[dict[str, Any], str]] = [
    ({"cdn": "/data/release"}, "cdn must be an http"),
    ({"cdn": "s3://bucket/release"}, "cdn must be an http"),
    ({"cdn": "http://[::1]:8000/cdn"}, 'cdn must be an http.* without "::"'),
    ({"mirrors": {"ml-site.*": "/data/release"}}, "mirrors must be an http"),
    ({"mirrors": {"*.amazonaws.com": "s3://open-images-dataset"}}, "mirrors must be .* bucket"),
    (
        {"mirrors": {"*.staticflickr.com": "/data"}, "input_sources": ["bucket", "flickr"]},
        "mirrors must be .* Flickr",
    ),
]


@pytest.mark.parametrize(("given", "said"), LOCAL, ids=lambda value: str(value)[:40])
def test_links_to_no_http_address_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        build_settings(Settings, {"images": "url", **given})
    build_settings(Settings, {"images": "none", **given})
    with pytest.raises(ValueError, match=said):
        pico_banana_400k.load("sft", images="url", **given)


def test_a_local_release_is_refused_before_anything_is_written(
    release: SampleRelease, tmp_path: Path
) -> None:
    words = ("--images", "url", "--output", tmp_path / "out")
    ended = pico_banana("convert", "sft", *release_flags(release), *words)
    assert ended.code == 2
    assert "cdn must be an http(s) URL" in ended.err
    assert not (tmp_path / "out").exists()


def test_mirrors_that_links_do_not_pass_are_nobodys_business() -> None:
    mirrors = {"*.staticflickr.com": "/data", "storage.googleapis.com": "/lists"}
    assert build_settings(Settings, {"images": "url", "mirrors": mirrors}).images == "url"


# ---- hostile records ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Attacked:
    world: World
    out: Path


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    folder = tmp_path_factory.mktemp("hostile")
    cdn = FakeCDN(("/cdn", folder / "release/cdn"))
    with cdn, FakeCDN(("/", folder / "outside")) as decoy:
        world = make_world(folder, cdn, decoy)
        for config in CONFIGS:
            record = first_record(world, config)
            added = hostile.lines(record, decoy.url, os.fspath(world.outside))
            chained = "http://farm1.staticflickr.com/x::file:///etc/passwd"
            odd = hostile.with_input(record, chained)
            added.append(hostile.Line(json.dumps(odd).encode(), "missing"))
            add_lines(world, config, added)
        settings = folder / "settings.yaml"
        given = world.arguments() | {"images": "url", "input_sources": ["bucket", "flickr"]}
        settings.write_text(json.dumps(given), encoding="utf-8")
        words = ("convert", "all", "--settings", settings, "--output", folder / "out")
        ended = world.command("convert", *words)
        assert ended.code == 0, ended.err
        yield Attacked(world, folder / "out")


@pytest.mark.parametrize("config", CONFIGS)
def test_no_record_names_a_file_or_another_host(attacked: Attacked, config: str) -> None:
    found = rows(attacked.out, config)
    # But for bad lines every record is there.
    good = [line for line in attacked.world.lines[config] if line.fate != "bad"]
    assert len(found) == len(good) >= 50
    own = attacked.world.cdn.url
    allowed = (f"{own}/cdn/images/", f"{BUCKET}/", f"{own}/flickr/farm")
    flickr = ("http://farm9.staticflickr.com/x.png",)
    for row in found:
        for name, value in row.items():
            if not is_image(name):
                continue
            for image in value if isinstance(value, list) else [value]:
                assert image is None or image["bytes"] is None
                assert image is None or image["path"].startswith(allowed) or image["path"] in flickr
                assert image is None or "::" not in image["path"]
    assert attacked.world.cdn.count("/cdn/images/*") == attacked.world.decoy.count() == 0


def test_nothing_outside_is_opened_or_asked(attacked: Attacked) -> None:
    attacked.world.assert_inside("convert")


# ---- shards ------------------------------------------------------------------------------------


def test_a_shard_has_up_to_50_000_records() -> None:
    for images, most in (("bytes", 250), ("url", 50_000), ("none", 50_000)):
        settings = build_settings(ConvertSettings, {"images": images})
        assert settings.shard_size("sft") == most
    own = build_settings(ConvertSettings, {"images": "url", "records_per_shard": 7})
    assert own.shard_size("sft") == 7


@pytest.mark.long
def test_workers_and_killed_runs_change_no_byte(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path
) -> None:
    words = ("sft", "--records-per-shard", "1")
    assert link(release, cdn, tmp_path / "calm", *words, "--workers", "1").code == 0
    out = tmp_path / "out"
    flags = ("--cdn", f"{cdn.url}/cdn", "--open-images-metadata", release.metadata_csv)
    command = ("convert", "sft", *flags, "--images", "url", *words[1:], "--output", out)
    run = subprocess.Popen(arguments_of(*command), stderr=subprocess.PIPE)
    while not list(out.glob("_ledger/sft/train-*.json")):
        assert run.poll() is None
    run.send_signal(signal.SIGKILL)
    run.communicate(timeout=30)
    assert not (out / "README.md").exists()
    before = {path: path.stat().st_mtime_ns for path in out.glob("_ledger/sft/train-*.json")}
    assert 0 < len(before) < release.good["sft"]
    ended = link(release, cdn, out, *words)
    assert ended.code == 0, ended.err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert digests(out) == digests(tmp_path / "calm")
    ended = link(release, cdn, out, *words, "--retry-missing-all")
    assert ended.code == 0
    assert "nothing to try again" in ended.err
    assert cdn.count("/cdn/images/*") == 0


def test_a_changed_link_is_a_fault(release: SampleRelease, cdn: FakeCDN, tmp_path: Path) -> None:
    assert link(release, cdn, tmp_path, "sft").code == 0
    (path,) = tmp_path.glob("sft/*.parquet")
    table = pq.read_table(path)
    images = [{"bytes": None, "path": "/etc/passwd"}] * table.num_rows
    place = table.schema.get_field_index("edited_image")
    kind = table.schema.field("edited_image")
    pq.write_table(table.set_column(place, kind, pa.array(images, kind.type)), path)
    ended = pico_banana("verify", tmp_path, "--check", "decode")
    assert ended.code == 1
    assert "must be an http(s) address alone" in ended.out


def test_another_edition_or_other_addresses_are_another_plan(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path
) -> None:
    assert link(release, cdn, tmp_path, "sft").code == 0
    before = digests(tmp_path)
    for images in ("bytes", "none"):
        ended = link(release, cdn, tmp_path, "sft", images=images)
        assert ended.code == 2
        assert f'images: "url" before, "{images}" now' in ended.err
    mirror = ("--mirrors", "*.amazonaws.com=https://photos.example")
    ended = link(release, cdn, tmp_path, "sft", *mirror)
    assert ended.code == 2
    assert "addresses: " in ended.err
    assert digests(tmp_path) == before
    # What has no part in it changes nothing.
    assert (
        link(release, cdn, tmp_path, "sft", "--on-missing", "null", "--check", "decode").code == 0
    )
    assert digests(tmp_path) == before


def test_what_is_left_out_and_split(release: SampleRelease, cdn: FakeCDN, tmp_path: Path) -> None:
    words = ("sft", "--validation", "0.4", "--limit", "40", "--offset", "3")
    assert link(release, cdn, tmp_path, *words).code == 0
    found = rows(tmp_path, "sft")
    assert len(found) == 40
    assert {path.name.partition("-")[0] for path in tmp_path.glob("sft/*.parquet")} == {
        "train",
        "validation",
    }
    plan = plan_of(tmp_path, "sft")
    assert count(plan["left_out"]) == release.good["sft"] - 40
    first = found[0]["id"]
    assert link(release, cdn, tmp_path, *words, "--exclude-ids", first).code == 0
    assert first not in {row["id"] for row in rows(tmp_path, "sft")}
    assert pico_banana("verify", tmp_path).code == 0


def test_row_groups_are_bounded(release: SampleRelease, tmp_path: Path) -> None:
    folder = tmp_path / "release" / "jsonl"
    folder.mkdir(parents=True)
    raw = (release.cdn / "jsonl" / "sft.jsonl").read_bytes().splitlines()[3]
    (folder / "sft.jsonl").write_bytes((raw + b"\n") * 12_345)
    with FakeCDN(("/cdn", folder.parent)) as server:
        assert link(release, server, tmp_path / "out", "sft").code == 0
    (path,) = (tmp_path / "out").glob("sft/*.parquet")
    parquet = pq.ParquetFile(path)
    groups = [parquet.metadata.row_group(n).num_rows for n in range(parquet.num_row_groups)]
    assert groups == [10_000, 2_345]


# ---- the loader --------------------------------------------------------------------------------


def undecoded(ds: Any) -> Any:
    for name, feature in ds.features.items():
        if isinstance(feature, datasets.Image):
            ds = ds.cast_column(name, datasets.Image(decode=False))
        elif is_image(name):
            image = datasets.Image(decode=False)
            ds = ds.cast_column(
                name, [image] if isinstance(feature, list) else type(feature)(image)
            )
    return ds


@pytest.mark.parametrize("images", ["url", pytest.param("none", marks=pytest.mark.long)])
@pytest.mark.parametrize("config", CONFIGS)
def test_the_loader_gives_the_converters_rows(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path, config: str, images: str
) -> None:
    assert link(release, cdn, tmp_path, config, images=images).code == 0
    wanted = rows(tmp_path, config)
    given = {"cdn": f"{cdn.url}/cdn", "open_images_metadata": os.fspath(release.metadata_csv)}
    for streaming in (False, True):
        ds = pico_banana_400k.load(
            config, split="train", streaming=streaming, images=images, **given
        )
        assert ds.features == features(config, images=images)
        assert list(undecoded(ds)) == wanted
    assert cdn.count("/cdn/images/*") == 0


def test_the_loaders_images_are_read_from_their_addresses(
    release: SampleRelease, cdn: FakeCDN
) -> None:
    given = {
        "cdn": f"{cdn.url}/cdn",
        "open_images_metadata": os.fspath(release.metadata_csv),
        "limit": 1,
    }
    for streaming in (False, True):
        ds = pico_banana_400k.load(split="train", images="url", streaming=streaming, **given)
        row = next(iter(ds.select_columns(["edited_image"])))
        assert row["edited_image"].size[0] > 0
    assert cdn.count("/cdn/images/*") >= 2


def test_the_cache_tells_editions_and_addresses_apart() -> None:
    def identity(**given: Any) -> str:
        config = pico_banana_400k.PicoBananaConfig(name="sft", **given)
        return config.create_config_id({})

    mirror = {"mirrors": {"*.amazonaws.com": "https://photos.example"}}
    found = [identity(), identity(images="url"), identity(images="none")]
    found.append(identity(images="url", **mirror))
    assert len(set(found)) == 4
    assert identity(**mirror) == identity()
    assert Release(build_settings(Settings, {"images": "url"})).identity("sft")
