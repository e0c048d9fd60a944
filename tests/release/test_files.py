"""A release is read alike from a folder, over http and by fsspec, and says what is wrong."""

import dataclasses
import itertools
import json
import os
import socket

import fsspec
import pytest

from pico_banana.errors import ReleaseError
from pico_banana.release.files import Release
from pico_banana.release.records import BadReason, BadRecord, Record, split_lines
from pico_banana.settings import Settings, build_settings
from pico_banana.storage.remote import RemoteFile
from tests.fake_cdn import Answer, FakeCDN, chunked, cut, reset, status
from tests.forked import Script

LISTED = [
    "https://cdn.example/nb/images/positive-edit/1.png",
    "https://cdn.example/nb/images/positive-edit/2.png",
    "https://cdn.example/nb/images/rejected-edit/2.png",
    "https://cdn.example/nb/images/rejected-edit/part1/5.png",
    "https://cdn.example/nb/images/rejected-edit/part2/5.png",
    "https://cdn.example/nb/images/rejected-edit/part2/5.png",
    "https://cdn.example/nb/images/rejected-edit/a%20b%231.png",
    "https://cdn.example/nb/images/rejected-edit/é.png",
    "https://cdn.example/nb/images/../../secret.png",
    "",
    "a line that is no address",
]


def line(number, **changes):
    fields = {
        "open_image_input_url": f"https://farm1.staticflickr.com/1/{number}_o.jpg",
        "text": "Make it warmer. " * (number % 7),
        "output_image": f"images/positive-edit/{number}.png",
        "rejected_images": [f"nano-banana-300k/images/rejected-edit/{number}.png"],
    }
    return json.dumps({**fields, **changes}).encode()


