"""Photos read in place from Open Images' tars, plain and packed, through the command line."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import os
import random
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pico_banana.convert.demo.sample_release import SampleRelease, make_sample_release
from pico_banana.errors import ReleaseError
from pico_banana.open_images.packed import DamageError
from pico_banana.open_images.tar_index import index_path
from pico_banana.open_images.tars import Tar
from pico_banana.open_images.turns import Turns
from tests.commands import digests, ledgers, pico_banana, quick_settings, rows
from tests.fake_cdn import FakeCDN

RECORDS = 30
INDEX = ".pico-banana-index"


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> SampleRelease:
    root = tmp_path_factory.mktemp("release")
    return make_sample_release(root, sft=RECORDS, preference=6, multi_turn=6, size=(96, 64))


@pytest.fixture(scope="module")
def expected(release: SampleRelease, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of the output that is made of the folder."""
    output = tmp_path_factory.mktemp("whole") / "out"
    ended = convert(release, release.open_images, output, "--input-sources", "folder")
    assert ended.code == 0, ended.err
    return digests(output)


def photos(release: SampleRelease, digit: str) -> dict[str, bytes]:
    """The photos of one digit by their name in a tar."""
    folder = release.open_images / f"train_{digit}"
    return {f"train_{digit}/{path.name}": path.read_bytes() for path in sorted(folder.iterdir())}


def tar_of(members: dict[str, bytes], *others: tarfile.TarInfo) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in others:
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    return made.getvalue()


def shuffled(members: dict[str, bytes]) -> dict[str, bytes]:
    return dict(random.Random(3).sample([*members.items()], len(members)))


def convert(release: SampleRelease, folder: Path, output: Path, *words: Any):
    output.parent.mkdir(parents=True, exist_ok=True)
    return pico_banana(*flags(release, folder, output), *words)


def flags(release: SampleRelease, folder: Path, output: Path) -> list[str]:
    return [
        *("convert", "sft", "--records-per-shard", "10", "--output", os.fspath(output)),
        *("--cdn", os.fspath(release.cdn), "--open-images", os.fspath(folder)),
        *("--open-images-metadata", os.fspath(release.metadata_csv)),
        *quick_settings(output.parent),
    ]


def ways(output: Path) -> set[str]:
    return {way for ledger in ledgers(output, "sft") for way, _ in ledger["ways"]}


@contextlib.contextmanager
def bucket_of(release: SampleRelease) -> Iterator[tuple[FakeCDN, list[str]]]:
    folders = [("/bucket/train", release.open_images / f"train_{digit}") for digit in "01"]
    with FakeCDN(*folders) as server:
        mirror = f"open-images-dataset.s3.amazonaws.com={server.url}/bucket"
        yield server, ["--mirrors", mirror]


