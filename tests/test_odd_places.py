"""Places are local where they are there, whatever their names are like; IPv6 hosts are hosts."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pico_banana.convert.demo.sample_release import SampleRelease
from tests.commands import digests, pico_banana, quick_settings, release_flags, rows
from tests.fake_cdn import FakeCDN, redirect

NO_UTF8 = os.fsdecode(b"caf\xe9")
NAMES = [
    NO_UTF8,
    "a::b",
    "simplecache::file",
    "colon:/x",
    "s3:/bucket",
    "file:/x",
    "#1",
    "a%20b",
    "what?",
    "a*b",
    "[data] v1",
    " two  spaces ",
    "new\nline",
    "~",
    "~root",
    "-",
]


def spelled(name: str) -> str:
    """A folder's name as somebody who looks for a fault writes it: `colon:/x` is `colon://x`."""
    return name.replace(":/", "://")


@pytest.fixture(scope="module")
def expected(release: SampleRelease, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("plain")
    ended = pico_banana(
        *("convert", "sft", "--limit", "6", "--output", folder / "out", *release_flags(release)),
        env={"PICO_BANANA_CACHE": os.fspath(folder / "cache")},
    )
    assert ended.code == 0, ended.err
    return digests(folder / "out")


@pytest.mark.parametrize(
    "name", [*NAMES[:4], *[pytest.param(name, marks=pytest.mark.long) for name in NAMES[4:]]]
)
def test_a_place_may_have_any_name(
    release: SampleRelease,
    expected: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(release.cdn, os.path.join("cdn", name))
    shutil.copytree(release.open_images, os.path.join("photos", name))
    os.makedirs(os.path.join("cache", name))
    os.makedirs(os.path.join("list", name))
    shutil.copy(release.metadata_csv, os.path.join("list", name, "list.csv"))
    flags = ["--cdn", "{cdn}", "--open-images", "{photos}", "--open-images-metadata", "{list}"]
    for base in ("", os.path.abspath("")):  # relative only where each lies in its own folder
        output = os.path.join(base or "out", f"converted {bool(base)}", spelled(name))
        os.makedirs(os.path.dirname(output), exist_ok=True)
        places = {
            "{cdn}": os.path.join(base, "cdn", spelled(name)),
            "{photos}": os.path.join(base, "photos", spelled(name)),
            "{list}": os.path.join(base, "list", spelled(name), "list.csv"),
        }
        words = [places.get(flag, flag) for flag in flags]
        env = {"PICO_BANANA_CACHE": os.path.join(base, "cache", name)}
        ended = pico_banana("convert", "sft", "--limit", "6", "--output", output, *words, env=env)
        assert ended.code == 0, ended.err
        assert digests(Path(output)) == expected
        json.loads(Path(output, "_ledger", "sft", "plan.json").read_bytes().decode())
        ended = pico_banana("verify", output)
        assert ended.code == 0, ended.out
        assert pico_banana("finish", output).code == 0


@pytest.mark.parametrize(
    "name",
    [
        "a::b",
        "~",
        *[
            pytest.param(name, marks=pytest.mark.long)
            for name in (NO_UTF8, "colon:/x", "~root", "what?", "-")
        ],
    ],
)
def test_a_bare_name_is_a_place_in_this_folder(
    release: SampleRelease,
    expected: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    if name == "-":
        name = "./-"
    for folder in ("in", "out"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "in")
    shutil.copytree(release.cdn, name)
    ended = pico_banana(
        *("convert", "sft", "--limit", "6", "--output", tmp_path / "made"),
        *release_flags(release, spelled(name)),
    )
    assert ended.code == 0, ended.err
    monkeypatch.chdir(tmp_path / "out")
    os.makedirs(name)
    ended = pico_banana(
        *("convert", "sft", "--limit", "6", "--output", spelled(name)), *release_flags(release)
    )
    assert ended.code == 0, ended.err
    assert digests(tmp_path / "made") == digests(tmp_path / "out" / name) == expected


def test_an_output_is_made_in_a_folder_that_looks_like_a_scheme(
    release: SampleRelease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["convert", "sft", "--limit", "2", *release_flags(release), "--output"]
    ended = pico_banana(*words, "colon://x")
    assert (ended.code, (tmp_path / "colon:").exists()) == (2, False), ended.err
    assert "Traceback" not in ended.err
    (tmp_path / "colon:").mkdir()
    assert pico_banana(*words, "colon://x").code == 0
    assert pico_banana(*words, "file::x").code == 0
    assert (tmp_path / "colon:" / "x" / "README.md").exists()
    assert (tmp_path / "file::x" / "README.md").exists()


@pytest.mark.parametrize(
    "name", [NO_UTF8, *[pytest.param(name, marks=pytest.mark.long) for name in ("a::b", "c*d")]]
)
def test_tars_and_index_may_have_any_name(
    release: SampleRelease, expected: dict[str, str], tmp_path: Path, name: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    for digit in "01":
        with tarfile.open(folder / f"train_{digit}.tar.gz", "w:gz", compresslevel=1) as tar:
            tar.add(release.open_images / f"train_{digit}", f"train_{digit}")
    ended = pico_banana(
        *("index", "sft", "--output", folder / "index"),
        *("--cdn", release.cdn, "--open-images-metadata", release.metadata_csv),
    )
    assert ended.code == 0, ended.err
    ended = pico_banana(
        *("convert", "sft", "--limit", "6", "--output", folder / "out"),
        *("--cdn", release.cdn, "--open-images", folder),
        *("--open-images-metadata", folder / "index", "--input-sources", "tar"),
    )
    assert ended.code == 0, ended.err
    assert digests(folder / "out") == expected


def test_a_name_that_is_not_utf_8_is_shown_readably(release: SampleRelease, tmp_path: Path) -> None:
    for place in ("--cdn", "--open-images", "--open-images-metadata"):
        words = {**dict(zip(*[iter(release_flags(release))] * 2, strict=True)), place: None}
        words[place] = os.path.join(tmp_path, NO_UTF8)
        given = [word for pair in words.items() for word in pair]
        ended = pico_banana("convert", "sft", "--output", tmp_path / "out", *given)
        assert ended.code == 2
        assert r"caf\xe9" in ended.err, ended.err


LOAD = """
import json, os, sys
import datasets, pico_banana_400k
datasets.disable_progress_bars()
given = json.loads(sys.argv[1])
for streaming in (False, True):
    found = datasets.load_dataset(
        "pico_banana_400k", "sft", split="train", limit=4, streaming=streaming, **given
    )
    print(json.dumps([row["id"] for row in found]))
"""


@pytest.mark.long
@pytest.mark.parametrize("name", [NO_UTF8, "a::b", "c:/d", "[x] *?#%20"])
def test_the_loader_takes_them_too(release: SampleRelease, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    shutil.copytree(release.cdn, folder / "cdn")
    shutil.copytree(release.open_images, folder / "photos")
    shutil.copy(release.metadata_csv, folder / "list.csv")
    given = {
        "cdn": os.path.join(spelled(name), "cdn"),
        "open_images": os.path.join(spelled(name), "photos"),
        "open_images_metadata": os.path.join(spelled(name), "list.csv"),
    }
    done = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(given)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PICO_BANANA_CACHE": os.fspath(folder / "cache")},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded, streamed = map(json.loads, done.stdout.splitlines())
    assert len(loaded) == 4
    assert loaded == streamed


@pytest.fixture
def six(release: SampleRelease) -> Iterator[FakeCDN]:
    """A server of edits and photos that listens on ::1 only."""
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    photos = [("/bucket/train", release.open_images / f"train_{digit}") for digit in "01"]
    lists = ("/list", release.metadata_csv.parent)
    with FakeCDN(("/cdn", release.cdn), *photos, lists, address="::1") as server:
        yield server


def test_all_is_had_from_an_ipv6_host(
    release: SampleRelease, six: FakeCDN, expected: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    hosts = {"::1": {"connections": 1}}
    ended = pico_banana(
        *("convert", "sft", "--limit", "6", "--output", output),
        *("--cdn", f"{six.url}/cdn"),
        *("--open-images-metadata", f"{six.url}/list/{release.metadata_csv.name}"),
        *("--mirrors", f"open-images-dataset.s3.amazonaws.com={six.url}/bucket"),
        *quick_settings(tmp_path, fetch={"hosts": hosts}),
    )
    assert ended.code == 0, ended.err
    assert digests(output) == expected
    assert six.count("/bucket/*")
    assert six.most_open("/cdn/images/*") == 1  # the budget is that host's
    [report] = (output / "_ledger" / "runs").glob("*.json")
    assert [*json.loads(report.read_bytes())["hosts"]] == [six.url]
    assert six.url in ended.err
    assert six.url in pico_banana("verify", output).out


def test_an_ipv6_loopback_is_asked_only_where_it_is_named(
    release: SampleRelease, six: FakeCDN, cdn: FakeCDN, tmp_path: Path
) -> None:
    flags = [*("--open-images", os.fspath(release.open_images)), "--on-missing", "null"]
    flags += ["--open-images-metadata", os.fspath(release.metadata_csv), "--limit", "3"]
    flags += [*quick_settings(tmp_path), "--max-missing", "0.99"]
    cdn.fail("/cdn/images/*", forever=redirect(f"{six.url}/cdn/images/x.png"))
    ended = pico_banana(
        "convert", "sft", "--output", tmp_path / "out", "--cdn", f"{cdn.url}/cdn", *flags
    )
    assert "forbidden_address" in ended.out + ended.err
    assert six.count() == 0
    # Led on within one named host, all is had.
    path = rows(tmp_path / "out", "sft")[0]["edited_url"].rpartition("/images/")[2]
    six.fail(f"/cdn/images/{path}", redirect(f"/cdn/images/{path}?again"))
    ended = pico_banana(
        "convert", "sft", "--output", tmp_path / "two", "--cdn", f"{six.url}/cdn", *flags
    )
    assert ended.code == 0, ended.err
    assert all(row["edited_image"] for row in rows(tmp_path / "two", "sft"))
    assert six.count(f"/cdn/images/{path}") == 2


@pytest.mark.parametrize(
    "url", ["http://[::1", "http://[::g]:80", "http://::1:80", "http://[::1]x"]
)
def test_what_is_no_ipv6_address_is_refused_in_words(
    release: SampleRelease, tmp_path: Path, url: str
) -> None:
    ended = pico_banana(
        "convert", "sft", "--output", tmp_path / "out", *release_flags(release, url)
    )
    assert ended.code == 2
    assert "host's name or address" in ended.err, ended.err


def test_the_query_of_an_ipv6_url_is_not_shown(release: SampleRelease, tmp_path: Path) -> None:
    flags = release_flags(release)
    flags[-1] = "http://[::1]:9/list.csv?key=c0ffee"
    ended = pico_banana(
        "convert", "sft", "--output", tmp_path / "out", *flags, *quick_settings(tmp_path)
    )
    assert ended.code != 0
    assert "http://[::1]:9/list.csv" in ended.err
    assert "c0ffee" not in ended.err
