"""`pico-banana index`, as a person runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from pico_banana.convert.sample_release import SampleRelease, make_sample_release
from tests.commands import arguments_of, digests, pico_banana, release_flags
from tests.fake_cdn import FakeCDN

NAMES = ("sft", "preference", "multi_turn", "all")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> SampleRelease:
    root = tmp_path_factory.mktemp("release")
    return make_sample_release(root, sft=40, preference=8, multi_turn=6, size=(48, 32))


@pytest.fixture
def listed(release: SampleRelease, tmp_path: Path) -> Path:
    """An image list in which two photos stand by another host, and one does not stand at all."""
    head, *photos = release.metadata_csv.read_text(encoding="utf-8").splitlines(keepends=True)
    respelled = [re.sub(r"//farm\d+\.|//c\d+\.", "//live.", line) for line in photos[:2]]
    path = tmp_path / "list.csv"
    path.write_text("".join([head, *respelled, *photos[3:]]), encoding="utf-8")
    return path


def index(release: SampleRelease, listed: Path | str, *words: str | Path):
    flags = ("--cdn", release.cdn, "--open-images-metadata", listed)
    return pico_banana("index", *words, *flags)


def facts(said: str) -> dict[str, list[int]]:
    """The rows of the printed table."""
    found = {}
    for line in said.splitlines():
        if parts := re.fullmatch(r"(\S.*?)((?:\s{2,}[\d,]+)+)\s*", line):
            found[parts[1].strip()] = [int(n.replace(",", "")) for n in parts[2].split()]
    return found


def inputs(release: SampleRelease, config: str) -> list[str]:
    name = "multi-turn" if config == "multi_turn" else config
    text = (release.cdn / f"jsonl/{name}.jsonl").read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.splitlines()]
    if config == "multi_turn":
        return [
            one["url"]
            for record in records
            for one in record["files"]
            if one["id"] == "original_input_image"
        ]
    return [record["open_image_input_url"] for record in records]


def test_coverage_of_all_configs(release: SampleRelease, listed: Path) -> None:
    ended = index(release, listed, "all")
    assert ended.code == 0, ended.err
    lines = listed.read_text(encoding="utf-8").splitlines()[1:]
    ids = {line.split(",")[2]: line.split(",")[0] for line in lines}
    by_name = {url.rpartition("/")[2]: image_id for url, image_id in ids.items()}
    table = facts(ended.out)
    urls = [inputs(release, config) for config in NAMES[:3]]
    urls.append([url for one in urls for url in one])
    for place, found in enumerate(urls):
        distinct = set(found)
        exact = {url for url in distinct if url in ids}
        named = {url for url in distinct - exact if url.rpartition("/")[2] in by_name}
        assert table["records"][place] == len(found)
        assert table["bad lines"][place] == 0
        assert table["distinct inputs"][place] == len(distinct)
        assert table["matched exactly"][place] == len(exact)
        spelled = "matched by file name, the host is spelled differently"
        assert table[spelled][place] == len(named)
        assert table["unmatched"][place] == len(distinct - exact - named)
        photos = {by_name[url.rpartition("/")[2]] for url in exact | named}
        for digit in "01":
            held = sum(image_id.startswith(digit) for image_id in photos)
            assert table[f"photos in train_{digit}"][place] == held
    # the examples name lines that a person can look at
    (config, line, url) = re.findall(r"unmatched: (\w+), line (\d+): (\S+)", ended.out)[0]
    assert inputs(release, config)[int(line) - 1] == url
    assert table["unmatched"][3] == 1


def test_without_config_it_says_where_the_index_is(release: SampleRelease, listed: Path) -> None:
    ended = index(release, listed)
    assert ended.code == 0
    path = re.search(r": (/.*\.arrow), (\d+) photos", ended.out)
    assert path is not None
    assert Path(path[1]).read_bytes()[:6] == b"ARROW1"
    assert int(path[2]) == len(listed.read_text(encoding="utf-8").splitlines()) - 1
    assert "records" not in ended.out


def test_an_index_of_what_is_needed_gives_the_same_output(
    release: SampleRelease, listed: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small.arrow"
    ended = index(release, listed, "sft", "--output", small)
    assert ended.code == 0
    assert f"--open-images-metadata {small}" in ended.out
    made = []
    for name, place in (("whole", listed), ("small", small)):
        words = [*release_flags(release), "--open-images-metadata", place]
        out = tmp_path / name
        assert pico_banana("convert", "sft", *words, "--output", out).code in (0, 1)
        made.append(digests(out))
    assert made[0] == made[1]
    assert index(release, small, "sft").out.splitlines()[1:] == ended.out.splitlines()[1:-1]


def test_three_that_start_at_once_make_one_index(release: SampleRelease, listed: Path) -> None:
    with FakeCDN(("/oi", listed.parent)) as server:
        place = f"{server.url}/oi/{listed.name}"
        flags = ("--cdn", release.cdn, "--open-images-metadata", place)
        words = arguments_of("index", "sft", *flags)
        running = [
            subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        said = [process.communicate(timeout=120) for process in running]
        assert [process.returncode for process in running] == [0, 0, 0], said
    assert len({out for out, _ in said}) == 1
    assert sum(err.count("indexing Open Images") for _, err in said) == 1
    kept = [*Path(os.environ["PICO_BANANA_CACHE"]).glob("open_images/*.arrow")]
    assert len(kept) == 1


def test_wrong_use(release: SampleRelease, listed: Path, tmp_path: Path) -> None:
    for words, said in (
        (("none",), "open_images_metadata leaves flickr as the only source"),
        ((listed, "sftt"), "CONFIG must be one of sft, preference, multi_turn, all"),
        ((tmp_path / "no.csv",), "no.csv"),
        ((listed, "--output", listed / "below a file"), "cannot be written"),
        ((listed, "--output", listed), "is there already and no index"),
        ((listed, "--output", "s3://bucket/index"), "must be a path of this machine"),
    ):
        place, *rest = words
        ended = index(release, place, *rest)
        assert ended.code == 2, ended.err
        assert said in ended.err
        assert "Traceback" not in ended.err
    assert listed.read_bytes()[:6] != b"ARROW1"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "it is empty"),
        ("ImageID,OriginalURL\na,b\n", "it has no column Author"),
        ("{head}", "has no row"),
        ("{head}{row}{row}a,b\n{row}", "Row #4"),
    ],
)
def test_a_list_that_is_none_is_refused(
    release: SampleRelease, tmp_path: Path, content: str, said: str
) -> None:
    head, row, *_ = release.metadata_csv.read_text(encoding="utf-8").splitlines(keepends=True)
    path = tmp_path / "list.csv"
    path.write_text(content.format(head=head, row=row), encoding="utf-8")
    ended = index(release, path, "sft")
    assert ended.code == 2
    assert "list.csv must be Open Images' image list" in ended.err
    assert said in ended.err
    assert not [*Path(os.environ["PICO_BANANA_CACHE"]).glob("open_images/*.arrow")]
