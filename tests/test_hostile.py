"""Input as an attacker would send it: nothing outside is read or asked for, and nothing stops.

Commands and the loader run as real processes that note what they open and connect to.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pico_banana.convert.options import ConvertSettings
from pico_banana.convert.planning.make_plan import make_plan
from pico_banana.errors import ReleaseError
from pico_banana.fetching.fetcher import Fetcher
from pico_banana.fetching.sources import Sources
from pico_banana.missing import Missing
from pico_banana.open_images.index import open_index
from pico_banana.release.files import Release
from pico_banana.release.records import Line, Record, parse_line
from pico_banana.schema import CONFIGS
from pico_banana.settings import Settings, build_settings
from tests import fake_cdn, hostile
from tests.commands import QUICK_FETCH, count, ledgers, plan_of, rows
from tests.fake_cdn import FakeCDN
from tests.hostile_world import JSONL, Ended, World, add_lines, first_record, make_world
from tests.make_read_back import check_bytes

LOAD = """
import json, sys
import pico_banana_400k

for config in ("sft", "preference", "multi_turn"):
    found = pico_banana_400k.load(
        config, split="train", streaming=True, **json.loads(sys.argv[1])
    )
    print(json.dumps([row["id"] for row in found]))
"""


def numbers(world: World, config: str, fate: str) -> set[int]:
    return {number for number, line in enumerate(world.lines[config], 1) if line.fate == fate}


def assert_accounts(world: World, output: Path, config: str) -> None:
    """Assert that every line came to its fate, and that the counts add up."""
    plan, made = plan_of(output, config), ledgers(output, config)
    bad = {one["line"] for one in plan["bad"]}
    assert bad == numbers(world, config, "bad")
    found = {
        fate: {n for one in made for first, last in one[key] for n in range(first, last + 1)}
        for fate, key in (("written", "written"), ("missing", "missing_lines"))
    }
    assert found["missing"] == numbers(world, config, "missing")
    assert found["written"] == numbers(world, config, "written")
    rest = count(plan["filtered"]) + count(plan["left_out"])
    assert rest == 0
    assert plan["lines"] == len(world.lines[config])
    assert plan["lines"] == len(bad) + rest + len(found["missing"]) + len(found["written"])


def assert_rows(world: World, output: Path, config: str) -> None:
    """Assert that rows hold the published bytes, and no image that is only a path."""
    found = rows(output, config)
    assert len(found) == len(numbers(world, config, "written"))
    for row in found:
        assert check_bytes(world.release, row) >= 2
        for value in row.values():
            images = value if isinstance(value, list) else [value]
            assert not [
                one for one in images if isinstance(one, dict) and one.get("bytes", 1) is None
            ]


def missing(output: Path, config: str) -> list[tuple[str, str]]:
    """URL and reason of every missing image."""
    return [
        (image["url"], image["reason"])
        for made in ledgers(output, config)
        for entry in made["missing"]
        for image in entry["images"]
    ]


# ---- hostile records, through every door -------------------------------------------------------


@dataclass(frozen=True)
class Ran:
    world: World
    out: Path
    ended: dict[str, Ended]
    targets: dict[str, str]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    folder = tmp_path_factory.mktemp("hostile")
    cdn = FakeCDN(("/cdn", folder / "release/cdn"), ("/flickr", folder / "release/flickr"))
    with cdn, FakeCDN(("/", folder / "outside")) as decoy:
        world = make_world(folder, cdn, decoy)
        outside = os.fspath(world.outside)
        targets: dict[str, str] = {}
        for place, target in enumerate(hostile.redirects(cdn.url, decoy.url, outside)):
            for code in (302, 307):
                path = f"images/redirect/{place}-{code}.png"
                cdn.fail(f"/cdn/{path}", forever=fake_cdn.redirect(target, code))
                targets[path] = target
        cdn.fail("/cdn/images/hop.png", forever=fake_cdn.redirect(f"{decoy.url}/secret.png"))
        for config in CONFIGS:
            record = first_record(world, config)
            added = hostile.lines(record, decoy.url, outside)
            if config == "sft":
                added += hostile.redirected(record, targets)
            add_lines(world, config, added)
        settings = folder / "settings.yaml"
        settings.write_text(json.dumps(world.arguments()), encoding="utf-8")
        words, out = ["--settings", os.fspath(settings)], folder / "out"
        yield Ran(
            world,
            out,
            {
                "plan": world.command("plan", "plan", "all", *words),
                "convert": world.command("convert", "convert", "all", *words, "--output", out),
                "verify": world.command("verify", "verify", out, "--check", "decode"),
                "load": world.run(
                    "load", sys.executable, "-c", LOAD, json.dumps(world.arguments())
                ),
            },
            targets,
        )


def test_no_line_stops_a_command(ran: Ran) -> None:
    codes = {name: ended.code for name, ended in ran.ended.items()}
    assert codes == {"plan": 0, "convert": 1, "verify": 0, "load": 0}, ran.ended["convert"].err


@pytest.mark.parametrize("config", CONFIGS)
def test_every_line_comes_to_its_fate(ran: Ran, config: str) -> None:
    assert len(ran.world.lines[config]) > 100
    assert_accounts(ran.world, ran.out, config)
    assert_rows(ran.world, ran.out, config)


def test_the_loader_gives_the_good_records(ran: Ran) -> None:
    for config, line in zip(CONFIGS, ran.ended["load"].out.splitlines(), strict=True):
        good = [line.raw for line in ran.world.lines[config] if line.fate == "written"]
        parsed = [parse_line(config, Line(0, raw)) for raw in good]
        assert json.loads(line) == [one.id for one in parsed if isinstance(one, Record)]


@pytest.mark.parametrize("name", ["plan", "convert", "verify", "load"])
def test_nothing_outside_is_opened_or_asked(ran: Ran, name: str) -> None:
    noted = ran.world.assert_inside(name)
    # The notes would show it.
    opened = {about for _, event, about in noted if event == "open"}
    assert os.fspath(ran.world.folder / "settings.yaml") in opened or name in ("verify", "load")
    connected = {about for _, event, about in noted if event == "socket.connect"}
    assert connected or name == "verify"
    if name in ("convert", "load"):
        photos = os.fspath(ran.world.release.open_images)
        assert any(isinstance(path, str) and path.startswith(photos) for path in opened)
        resolved = {about for _, event, about in noted if event == "resolve"}
        assert "farm9.staticflickr.com" in resolved
    if name == "convert":
        assert len({pid for pid, *_ in noted}) >= 3


def test_every_redirect_is_refused(ran: Ran) -> None:
    reasons = dict(missing(ran.out, "sft"))
    assert len(ran.targets) >= 80
    for path, target in ran.targets.items():
        (reason,) = [reason for url, reason in reasons.items() if url.endswith(path)]
        assert reason == "forbidden_address", target
        asked = [one.method for one in ran.world.cdn.requests(f"/cdn/{path}")]
        assert asked.count("GET") == 2, target  # by convert, and by the loader


def test_the_reasons_of_hostile_addresses(ran: Ran) -> None:
    known = {"forbidden_address", "not_found", "not_listed", "unresolved"}
    for config in CONFIGS:
        assert {reason for _, reason in missing(ran.out, config)} == known - {"not_listed"}


CONTROL = re.compile(rb"[\x00-\x09\x0b-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xa8-\xae]")


def test_no_control_character_reaches_a_terminal_or_the_card(ran: Ran) -> None:
    shown = {name: ended.out + ended.err for name, ended in ran.ended.items()}
    shown["card"] = (ran.out / "README.md").read_bytes()
    for name, text in shown.items():
        assert not CONTROL.search(text), name
        assert max(map(len, text.splitlines())) < 2000 or name == "load"
    assert b"red" in shown["card"]
    assert b"red" in shown["plan"]


def test_markup_in_the_card_is_text(ran: Ran) -> None:
    card = (ran.out / "README.md").read_text(encoding="utf-8")
    assert "\\[bold\\]" in card
    for markup in (
        "<script>",
        "[bold]",
        "](http://evil",
        "| cell |",
        "\n# heading",
        "\nlicense: mit",
    ):
        assert not re.search(rf"(?<!\\){re.escape(markup)}", card), markup


def test_passwords_stand_nowhere(ran: Ran) -> None:
    password = hostile.PASSWORD.encode()
    for ended in ran.ended.values():
        assert password not in ended.out + ended.err
    files = [path for path in ran.out.rglob("*") if path.is_file()]
    assert len(files) > 6
    assert not [path for path in files if password in path.read_bytes()]


def test_records_that_lead_away_are_refused_before_they_are_read(ran: Ran) -> None:
    world = ran.world
    world.cdn.fail("/away/*", forever=fake_cdn.redirect(f"{world.decoy.url}/secret.png"))
    ended = world.command("away", "plan", "sft", "--cdn", f"{world.cdn.url}/away")
    assert ended.code == 2
    assert b"address 127.0.0.1 is private" in ended.err
    assert world.cdn.count("/away/*") <= 2  # a refusal is not tried again
    world.assert_inside("away")


# ---- links -------------------------------------------------------------------------------------


def test_links_out_of_the_folders_are_not_followed(tmp_path: Path) -> None:
    with FakeCDN() as cdn, FakeCDN(("/", tmp_path / "outside")) as decoy:
        world = make_world(tmp_path, cdn, decoy)
        images = world.release.cdn / "images"
        images.rename(tmp_path / "disk")
        images.symlink_to(tmp_path / "disk")  # the user's own
        photos = sorted(world.release.open_images.glob("train_*"))
        photos[0].rename(tmp_path / "other-disk")
        photos[0].symlink_to(tmp_path / "other-disk")
        listed = {path.stem for path in photos[1].iterdir()}
        for path in photos[1].iterdir():
            path.unlink()
            path.symlink_to(world.outside / "secret.jpg")
        for name, target in LINKS.items():
            path = images / name
            path.parent.mkdir(exist_ok=True)
            path.symlink_to(str(target).format(outside=world.outside))
        os.mkfifo(images / "links/fifo.png")
        record = first_record(world, "sft")
        paths = [f"images/{name}" for name in (*LINKS, "links/fifo.png", "links/folder/secret.png")]
        added = [json.dumps(hostile.with_edit(record, path)).encode() for path in paths]
        add_lines(world, "sft", [hostile.Line(raw, "missing") for raw in added])
        arguments = {
            **world.arguments(),
            "cdn": os.fspath(world.release.cdn),
            "input_sources": ["folder"],
        }
        settings = tmp_path / "settings.yaml"
        settings.write_text(json.dumps(arguments), encoding="utf-8")
        out = tmp_path / "out"
        words = ("--settings", settings, "--output", out)
        assert world.command("links", "convert", "sft", *words).code == 1
        world.assert_inside("links")
    reasons = Counter(reason for _, reason in missing(out, "sft"))
    behind = [row for row in rows(out, "sft") if row["image_id"] in listed]
    assert behind == []
    assert {url.partition("/nb/")[2] for url, _ in missing(out, "sft")} >= {*paths}
    assert reasons.keys() == {"forbidden"}
    assert rows(out, "sft")
    assert all(check_bytes(world.release, row) == 2 for row in rows(out, "sft"))


LINKS = {
    "links/secret.png": "{outside}/secret.png",
    "links/relative.png": "../../outside/secret.png",
    "links/folder": "{outside}",
    "links/nothing.png": "{outside}/nothing.png",
    "links/passwd.png": "/etc/passwd",
    "links/zero.png": "/dev/zero",
    "links/loop.png": "loop.png",
}


# ---- memory ------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_line_of_100_mb_takes_no_memory(tmp_path: Path) -> None:
    with FakeCDN() as cdn, FakeCDN() as decoy:
        world = make_world(tmp_path, cdn, decoy)
        arguments = {**world.arguments(), "cdn": os.fspath(world.release.cdn)}
        load = LOAD.replace('("sft", "preference", "multi_turn")', '("sft",)')
        settings = tmp_path / "settings.yaml"
        settings.write_text(json.dumps(arguments), encoding="utf-8")
        peaks: dict[str, int] = {}
        for name in ("small", "huge"):
            ended = world.command(f"plan {name}", "plan", "sft", "--settings", settings)
            assert ended.code == 0
            ended = world.run(f"load {name}", sys.executable, "-c", load, json.dumps(arguments))
            assert (ended.code, len(json.loads(ended.out))) == (0, 6), ended.err
            for door in ("plan", "load"):
                noted = world.noted(f"{door} {name}")
                (peaks[f"{door} {name}"],) = [kib for _, event, kib in noted if event == "peak"]
            path = world.release.cdn / "jsonl" / JSONL["sft"]
            first, end, rest = path.read_bytes().partition(b"\n")
            path.write_bytes(first + end + b'{"text": "' + b"a" * 100 * 2**20 + b'"}\n' + rest)
    for door in ("plan", "load"):
        assert peaks[f"{door} huge"] - peaks[f"{door} small"] < 40 * 1024, peaks
        assert peaks[f"{door} huge"] < 500 * 1024, peaks


# ---- secrets -----------------------------------------------------------------------------------


def assert_unseen(secret: str, folder: Path, *shown: bytes) -> None:
    for text in shown:
        assert secret.encode() not in text
    for path in folder.rglob("*"):
        assert secret not in path.name
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path


def test_a_file_of_bad_lines_alone_is_no_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pico_banana.convert.planning.make_plan._MOST_BAD", 10)
    jsonl = tmp_path / "sft.jsonl"
    settings = build_settings(ConvertSettings, {})
    manifest = Release(settings).manifest("sft")
    jsonl.write_bytes(b"{\n" * 10)
    assert len(make_plan("sft", settings, os.fspath(jsonl), manifest, None).bad) == 10
    jsonl.write_bytes(b"{\n" * 11)
    with pytest.raises(ReleaseError, match=r"more than 10 of its lines are no records, as line 11"):
        make_plan("sft", settings, os.fspath(jsonl), manifest, None)


@pytest.mark.long
def test_a_signature_stands_nowhere(tmp_path: Path) -> None:
    with FakeCDN(("/", tmp_path / "release")) as cdn, FakeCDN() as decoy:
        world = make_world(tmp_path, cdn, decoy)
        cache, out = tmp_path / "cache", tmp_path / "out"
        signed = f"{cdn.url}/{world.release.metadata_csv.name}?X-Amz-Signature={hostile.PASSWORD}"
        for answer in (fake_cdn.status(403), fake_cdn.status(404), fake_cdn.body(b"no,list\n1,2")):
            cdn.fail("*.csv", forever=answer)
            with pytest.raises(ReleaseError, match=r"\.csv") as caught:
                open_index(signed, {})
            assert caught.value.__suppress_context__
            assert hostile.PASSWORD not in f"{caught.value} {caught.value.url}"
        cdn.clear()
        words = ["--cdn", world.release.cdn, "--open-images", world.release.open_images]
        words += ["--input-sources", "folder", "--open-images-metadata", signed]
        ended = world.command("signed", "convert", "sft", *words, "--output", out)
        assert ended.code == 0, ended.err
        assert cdn.requests()[-1].raw_path.endswith(hostile.PASSWORD)
        assert_unseen(hostile.PASSWORD, cache, ended.out, ended.err)
        assert_unseen(hostile.PASSWORD, out)


LONG = [pytest.param(place, marks=pytest.mark.long) for place in ("absent", "no URL")]


@pytest.fixture(params=["refuses", *LONG])
def proxy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCDN]:
    """A proxy with a password that does not work, in the environment."""
    with FakeCDN() as served:
        served.fail("*", forever=fake_cdn.status(407))
        places = {"refuses": served.url[7:], "absent": "127.0.0.1:1", "no URL": "127.0.0.1:port"}
        for name in ("http_proxy", "https_proxy"):
            place = f"http://me:{hostile.PASSWORD}@{places[request.param]}"
            monkeypatch.setenv(name, place)
        monkeypatch.setenv("no_proxy", "")
        yield served


def test_the_password_of_a_proxy_stands_nowhere(proxy: FakeCDN) -> None:
    cdn = "http://cdn.example/nb"
    settings = build_settings(Settings, {"cdn": cdn, "fetch": {**QUICK_FETCH, "retries": 0}})
    with pytest.raises(ReleaseError, match=r"cdn\.example") as caught:
        Release(settings).jsonl("sft").identity()
    assert hostile.PASSWORD not in str(caught.value)
    ref = Sources(settings).edited("images/x.png")
    with Fetcher(settings) as fetcher:
        (((found,)),) = fetcher.in_order([[[ref]]])
    assert isinstance(found, Missing)
    assert hostile.PASSWORD not in repr(found)
    for asked in proxy.requests("/nb/*"):
        assert "Proxy-Authorization" in asked.headers


@pytest.mark.parametrize("proxy", ["refuses"], indirect=True)
def test_a_run_does_not_tell_a_proxys_password(tmp_path: Path, proxy: FakeCDN) -> None:
    with FakeCDN() as decoy:
        world, out = make_world(tmp_path, proxy, decoy), tmp_path / "out"
        settings = tmp_path / "settings.yaml"
        settings.write_text(
            json.dumps(
                {
                    "cdn": os.fspath(world.release.cdn),
                    "open_images_metadata": os.fspath(world.release.metadata_csv),
                    "mirrors": {"*": "http://cdn.example/nb"},
                    "fetch": {**QUICK_FETCH, "retries": 0},
                }
            ),
            encoding="utf-8",
        )
        words = ("convert", "sft", "--settings", settings, "--output", out)
        ended = world.command("proxy", *words, "--on-missing", "fail")
        assert ended.code == 1
        assert b"407" in ended.err
        assert_unseen(hostile.PASSWORD, out, ended.out, ended.err)
        assert proxy.requests("/nb/*.jpg")
