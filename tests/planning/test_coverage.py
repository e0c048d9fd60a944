"""`pico-banana index`, as a person runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pico_banana.convert.demo.sample_release import SampleRelease
from pico_banana.open_images.index import open_index
from pico_banana.release.records import MAX_LINE_BYTES, Record, parse_line, split_lines
from tests.commands import arguments_of, digests, pico_banana, quick_settings, release_flags
from tests.fake_cdn import FakeCDN
from tests.image_list import row, write

NAMES = ("sft", "preference", "multi_turn", "all")


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
        with ThreadPoolExecutor(3) as threads:
            running = [threads.submit(pico_banana, "index", "sft", *flags) for _ in range(3)]
            ended = [one.result() for one in running]
    assert [one.code for one in ended] == [0, 0, 0], ended
    assert len({one.out for one in ended}) == 1
    assert sum(one.err.count("indexing Open Images") for one in ended) == 1
    kept = [*Path(os.environ["PICO_BANANA_CACHE"]).glob("open_images/*.arrow")]
    assert len(kept) == 1


def test_wrong_use(release: SampleRelease, listed: Path, tmp_path: Path) -> None:
    for words, said in (
        (("none",), "open_images_metadata must be an image list here"),
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


# ---- Lists and records made for one case

HOST = "https://farm5.staticflickr.com/4012"
OTHER_HOST = "http://live.staticflickr.com/4012"
MAKING = "indexing Open Images' image list"
JSONL = {"sft": "sft.jsonl", "multi_turn": "multi-turn.jsonl"}


def name(number):
    return f"{4_300_000_000 + number}_0a1b2c3d4e_o.jpg"


def photo(number, tar="0"):
    return row(number, f"{HOST}/{name(number)}", ImageID=f"{tar}{number:015x}")


def sft(url, number):
    return {
        "open_image_input_url": url,
        "text": "Change it",
        "output_image": f"images/positive-edit/{number}.png",
        "edit_type": "zoom-in",
        "summarized_text": None,
    }


def multi_turn(url, number):
    paths = {
        "original_input_image": url,
        "edit_turn1": f"images/multi-turn/{number}_turn1.png",
        "final_image": f"images/multi-turn/{number}_turn2.png",
    }
    return {
        "files": [{"id": key, "url": value} for key, value in paths.items()],
        "metadata_edit_turn_prompts": ["Change it", "And again"],
    }


class Made:
    """A release of records without images, and an image list."""

    def __init__(self, folder):
        self.folder, self.csv = folder, folder / "list.csv"
        (folder / "jsonl").mkdir(parents=True)
        self.flags = ["--cdn", str(folder), "--open-images-metadata", str(self.csv)]

    def records(self, config, inputs):
        """Write a line for each input URL; what is no URL becomes a line as it is."""
        make = multi_turn if config == "multi_turn" else sft
        lines = [
            json.dumps(make(text, number)) if text.startswith("http") else text
            for number, text in enumerate(inputs)
        ]
        path = self.folder / "jsonl" / JSONL[config]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def made(tmp_path):
    """Of 20 photos sft uses 4 to 11, 8 and 9 spelled otherwise, and two that are not listed."""
    made = Made(tmp_path / "release")
    write(made.csv, [photo(number, "0f"[number % 2]) for number in range(20)])
    inputs = [f"{OTHER_HOST if n in (8, 9) else HOST}/{name(n)}" for n in range(4, 12)]
    unlisted = [f"{HOST}/{name(99)}", "https://elsewhere.org/"]
    made.records("sft", ["", *inputs, *inputs, "{", *unlisted, "[]", *unlisted])
    # One address of sft's, one photo of sft's by another address, and one more photo.
    inputs = [f"{HOST}/{name(4)}", f"{OTHER_HOST}/{name(5)}", f"{HOST}/{name(0)}"]
    made.records("multi_turn", inputs)
    return made


def report(made, *words):
    ended = pico_banana("index", *words, *made.flags)
    assert ended.code == 0, ended.err
    return ended


def table(out):
    """The numbers of a report: by row and column."""
    lines = [re.split(r" {2,}", line.strip()) for line in out.splitlines()]
    start = next(at for at, line in enumerate(lines) if line[0] in JSONL)
    return {
        cells[0]: dict(zip(lines[start], [int(cell) for cell in cells[1:]], strict=True))
        for cells in lines[start + 1 :]
        if len(cells) == len(lines[start]) + 1
    }


def test_it_counts_what_is_listed(made):
    found = report(made, "sft", "multi_turn")
    configs = ("sft", "multi_turn", "all")
    assert table(found.out) == {
        what: dict(zip(configs, counts, strict=True))
        for what, counts in {
            "records": (20, 3, 23),
            "bad lines": (2, 0, 2),
            "distinct inputs": (10, 3, 12),
            "matched exactly": (6, 2, 7),
            "matched by file name, the host is spelled differently": (2, 1, 3),
            "unmatched": (2, 0, 2),
            "photos in train_0": (4, 2, 5),
            "photos in train_f": (4, 1, 4),
        }.items()
    }
    assert f"unmatched: sft, line 19: {HOST}/{name(99)}" in found.out
    assert "unmatched: sft, line 20: https://elsewhere.org/" in found.out
    assert "unmatched: all" not in found.out  # each is told of its own config
    assert "20 photos" in found.out


def padded(size):
    """A line of so many bytes, whose text is as long as that takes."""
    record = sft(f"{HOST}/{name(4)}", 1)
    return json.dumps({**record, "text": "x" * (size - len(json.dumps({**record, "text": ""})))})


LINES = [
    json.dumps(sft(f"{HOST}/{name(4)}", 1)),
    f"  {json.dumps(sft(f'{HOST}/{name(5)}', 2))} \r",
    f"{json.dumps(sft(f'{HOST}/{name(6)}', 3))} {{}}",
    "",
    "\r",
    " \t",
    json.dumps({**sft(f"{HOST}/{name(7)}", 4), "summarized_text": "\ud800"}),
    json.dumps({**sft(f"{HOST}/{name(8)}", 5), "text": None}),
    json.dumps(sft(f"{HOST}/../{name(8)}", 6)),
    padded(MAX_LINE_BYTES - 1),
    padded(MAX_LINE_BYTES),
    padded(MAX_LINE_BYTES + 1),
    padded(MAX_LINE_BYTES + 2),
    padded(2 * MAX_LINE_BYTES + 1),
    json.dumps(sft(f"{HOST}/{name(99)}", 7)),
]


@pytest.mark.parametrize(
    ("beginning", "end"),
    [
        *[(b"", end) for end in (b"", b"\n", b"\xff", b"{")],
        *[(beginning, b"\n") for beginning in (b"\xef\xbb\xbf", b"\n")],
    ],
)
def test_lines_are_counted_as_a_plan_counts_them(made, beginning, end):
    path = made.folder / "jsonl" / JSONL["sft"]
    path.write_bytes(beginning + "\n".join(LINES).encode() + end)
    with path.open("rb") as file:
        lines = [line for line in split_lines(file.read) if line.raw is None or line.raw.strip()]
    records = [parse_line("sft", line) for line in lines]
    found = report(made, "sft")
    good = [record for record in records if isinstance(record, Record)]
    assert table(found.out)["records"] == {"sft": len(good)}
    assert table(found.out)["bad lines"] == {"sft": len(records) - len(good)}
    assert table(found.out)["distinct inputs"] == {"sft": len({one.input_url for one in good})}
    last = records[-1] if end in (b"", b"\n") else None
    if last is not None:
        assert f"unmatched: sft, line {last.line.number}: {last.input_url}" in found.out


def test_of_many_unmatched_ones_it_shows_five(made):
    made.records("sft", [f"{HOST}/{name(n)}" for n in range(100, 1_307)])
    found = report(made, "sft")
    lines = [line for line in found.out.splitlines() if line.startswith("unmatched: ")]
    assert lines == [f"unmatched: sft, line {n - 99}: {HOST}/{name(n)}" for n in range(100, 105)]
    assert "... and 1,202 of sft more" in found.out


def test_a_photo_without_a_valid_imageid_is_in_no_tar(made):
    write(made.csv, [{**photo(4), "ImageID": "FFFF"}, {**photo(5), "ImageID": ""}, photo(6)])
    found = table(report(made, "sft").out)
    assert found["matched exactly"] == {"sft": 3}
    assert [what for what in found if what.startswith("photos")] == ["photos in train_0"]


def test_an_index_is_a_list_too(made, tmp_path):
    first = report(made, "sft")
    report(made, "--output", tmp_path / "own.index")
    made.flags[-1] = str(tmp_path / "own.index")
    found = report(made, "sft")
    assert table(found.out) == table(first.out)
    assert MAKING not in found.err


def test_the_whole_index_can_be_written(made, tmp_path):
    own = tmp_path / "new" / "own.index"
    found = report(made, "--output", own)
    assert f"written: {own}, 20 photos" in found.out
    assert own.read_bytes() == Path(open_index(str(made.csv), {}).path).read_bytes()
    assert os.listdir(own.parent) == ["own.index"]


def test_only_what_configs_need_can_be_written(made, tmp_path):
    own = tmp_path / "own.index"
    assert f"written: {own}, 9 photos" in report(made, "sft", "multi_turn", "--output", own).out
    assert f"written: {own}, 8 photos" in report(made, "sft", "--output", own).out
    whole, part = open_index(str(made.csv), {}), open_index(str(own), {})
    assert (len(whole), len(part)) == (20, 8)
    hosts = (HOST, OTHER_HOST, "https://c8.staticflickr.com/1/2")
    urls = [f"{host}/{name(n)}" for n in (*range(4, 12), 99) for host in hosts]
    assert part.photos(part.rows(urls)) == whole.photos(whole.rows(urls))
    assert part.rows([f"{HOST}/{name(3)}"]) == [None]


def test_of_equal_names_both_are_written(made, tmp_path):
    """The first one is what other spellings of the address lead to."""
    urls = [f"https://{host}.staticflickr.com/{name(1)}" for host in ("c1", "c2", "c3")]
    write(made.csv, [photo(0), *[row(n, url) for n, url in enumerate(urls, 1)]])
    made.records("sft", [urls[1]])
    own = tmp_path / "own.index"
    report(made, "sft", "--output", own)
    whole, part = open_index(str(made.csv), {}), open_index(str(own), {})
    assert len(part) == 2
    asked = [urls[1], f"{OTHER_HOST}/{name(1)}"]
    assert part.photos(part.rows(asked)) == whole.photos(whole.rows(asked))
    assert [found.url for found in part.photos(part.rows(asked))] == [urls[1], urls[0]]


def test_where_nothing_is_listed_the_index_is_empty(made, tmp_path):
    made.records("sft", [f"{HOST}/{name(99)}", "{"])
    own = tmp_path / "own.index"
    report(made, "sft", "--output", own)
    assert open_index(str(own), {}).rows([f"{HOST}/{name(99)}", f"{HOST}/{name(4)}"]) == [None] * 2
    made.flags[-1] = str(own)
    assert table(report(made, "sft").out)["unmatched"] == {"sft": 1}


def test_a_release_without_a_record(made):
    made.records("sft", ["", ""])
    found = table(report(made, "sft").out)
    assert set(found) >= {"records", "unmatched"}
    assert {count for counts in found.values() for count in counts.values()} == {0}


def test_lists_and_records_behind_http_are_fetched_once(made):
    with FakeCDN(("/release", made.folder)) as cdn:
        made.flags[1::2] = ["http://release.example", "http://list.example/list.csv"]
        for host in ("release.example", "list.example"):
            made.flags += ["--mirrors", f"{host}={cdn.url}/release"]
        first = report(made, "sft")
        assert MAKING in first.err
        cdn.clear()
        again = report(made, "sft")
        assert MAKING not in again.err
        assert [one for one in cdn.requests("*.jsonl") if one.method == "GET"] == []
    assert table(first.out) == table(again.out)
    assert "http://list.example/list.csv: " in first.out


def test_none_in_a_settings_file(made):
    words = quick_settings(made.folder, open_images_metadata="none")
    ended = pico_banana("index", "sft", "--cdn", made.folder, *words)
    assert ended.code == 2
    assert "open_images_metadata must be an image list here" in ended.err


def test_an_output_that_cannot_be_written(made, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    kept = open_index(str(made.csv), {}).path
    for output, said in {
        tmp_path / "file" / "own.index": "cannot be written: .*give another --output",
        tmp_path: "is there already and no index",
        made.csv: "is there already and no index",
        tmp_path / "file": "is there already and no index",
        kept: "must be another file than the index itself",
    }.items():
        before = made.csv.read_bytes(), Path(kept).read_bytes(), sorted(os.listdir(tmp_path))
        ended = pico_banana("index", "sft", *made.flags, "--output", output)
        assert ended.code == 2
        assert re.search(said, ended.err), ended.err
        after = made.csv.read_bytes(), Path(kept).read_bytes(), sorted(os.listdir(tmp_path))
        assert before == after


def test_a_refused_list_leaves_the_output_as_it_was(made, tmp_path):
    own = tmp_path / "outputs" / "own.index"
    report(made, "--output", own)
    before = own.read_bytes()
    made.csv.write_bytes(made.csv.read_bytes() + b"1,train\n")
    ended = pico_banana("index", "sft", *made.flags, "--output", own)
    assert ended.code == 2
    assert "Row #22" in ended.err
    assert own.read_bytes() == before
    assert os.listdir(own.parent) == ["own.index"]


def test_a_release_that_is_not_there(made):
    (made.folder / "jsonl" / JSONL["sft"]).unlink()
    ended = pico_banana("index", "sft", *made.flags)
    assert ended.code == 2
    assert "cdn must be a folder that holds jsonl/sft.jsonl" in ended.err


def test_a_signal_leaves_nothing_behind(made, tmp_path):
    own = tmp_path / "outputs" / "own.index"
    with FakeCDN(("/lists", made.folder)) as cdn:
        cdn.hold("*.csv")
        words = ["--open-images-metadata", f"{cdn.url}/lists/list.csv", "--output", own]
        command = arguments_of("index", "sft", "--cdn", made.folder, *words)
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as running:
            cdn.wait_for_request("*.csv")
            running.send_signal(signal.SIGINT)
            assert running.wait() == 130
    assert os.listdir(own.parent) == []