def test_folder_tar_packed_tar_and_bucket_give_the_same_bytes(
    release: SampleRelease, expected: dict[str, str], tmp_path: Path
) -> None:
    zero, one = photos(release, "0"), photos(release, "1")
    plain, packed, mixed = (tmp_path / name for name in ("plain", "packed", "mixed"))
    for folder in (plain, packed, mixed):
        folder.mkdir()
    (plain / "train_0.tar").write_bytes(tar_of(shuffled(zero)))
    (plain / "train_1.tar").write_bytes(tar_of(one))
    (packed / "train_0.tar.gz").write_bytes(gzip.compress(tar_of(zero)))
    (packed / "train_1.tar.gz").write_bytes(gzip.compress(tar_of(shuffled(one))))
    # one digit unpacked, half of the other in a tar, the rest in the bucket
    os.symlink(release.open_images / "train_0", mixed / "train_0")
    half = dict([*one.items()][: len(one) // 2])
    (mixed / "train_1.tar.gz").write_bytes(gzip.compress(tar_of(half)))

    for name, folder in {"plain": plain, "packed": packed}.items():
        ended = convert(release, folder, tmp_path / "out" / name, "--input-sources", "folder,tar")
        assert ended.code == 0, ended.err
    with bucket_of(release) as (server, mirrors):
        words = (*mirrors, "--input-sources", "bucket")
        assert convert(release, plain, tmp_path / "out" / "bucket", *words).code == 0
        server.clear()
        assert convert(release, mixed, tmp_path / "out" / "mixed", *mirrors).code == 0
        asked = {request.path.rpartition("/")[2] for request in server.requests("*.jpg")}
    assert asked == {name.rpartition("/")[2] for name in set(one) - set(half)}

    outputs = sorted((tmp_path / "out").glob("*/"))
    made = [digests(path) for path in outputs if path.is_dir()]
    assert len(made) == 4
    assert len(expected) == RECORDS // 10 + 1
    assert all(one == expected for one in made)
    assert ways(tmp_path / "out" / "plain") == ways(tmp_path / "out" / "packed") == {"tar"}
    assert ways(tmp_path / "out" / "mixed") == {"folder", "tar", "bucket"}
    found = rows(tmp_path / "out" / "packed", "sft")
    assert {row["input_source"] for row in found} == {"open_images"}
    published = {**zero, **one}
    for row in found:
        image_id = row["image_id"]
        name = f"train_{image_id[0]}/{image_id}.jpg"
        assert row["input_image"] == {"bytes": published[name], "path": f"{image_id}.jpg"}


def test_a_tar_is_indexed_once_and_again_when_it_changes(
    release: SampleRelease, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    both = {**photos(release, "0"), **photos(release, "1")}
    path = folder / "train_all.tar.gz"
    path.write_bytes(gzip.compress(tar_of(both)))
    first = convert(release, folder, tmp_path / "a" / "out")
    assert first.err.count(f"indexing {path}") == 1
    index = Path(f"{path}{INDEX}")
    made = index.stat()
    second = convert(release, folder, tmp_path / "b" / "out")
    assert "indexing" not in second.err
    assert index.stat().st_mtime_ns == made.st_mtime_ns
    # the same photos at other offsets
    path.write_bytes(gzip.compress(tar_of(shuffled(both))))
    third = convert(release, folder, tmp_path / "c" / "out")
    assert third.err.count(f"indexing {path}") == 1
    assert digests(tmp_path / "a/out") == digests(tmp_path / "b/out") == digests(tmp_path / "c/out")


def test_two_that_start_at_once_make_one_index(release: SampleRelease, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    both = {**photos(release, "0"), **photos(release, "1")}
    (folder / "train_0.tar.gz").write_bytes(gzip.compress(tar_of(both)))
    (folder / "train_1.tar.gz").write_bytes(gzip.compress(tar_of(both)))
    with ThreadPoolExecutor(3) as pool:
        ended = [*pool.map(lambda name: convert(release, folder, tmp_path / name / "out"), "abc")]
    said = "".join(one.err for one in ended)
    assert [one.code for one in ended] == [0, 0, 0], said
    assert said.count("indexing ") == 2, said
    assert {path.name for path in folder.iterdir()} == {
        f"train_{digit}.tar.gz{suffix}" for digit in "01" for suffix in ("", INDEX)
    }


def test_a_tar_that_nothing_is_needed_of_is_not_indexed(
    release: SampleRelease, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for digit in "01":
        os.symlink(release.open_images / f"train_{digit}", folder / f"train_{digit}")
    # all is unpacked, and another digit is nobody's
    for digit in "015":
        (folder / f"train_{digit}.tar.gz").write_bytes(b"not even a tar")
    ended = convert(release, folder, tmp_path / "out")
    assert ended.code == 0, ended.err
    assert "indexing" not in ended.err
    assert not [*folder.glob(f"*{INDEX}")]


def test_the_index_goes_to_the_cache_where_none_can_be_written_beside_the_tar(
    release: SampleRelease, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    both = {**photos(release, "0"), **photos(release, "1")}
    path = folder / "train_0.tar"
    path.write_bytes(tar_of(both))
    (folder / "train_1.tar").write_bytes(tar_of(both))
    blocked = Path(f"{path}{INDEX}")
    blocked.mkdir()
    (blocked / "in the way").touch()
    assert convert(release, folder, tmp_path / "a" / "out").code == 0
    ended = convert(release, folder, tmp_path / "b" / "out")
    assert (ended.code, ended.err.count("indexing")) == (0, 0)
    kept = [*Path(os.environ["PICO_BANANA_CACHE"]).glob(f"tars/*{INDEX}")]
    assert len(kept) == 1


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("share", [0.3, 0.9, "its end", "a byte"])
def test_a_tar_that_is_cut_off_gives_what_it_has_and_says_so(
    release: SampleRelease,
    expected: dict[str, str],
    tmp_path: Path,
    suffix: str,
    share: float | str,
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    zero, one = photos(release, "0"), photos(release, "1")
    plain = tar_of(zero)
    data = gzip.compress(plain) if suffix else plain
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        members = archive.getmembers()
    # The mark at a tar's end is its last record of zeros; at a gzip's end are 8 bytes of checksum.
    lost = {"its end": 9 if suffix else len(plain) - members[-1].offset_data - 1, "a byte": 1}
    size = len(data) - lost[share] if isinstance(share, str) else int(share * len(data))
    (folder / f"train_0.tar{suffix}").write_bytes(data[:size])
    (folder / "train_1.tar").write_bytes(tar_of(one))
    given = _given_by_gzip(data[:size]) if suffix else size
    has = {one.name for one in members if one.offset_data + one.size <= given}

    with bucket_of(release) as (server, mirrors):
        ended = convert(release, folder, tmp_path / "out", *mirrors)
        asked = {request.path.rpartition("/")[2] for request in server.requests("*.jpg")}
    assert ended.code == 0, ended.err
    is_whole = share == "a byte" and not suffix
    assert (f"train_0.tar{suffix}: " in ended.err) != is_whole
    if len(has) < len(zero):
        assert "cut off or damaged" in ended.err
        assert f"the {len(has)} photos before that are used" in ended.err
    assert asked == {name.rpartition("/")[2] for name in set(zero) - has}
    assert digests(tmp_path / "out") == expected


def _given_by_gzip(data: bytes) -> int:
    """How many bytes the standard library unpacks of a file that is cut off."""
    given = 0
    with contextlib.suppress(EOFError), gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        while block := file.read1(1000):
            given += len(block)
    return given


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        pytest.param("train_0.tar", b"", "empty file", id="empty"),
        pytest.param("train_0.tar", b"<html>not here</html>" * 100, "header", id="a page"),
        pytest.param("train_0.tar.gz", b"", "empty file", id="packed, empty"),
        pytest.param(
            "train_0.tar.gz",
            gzip.compress(b"no tar at all" * 100, mtime=0),
            "header",
            id="packed, no tar",
        ),
        pytest.param(
            "train_0.tar.gz", b"\x1f\x8b" + b"broken" * 200, "empty file", id="packed, broken"
        ),
    ],
)
def test_a_tar_that_is_none_is_refused_before_anything_is_fetched(
    release: SampleRelease, tmp_path: Path, name: str, data: bytes, said: str
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / name).write_bytes(data)
    ended = convert(release, folder, tmp_path / "out")
    assert ended.code == 2
    message = ended.err.strip().splitlines()[-1]
    assert message.startswith("error: open_images must hold tars of photos, but ")
    assert os.fspath(folder / name) in message
    assert said in message
    assert "fetch it again, or take it away" in message
    assert not (tmp_path / "out" / "sft").exists()
    assert not [*folder.glob(f"*{INDEX}")]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_members_that_are_no_photos_are_told_and_nothing_is_written_outside(
    release: SampleRelease, tmp_path: Path, suffix: str
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    zero, one = photos(release, "0"), photos(release, "1")
    stolen, *_ = zero

    def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0):
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, target, size
        return info

    image_id = Path(stolen).name
    others = [
        member("train_0", tarfile.DIRTYPE),
        member(f"train_0/{image_id}", tarfile.SYMTYPE, "/etc/passwd"),
        member(f"train_1/{image_id}", tarfile.LNKTYPE, "/etc/passwd"),
        member(f"train_2/{image_id}", tarfile.CHRTYPE),
        member(f"train_3/{image_id}", tarfile.FIFOTYPE),
        member(f"../{image_id}", size=9),
        member(f"train_0/../../{image_id}", size=9),
        member(f"/{image_id}", size=9),
        member("train_0/LICENSE\x1b[31m", size=5),
    ]
    data = tar_of(zero, *others)
    (folder / f"train_0.tar{suffix}").write_bytes(gzip.compress(data) if suffix else data)
    (folder / "train_1.tar").write_bytes(tar_of(one))
    outside = set(tmp_path.rglob("*"))
    ended = convert(release, folder, tmp_path / "made" / "out", "--input-sources", "tar")
    assert ended.code == 0, ended.err
    for said in (
        "members not used, links, which are not followed: 2",
        "members not used, no regular files: 2",
        "members not used, names that lead outside: 3",
        "members not used, names other than <ImageID>.jpg: 1 ('train_0/LICENSE\\x1b[31m')",
    ):
        assert said in ended.err
    new = {path for path in tmp_path.rglob("*") if tmp_path / "made" not in path.parents}
    assert {path.name for path in new - outside} <= {
        "made", *(f"train_{d}.tar{INDEX}" for d in "01"),
        f"train_0.tar.gz{INDEX}",
    }  # fmt: skip
    found = rows(tmp_path / "made" / "out", "sft")
    assert len(found) == RECORDS
    assert all(row["input_image"]["bytes"] in {**zero, **one}.values() for row in found)


PADDED = 10 * 1024


@pytest.mark.parametrize("kind", ["plain", "packed whole", "packed each"])
@pytest.mark.parametrize(
    ("between", "behind"),
    [(b"", b""), (bytes(3_000_000), bytes(5_000)), (bytes(512), b"no tar\n" * 300), (b"", b"\1")],
    ids=["nothing", "zeros", "text", "a byte"],
)
def test_tars_that_were_put_together_are_read_to_the_end(
    release: SampleRelease, expected: dict[str, str], tmp_path: Path, kind, between, behind
) -> None:
    every = [*{**photos(release, "0"), **photos(release, "1")}.items()]
    thirds = [tar_of(dict(every[n::3])) for n in range(3)]
    assert {len(tar) % PADDED for tar in thirds} == {0}
    # the mark at an end may also be a single block
    thirds[1] = thirds[1].rstrip(b"\0") + bytes(-len(thirds[1].rstrip(b"\0")) % 512 + 512)
    parts = [thirds[0], between, *thirds[1:], behind]
    data = b"".join(parts)
    if kind == "packed each":
        data = b"".join(gzip.compress(part) for part in parts)
    elif kind == "packed whole":
        data = gzip.compress(data)
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / f"train_all.tar{'' if kind == 'plain' else '.gz'}").write_bytes(data)
    ended = convert(release, folder, tmp_path / "out", "--input-sources", "tar")
    assert ended.code == 0, ended.err
    assert digests(tmp_path / "out") == expected
    assert "cut off" not in ended.err
    begin = sum(map(len, parts[:-1]))
    is_said = f"behind its end, from byte {begin:,} on, lies what is no tar" in ended.err
    assert is_said == bool(behind.strip(b"\0"))


def test_of_tars_put_together_the_last_photo_of_a_name_counts_and_a_cut_one_is_said(
    tmp_path: Path,
) -> None:
    names = [f"{n:016x}.jpg" for n in range(3)]
    first = tar_of({names[0]: b"old", names[1]: b"one"})
    second = tar_of({names[0]: b"new", names[2]: bytes(10_000)})
    path = tmp_path / "train_x.tar"
    path.write_bytes(first + second[:2_000])
    ids = [name[:16] for name in names]
    assert contents(path, ids) == dict(zip(ids, [b"new", b"one"], strict=False))
    (note,) = Tar.indexed(os.fspath(path), lambda _: contextlib.nullcontext(lambda *_: None)).notes
    assert note.startswith("cut off or damaged")


def test_an_index_of_an_earlier_version_is_made_anew(
    release: SampleRelease, expected: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    both = {**photos(release, "0"), **photos(release, "1")}
    (folder / "train_all.tar").write_bytes(tar_of(both))
    index = folder / f"train_all.tar{INDEX}"
    assert convert(release, folder, tmp_path / "a" / "out").code == 0
    index.write_bytes(index.read_bytes().replace(b"pico_banana_tar", b"pico_banana_old"))
    ended = convert(release, folder, tmp_path / "b" / "out", "--input-sources", "tar")
    assert "indexing " in ended.err
    assert digests(tmp_path / "b" / "out") == expected


def test_of_two_members_of_one_name_the_last_one_counts(tmp_path: Path) -> None:
    name = "0123456789abcdef"
    first = tar_of({f"train_0/{name}.jpg": b"first"})
    path = tmp_path / "train_0.tar"
    path.write_bytes(first)
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo(f"train_0/{name}.jpg")
        info.size = 6
        archive.addfile(info, io.BytesIO(b"second"))
    assert contents(path, [name]) == {name: b"second"}


def contents(path: Path, names: list[str]) -> dict[str, bytes]:
    tar = Tar.indexed(os.fspath(path), lambda _: contextlib.nullcontext(lambda *_: None))
    try:
        found = {name: tar.find(name) for name in names}
        return {name: tar.read(member) for name, member in found.items() if member}
    finally:
        tar.close()


NAMES = [f"{number:016x}" for number in range(40)]
PHOTOS = {name: random.Random(name).randbytes(900 + 7 * n) for n, name in enumerate(NAMES)}
PLAIN = tar_of({f"train_0/{name}.jpg": data for name, data in PHOTOS.items()})


@settings(max_examples=int(os.environ.get("TAR_EXAMPLES", "40")))
@given(
    is_packed=st.booleans(),
    cut=st.integers(1, len(PLAIN)),
    places=st.lists(st.tuples(st.integers(0, len(PLAIN) - 1), st.integers(0, 255)), max_size=4),
)
def test_a_broken_tar_gives_whole_photos_or_says_what_is_wrong(
    tmp_path_factory: pytest.TempPathFactory,
    is_packed: bool,
    cut: int,
    places: list[tuple[int, int]],
) -> None:
    data = bytearray(gzip.compress(PLAIN, mtime=0) if is_packed else PLAIN)
    changed = 0
    for place, byte in places:
        if place < len(data) and data[place] != byte:
            data[place] = byte
            changed += 1
    path = tmp_path_factory.mktemp("tar") / f"train_0.tar{'.gz' if is_packed else ''}"
    path.write_bytes(data[:cut])
    try:
        tar = Tar.indexed(os.fspath(path), lambda _: contextlib.nullcontext(lambda *_: None))
    except ReleaseError as error:
        assert os.fspath(path) in str(error)  # noqa: PT017  (most examples raise nothing)
        return
    try:
        for name, published in PHOTOS.items():
            member = tar.find(name)
            if member is not None:
                with contextlib.suppress(DamageError):
                    photo = tar.read(member)
                    assert changed or photo == published
        if len(tar) < len(PHOTOS):
            assert tar.notes
    finally:
        tar.close()


LIVES = """
import multiprocessing, os, sys
import pico_banana_400k

def first():
    ds = pico_banana_400k.load("sft", split="train", streaming=True, cdn=sys.argv[1],
                               open_images=sys.argv[2], open_images_metadata=sys.argv[3])
    rows = [row for row, _ in zip(ds, range(3))]
    assert len(rows) == 3
    print("read", flush=True)

if __name__ == "__main__":
    first()
    for method in ("fork", "spawn"):
        child = multiprocessing.get_context(method).Process(target=first)
        child.start()
        child.join()
        print(method, child.exitcode, flush=True)
    child = os.fork()
    if not child:
        first()
        sys.exit(0)
    print("os.fork", os.waitpid(child, 0)[1], flush=True)
    first()
"""


@pytest.mark.long
def test_streams_of_a_packed_tar_live_through_forks_and_end_with_the_interpreter(
    release: SampleRelease, tmp_path: Path
) -> None:
    ended = run_with_packed_tars(LIVES, release, tmp_path)
    said = ["read", "read", "fork 0", "read", "spawn 0", "read", "os.fork 0", "read"]
    assert ended.stdout.splitlines() == said


READS = """
import collections, contextlib, os, sys
from pico_banana.reading.load_report import LoadReport
from pico_banana.reading.reader import Reader
from pico_banana.settings import Settings, build_settings

names = ("cdn", "open_images", "open_images_metadata")
settings = build_settings(Settings, dict(zip(names, sys.argv[1:])) | {"input_sources": ["tar"]})

def read():
    reader = Reader("sft", settings, local=True,
                    progress=lambda _: contextlib.nullcontext(lambda *_: None))
    rows = reader.examples(reader.ranges(), "train", LoadReport(), strict=False)
    print(len([row for row, _ in zip(rows, range(3))]), flush=True)

read()
child = os.fork()
if not child:
    read()
    sys.exit(0)
print("os.fork", os.waitpid(child, 0)[1], flush=True)
read()
"""


def test_readers_of_a_packed_tar_live_through_a_fork_and_end_with_the_interpreter(
    release: SampleRelease, tmp_path: Path
) -> None:
    ended = run_with_packed_tars(READS, release, tmp_path)
    assert ended.stdout.splitlines() == ["3", "3", "os.fork 0", "3"]


def run_with_packed_tars(
    code: str, release: SampleRelease, tmp_path: Path
) -> subprocess.CompletedProcess[str]:
    """Run a script on a release whose photos lie in packed tars."""
    folder = tmp_path / "photos"
    folder.mkdir()
    both = {**photos(release, "0"), **photos(release, "1")}
    (folder / "train_0.tar.gz").write_bytes(gzip.compress(tar_of(both)))
    (folder / "train_1.tar.gz").write_bytes(gzip.compress(tar_of(both)))
    script = tmp_path / "script.py"
    script.write_text(code, encoding="utf-8")
    words = [sys.executable, "-W", "ignore", script, release.cdn, folder, release.metadata_csv]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "terminate" not in ended.stderr
    return ended


def test_turns_go_through_a_file_forwards() -> None:
    async def read_all(offsets: list[int]) -> list[int]:
        turns, served = Turns(), []

        async def read(offset: int) -> None:
            async with turns.at(offset):
                await asyncio.sleep(0)
                served.append(offset)

        tasks = [asyncio.create_task(read(offset)) for offset in offsets]
        await asyncio.sleep(0)
        tasks[5].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with turns.at(0):  # it is free again
            pass
        return served

    offsets = random.Random(2).sample(range(1000), 100)
    served = asyncio.run(read_all(offsets))
    assert sorted(served) == sorted(set(offsets) - {offsets[5]})
    backwards = [place for place in range(1, len(served)) if served[place] < served[place - 1]]
    assert len(backwards) <= 1


def test_tars_must_be_there_where_only_they_may_be_asked(
    release: SampleRelease, tmp_path: Path
) -> None:
    ended = convert(release, release.open_images, tmp_path / "out", "--input-sources", "tar")
    assert ended.code == 2
    assert "open_images must hold tars, train_*.tar or train_*.tar.gz" in ended.err


def test_an_index_that_is_damaged_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "train_0.tar"
    path.write_bytes(PLAIN)
    assert contents(path, NAMES) == PHOTOS
    index = index_path(os.fspath(path), lambda _: contextlib.nullcontext(lambda *_: None))
    Path(index).write_bytes(b"ARROW1 but not much more")
    assert contents(path, NAMES) == PHOTOS