@pytest.fixture
def folder(tmp_path):
    base = tmp_path / "release"
    (base / "jsonl").mkdir(parents=True)
    (base / "manifest").mkdir()
    lines = [line(number) for number in range(40)]
    lines[3:3] = [b"", b"not JSON", b"  "]
    (base / "jsonl" / "sft.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    paths = ["elsewhere/1.png", "images/rejected-edit/9.png"]
    (base / "jsonl" / "preference.jsonl").write_bytes(
        b"\n".join([line(1), line(2, rejected_images=paths), line(3)]) + b"\n"
    )
    manifest = "\ufeff" + "\r\n".join(LISTED)
    (base / "manifest" / "preference_manifest.txt").write_bytes(manifest.encode())
    return base


@pytest.fixture
def cdn(folder):
    with FakeCDN(("/nb", folder)) as served:
        yield served


def release(place, **arguments):
    return Release(build_settings(Settings, {"cdn": str(place), **arguments}))


def served(cdn, **arguments):
    return release(f"{cdn.url}/nb", **arguments)


@pytest.fixture(params=["folder", "http", "memory"])
def anywhere(request, folder):
    """The same release at another kind of place."""
    if request.param == "folder":
        yield release(folder)
    elif request.param == "http":
        yield served(request.getfixturevalue("cdn"))
    else:
        memory = fsspec.filesystem("memory")
        memory.put(str(folder), "/nb", recursive=True)
        yield release("memory://nb")
        memory.rm("/nb", recursive=True)


# Records


def test_records_are_the_same_from_everywhere(anywhere):
    found = list(anywhere.records("sft"))
    assert [entry.id for entry in found if isinstance(entry, Record)] == [
        f"positive-edit/{number}" for number in range(40)
    ]
    (bad,) = [entry for entry in found if isinstance(entry, BadRecord)]
    assert (bad.reason, bad.line.where) == (BadReason.NOT_JSON, "line 5")


def test_ranges_yield_every_record_once(anywhere, folder):
    size = (folder / "jsonl" / "sft.jsonl").stat().st_size
    whole = [entry.line.offset for entry in anywhere.records("sft")]
    for cuts in ([size // 2], [1, 2, 3, 4], range(100, size, 700), [whole[3], whole[3]], [size]):
        edges = itertools.pairwise([0, *cuts, None])
        parts = [entry for edge in edges for entry in anywhere.records("sft", *edge)]
        assert [entry.line.offset for entry in parts] == whole


def test_ranges_beyond_the_end_are_empty(anywhere):
    assert list(anywhere.records("sft", 10**6)) == []
    assert list(anywhere.records("sft", 10**6, 10**7)) == []
    assert list(anywhere.records("sft", 0, 0)) == []


def test_a_range_asks_for_no_more_than_it_needs(folder, cdn):
    block = [line(number, note="x" * 900) for number in range(14_000)]
    (folder / "jsonl" / "sft.jsonl").write_bytes(b"\n".join(block))
    start = 12_000_000
    (found,) = served(cdn).records("sft", start, start + 1000)
    assert found.line.offset >= start
    ranges = [request.headers.get("Range") for request in cdn.log if request.method == "GET"]
    assert [int(asked.removeprefix("bytes=").split("-")[0]) for asked in ranges] == [start - 1]


@pytest.mark.parametrize(
    "answer", [chunked(), Answer(), Answer(headers=(("Accept-Ranges", "bytes"),))]
)
def test_ranges_of_a_server_that_gives_none(folder, cdn, answer, caplog):
    block = [line(number, note="x" * 900) for number in range(9_000)]
    (folder / "jsonl" / "sft.jsonl").write_bytes(b"\n".join(block))
    cdn.ranges = False
    cdn.fail("*", forever=answer)
    edges = itertools.pairwise([0, 7_500_000, 8_000_000, None])
    found = [entry.id for edge in edges for entry in served(cdn).records("sft", *edge)]
    assert found == [f"positive-edit/{number}" for number in range(9_000)]
    (said,) = caplog.messages  # once, though two ranges begin in the middle
    assert said.startswith(f"{cdn.url}/")
    assert "jsonl/sft.jsonl: its server gives no Range requests" in said


@pytest.mark.parametrize("answer", [status(500), status(429), cut(1000), reset(100), reset(-1)])
def test_a_passing_fault_is_not_noticed(cdn, answer):
    head = Answer()
    cdn.fail("*", head, answer)
    assert len(list(served(cdn).records("sft"))) == 41
    cdn.clear()
    cdn.fail("*", answer, answer)  # of the HEAD, and of the GET that stands in for it
    assert len(list(served(cdn).records("sft"))) == 41


@pytest.mark.parametrize("code", [404, 410])
def test_a_file_that_is_not_there_is_named_at_once(cdn, code):
    cdn.fail("*", forever=status(code))
    with pytest.raises(ReleaseError, match=r"/nb/jsonl/sft\.jsonl cannot be") as caught:
        list(served(cdn).records("sft"))
    assert caught.value.url == f"{cdn.url}/nb/jsonl/sft.jsonl"
    assert cdn.count() == 2  # HEAD, and GET in its place


@pytest.mark.parametrize("refuses", [pytest.param(False, marks=pytest.mark.long), True])
def test_a_server_that_fails_for_good_is_named(cdn, refuses):
    url = cdn.url
    if refuses:
        with socket.create_server(("127.0.0.1", 0)) as free:
            url = f"http://127.0.0.1:{free.getsockname()[1]}"
    cdn.fail("*", forever=status(500))
    with pytest.raises(ReleaseError) as caught:
        list(release(f"{url}/nb").records("sft"))
    assert caught.value.url == f"{url}/nb/jsonl/sft.jsonl"
    assert url in str(caught.value)
    assert ("Cannot connect" if refuses else "500") in str(caught.value)


@pytest.mark.parametrize("place", ["empty", "absent"])
def test_a_folder_without_a_release(tmp_path, place):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReleaseError, match=r"cdn must be a folder that holds jsonl/sft\.jsonl"):
        list(release(tmp_path / place).records("sft"))


def test_a_file_system_that_is_unknown():
    with pytest.raises(ReleaseError, match=r"nosuch://bucket/jsonl/sft\.jsonl"):
        list(release("nosuch://bucket").records("sft"))


def test_mirrors_apply_to_the_cdn(cdn):
    mirrors = {"cdn.example": cdn.url, "*": "http://127.0.0.1:9/never"}
    assert len(list(release("http://cdn.example/nb", mirrors=mirrors).records("sft"))) == 41


@pytest.mark.parametrize(
    ("mirrors", "base"),
    [
        ({"other.example": "http://m"}, "https://a.cdn.example/nb"),
        ({"*.CDN.example": "http://m/{host}/"}, "http://m/a.cdn.example/nb"),
        ({"a.*": "http://first", "*": "http://second"}, "http://first/nb"),
        ({"*": "/data/{host}"}, "/data/a.cdn.example/nb"),
    ],
)
def test_the_first_mirror_that_matches_the_host_counts(mirrors, base):
    assert release("https://a.cdn.example/nb", mirrors=mirrors).base == base


# Manifests


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("elsewhere/1.png", "images/positive-edit/1.png"),
        ("1.png", "images/positive-edit/1.png"),
        ("rejected-edit/2.png", "images/rejected-edit/2.png"),
        ("x/rejected-edit/2.png", "images/rejected-edit/2.png"),
        ("part2/5.png", "images/rejected-edit/part2/5.png"),  # listed twice, still one
        ("é.png", "images/rejected-edit/é.png"),
        ("a b#1.png", "images/rejected-edit/a b#1.png"),
        ("2.png", None),  # two share as long a tail
        ("elsewhere/2.png", None),
        ("5.png", None),
        ("11.png", None),
        ("edit/1.jpg", None),
        ("positive-edit", None),
        ("", None),
    ],
)
def test_manifest_is_looked_up_by_the_longest_tail(folder, path, found):
    manifest = release(folder).manifest("preference")
    assert manifest.resolve(path) == found
    assert manifest.found == ({} if found is None else {path: found})


def test_records_take_their_paths_from_the_manifest(anywhere):
    records = list(anywhere.records("preference"))
    assert records[1].rejected == ("images/positive-edit/1.png", "images/rejected-edit/9.png")


def test_a_manifest_leads_nowhere_else(folder):
    (folder / "jsonl" / "preference.jsonl").write_bytes(line(1, output_image="x/secret.png"))
    (record,) = release(folder).records("preference")
    assert record.edited == ("x/secret.png",)


def test_the_manifest_is_read_only_when_needed(cdn):
    assert len(list(served(cdn).records("sft"))) == 41
    assert cdn.count("*manifest*") == 0
    for _ in range(3):
        assert len(list(served(cdn).records("preference"))) == 3
    gets = [request for request in cdn.requests("*manifest*") if request.method == "GET"]
    assert len(gets) == 1


def test_a_manifest_that_is_not_there_is_named(folder):
    (folder / "manifest" / "preference_manifest.txt").unlink()
    assert isinstance(next(release(folder).records("preference")), Record)
    with pytest.raises(ReleaseError, match=r"preference_manifest\.txt is not there"):
        list(release(folder).records("preference"))


# Files that are fetched once


def gets(cdn):
    return sum(request.method == "GET" for request in cdn.log)


def test_a_kept_file_is_fetched_once(folder, cdn):
    path = served(cdn).jsonl("sft").kept("jsonl")
    assert path.startswith(os.environ["PICO_BANANA_CACHE"])
    assert path.endswith("-sft.jsonl")
    with open(path, "rb") as file:
        assert file.read() == (folder / "jsonl" / "sft.jsonl").read_bytes()
    assert served(cdn).jsonl("sft").kept("jsonl") == path
    assert gets(cdn) == 1


@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
def test_a_changed_file_is_fetched_again(cdn, header):
    other = {"ETag": "Last-Modified", "Last-Modified": "ETag"}[header]
    for version in ("one", "two"):
        headers = ((header, version), (other, ""))
        cdn.fail("*", forever=dataclasses.replace(Answer(), headers=headers))
        first = served(cdn).jsonl("sft").kept("jsonl")
        assert served(cdn).jsonl("sft").kept("jsonl") == first
    assert gets(cdn) == 2


def test_a_changed_folder_is_seen(folder):
    file = release(folder).jsonl("sft")
    before = file.identity()
    assert file.identity() == before
    (folder / "jsonl" / "sft.jsonl").write_bytes(line(1))
    assert file.identity() != before
    assert file.size_bytes() == len(line(1))


def test_a_local_file_is_kept_where_it_is(folder):
    path = release(folder).jsonl("sft").kept("jsonl")
    assert path == str(folder / "jsonl" / "sft.jsonl")
    with pytest.raises(ReleaseError, match="absent is not there"):
        RemoteFile(str(folder / "absent"), {}).kept("jsonl")


@pytest.mark.parametrize("answer", [cut(100), reset(100), status(503)])
def test_a_broken_fetch_leaves_nothing_and_is_tried_again(folder, cdn, answer):
    cdn.fail("*", Answer(), answer)
    told = []
    path = served(cdn).jsonl("sft").kept("jsonl", lambda done, total: told.append((done, total)))
    size = (folder / "jsonl" / "sft.jsonl").stat().st_size
    assert os.path.getsize(path) == size
    assert told[-1] == (size, size)
    left = [name for name in os.listdir(os.path.dirname(path)) if not name.endswith(".lock")]
    assert left == [os.path.basename(path)]


KEEP = """
import sys
from pico_banana.storage.remote import RemoteFile
print(RemoteFile(sys.argv[1], {}).kept("jsonl"))
"""


def test_processes_that_start_at_once_fetch_once(cdn):
    cdn.hold("*.jsonl")
    started = [Script(KEEP, f"{cdn.url}/nb/jsonl/sft.jsonl") for _ in range(3)]
    try:
        cdn.wait_for_request(n=3)
    finally:
        cdn.release()
    ended = [script.ended() for script in started]
    assert [one.code for one in ended] == [0] * 3
    assert len({one.out for one in ended}) == 1
    assert gets(cdn) == 1


def test_reading_goes_on_from_any_byte(folder, cdn):
    content = (folder / "jsonl" / "sft.jsonl").read_bytes()
    for place in (f"{cdn.url}/nb/jsonl/sft.jsonl", str(folder / "jsonl" / "sft.jsonl")):
        for start in (0, 1, 777, len(content), len(content) + 5):
            with RemoteFile(place, {}).reading(start) as read:
                assert b"".join(iter(lambda read=read: read(100), b"")) == content[start:]
    with RemoteFile(place, {}).open() as file:
        assert len(list(split_lines(file.read))) == 43
