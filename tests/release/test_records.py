"""Lines of the release become records; whatever is no record becomes a report with its reason."""

import io
import itertools
import json
import random
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pico_banana.release.records import (
    MAX_IMAGES,
    MAX_LINE_BYTES,
    BadReason,
    BadRecord,
    Line,
    Record,
    parse_line,
    split_lines,
)
from pico_banana.urls import PUBLISHED_BASE, photo_of, published_url
from tests.release_lines import ABSENT, PHOTO, multi_turn, preference, sft

CONFIGS = ("sft", "preference", "multi_turn")


def with_file(name, url):
    """A multi_turn record, one of whose files has another address, or ABSENT."""
    files = [entry for entry in multi_turn()["files"] if entry["id"] != name]
    return multi_turn(files=files + ([] if url is ABSENT else [{"id": name, "url": url}]))


def parse(config, fields, **options):
    raw = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return parse_line(config, Line(0, raw, 1), **options)


def whole(data):
    return list(split_lines(io.BytesIO(data).read))


def part(data, start, end):
    file = io.BytesIO(data)
    file.seek(max(start - 1, 0))
    return list(split_lines(file.read, start, end))


# Good records


def test_sft():
    record = parse("sft", sft())
    assert record == Record(
        id="positive-edit/71",
        input_url=PHOTO,
        prompts=("Paint the fence green and leave everything else alone.",),
        edited=("images/positive-edit/71.png",),
        short_prompt="Paint the fence green.",
        edit_type="Zoom in",
        line=record.line,
    )
    assert record.photo == "4300123456_0a1b2c3d4e_o.jpg"


def test_preference_takes_the_prefix_off():
    record = parse("preference", preference())
    assert record.rejected == ("images/rejected-edit/5.png",)
    assert record.id == "positive-edit/71"
    assert published_url(record.rejected[0]) == f"{PUBLISHED_BASE}images/rejected-edit/5.png"


@pytest.mark.parametrize(
    "value",
    [
        "images/rejected-edit/5.png",
        "nano-banana-300k/images/rejected-edit/5.png",
        ["images/rejected-edit/5.png"],
    ],
)
def test_rejected_images_may_be_a_lone_string(value):
    record = parse("preference", preference(rejected_images=value))
    assert record.rejected == ("images/rejected-edit/5.png",)


def test_several_rejected_images_keep_their_order():
    paths = [f"nano-banana-300k/images/rejected-edit/{n}.png" for n in (9, 3, 7)]
    record = parse("preference", preference(rejected_images=paths))
    assert record.rejected == tuple(f"images/rejected-edit/{n}.png" for n in (9, 3, 7))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("turns", [1, 2, 5, 12])
def test_turns_come_in_order_whatever_the_order_of_files(turns, seed):
    record = parse("multi_turn", multi_turn(turns, order=random.Random(seed)))
    stem = "images/multi-turn/12_attemptA_turn"
    assert record.edited == tuple(f"{stem}{n}.png" for n in range(1, turns + 1))
    assert record.prompts == tuple(f"Turn number {n}" for n in range(1, turns + 1))
    assert record.id == "multi-turn/12_attemptA"
    assert (record.input_url, record.edit_type, record.short_prompt) == (PHOTO, None, None)


def test_files_of_other_names_are_left_alone():
    files = [*multi_turn()["files"], {"id": "thumbnail", "url": "anything: at all"}]
    assert (
        parse("multi_turn", multi_turn(files=files)).edited
        == parse("multi_turn", multi_turn()).edited
    )


@pytest.mark.parametrize(
    ("name", "record_id"),
    [
        ("33.png", "33"),
        ("k3b9zq_retry1.png", "k3b9zq_retry1"),
        ("a.b.png", "a.b"),
        ("bare", "bare"),
        ("7_turn2.png", "7_turn2"),
        ("with space#1?.png", "with space#1?"),
        ("é↔.png", "é↔"),
    ],
)
def test_id_of_single_turn(name, record_id):
    record = parse("sft", sft(output_image=f"images/positive-edit/{name}"))
    assert record.id == f"positive-edit/{record_id}"


@pytest.mark.parametrize(
    ("name", "record_id"),
    [
        ("101_attemptB_turn5.png", "101_attemptB"),
        ("101_attemptB_turn5_retry2.png", "101_attemptB_retry2"),
        ("101_attemptB_retry2_turn5.png", "101_attemptB_retry2"),
        ("turn5.png", "turn5"),
        ("5_turn5x.png", "5_turn5x"),
        ("5_turn12.png", "5"),
        ("5.png", "5"),
    ],
)
def test_id_of_multi_turn(name, record_id):
    record = parse("multi_turn", with_file("final_image", f"images/multi-turn/{name}"))
    assert record.id == f"multi-turn/{record_id}"


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("images/positive-edit/1.png", "images/positive-edit/1.png"),
        ("images/positive-edit/a b.png", "images/positive-edit/a%20b.png"),
        ("images/positive-edit/a#b.png", "images/positive-edit/a%23b.png"),
        ("images/positive-edit/a?b.png", "images/positive-edit/a%3Fb.png"),
        ("images/positive-edit/a%20b.png", "images/positive-edit/a%2520b.png"),
        ("images/positive-edit/é.png", "images/positive-edit/%C3%A9.png"),
    ],
)
def test_a_path_is_a_name_and_its_address_is_quoted(path, url):
    record = parse("sft", sft(output_image=path))
    assert record.edited == (path,)
    assert published_url(path) == PUBLISHED_BASE + url
    for scheme in ("https", "http"):
        address = scheme + published_url(path).removeprefix("https")
        assert parse("sft", sft(output_image=address)).edited == (path,)


@pytest.mark.parametrize(
    "url",
    [
        PHOTO,
        PHOTO.replace("https", "http"),
        "https://c2.staticflickr.com/4/3925/1_o.jpg",
        "https://farm1.staticflickr.com/1/2_o.jpg?zz=1",
        "https://farm1.staticflickr.com/1/größe.jpg",
        "https://FARM1.staticflickr.com:443/1/2_o.jpg",
    ],
)
def test_input_urls_stay_as_published(url):
    assert parse("sft", sft(open_image_input_url=url)).input_url == url
    assert parse("multi_turn", with_file("original_input_image", url)).input_url == url


@pytest.mark.parametrize(
    ("url", "photo"),
    [
        (PHOTO, "4300123456_0a1b2c3d4e_o.jpg"),
        ("http://h/a/b.jpg?x=/y/z.jpg", "b.jpg"),
        ("http://h/a/b.jpg#/c", "b.jpg"),
        ("http://h/", ""),
    ],
)
def test_photo_of(url, photo):
    assert photo_of(url) == photo


@pytest.mark.parametrize("value", [None, ABSENT])
@pytest.mark.parametrize(
    ("name", "attribute"), [("summarized_text", "short_prompt"), ("edit_type", "edit_type")]
)
def test_optional_texts(name, attribute, value):
    assert getattr(parse("sft", sft(**{name: value})), attribute) is None


def test_texts_are_kept_to_the_letter():
    text = "  warm ↔ cool \u2013 \x00 NUL, \u2028, 🙂, \t and \\n \r\n"
    record = parse("sft", sft(text=text, summarized_text="", edit_type="Funko\u2013style"))
    assert record.prompts == (text,)
    assert (record.short_prompt, record.edit_type) == ("", "Funko\u2013style")
    assert record.odd == ()


def test_unknown_keys_are_left_alone():
    extra = {"quality": {"nested": [1, 2.5, None, True]}, "": 1, "open_image_input_url2": 3}
    assert parse("sft", {**sft(), **extra})[:-1] == parse("sft", sft())[:-1]


def test_a_lone_surrogate_is_mended_and_marked():
    raw = json.dumps(sft(text="x", note="n")).encode().replace(b'"x"', rb'"a\ud83d b \ud83d\ude00"')
    record = parse("sft", raw)
    assert record.prompts == ("a\ufffd b 😀",)
    assert record.odd == ("lone_surrogate",)
    named = raw.replace(b"positive-edit/71", rb"positive-edit/\udcff71")
    assert parse("sft", named).id == "positive-edit/\ufffd71"


def test_paths_that_are_known_nowhere_are_kept():
    record = parse("preference", preference(rejected_images=["elsewhere/5.png"]))
    assert record.rejected == ("elsewhere/5.png",)


def test_resolve_is_asked_for_other_paths_only():
    asked = []

    def resolve(path):
        asked.append(path)
        return "images/rejected-edit/found.png" if path == "elsewhere/5.png" else None

    paths = ["images/a/1.png", "nano-banana-300k/images/b/2.png", "elsewhere/5.png", "6.png"]
    record = parse("preference", preference(rejected_images=paths), resolve=resolve)
    assert asked == ["elsewhere/5.png", "6.png"]
    assert record.rejected[2:] == ("images/rejected-edit/found.png", "6.png")


def test_what_resolve_says_must_stay_below_the_base():
    fields = sft(output_image="elsewhere/5.png")
    record = parse("sft", fields, resolve=lambda _: "images/../../../secret.png")
    assert record.edited == ("elsewhere/5.png",)


def test_as_many_images_as_are_allowed():
    paths = [f"images/rejected-edit/{n}.png" for n in range(MAX_IMAGES)]
    assert len(parse("preference", preference(rejected_images=paths)).rejected) == MAX_IMAGES == 64
    assert len(parse("multi_turn", multi_turn(MAX_IMAGES)).edited) == MAX_IMAGES


# Bad records

PATHS = {
    "parent": "images/../../etc/passwd",
    "parent at the end": "images/positive-edit/..",
    "here": "images/./1.png",
    "absolute": "/etc/passwd",
    "empty": "",
    "empty segment": "images//1.png",
    "folder": "images/positive-edit/",
    "backslash": "images\\1.png",
    "NUL": "images/a\x00.png",
    "newline": "images/a\n.png",
    "newline at the end": "images/positive-edit/1.png\n",
    "delete": "images/a\x7f.png",
    "long": "images/" + "a" * 10_000,
    "long, of short names": "images" + "/a" * 5_000,
    "prefix only": "nano-banana-300k/",
    "prefix and parent": "nano-banana-300k/../1.png",
    "file URL": "file:///etc/passwd",
    "s3 URL": "s3://bucket/images/1.png",
    "own URL, parent": PUBLISHED_BASE + "images/%2e%2e/%2e%2e/1.png",
    "own URL, NUL": PUBLISHED_BASE + "images/%00.png",
    "own URL, backslash": PUBLISHED_BASE + "images/..%5c1.png",
    "own URL, nothing": PUBLISHED_BASE,
}
FOREIGN = {
    "other host": "https://example.org/images/1.png",
    "other folder": "https://ml-site.cdn-apple.com/datasets/other/1.png",
    "own host, longer": "https://ml-site.cdn-apple.com.example.org/datasets/pico-banana-300k/nb/1.png",
    "credentials": "https://u:p@ml-site.cdn-apple.com/datasets/pico-banana-300k/nb/images/1.png",
}
URLS = {
    "file": "file:///etc/passwd",
    "ftp": "ftp://farm1.staticflickr.com/1.jpg",
    "relative": "images/1.jpg",
    "empty": "",
    "no host": "https:///1.jpg",
    "no host, port": "https://:443/1.jpg",
    "no slashes": "https:farm1.staticflickr.com/1.jpg",
    "user": "https://me@farm1.staticflickr.com/1.jpg",
    "password": "https://me:pw@farm1.staticflickr.com/1.jpg",
    "empty user": "https://@farm1.staticflickr.com/1.jpg",
    "other host before @": "https://farm1.staticflickr.com@127.0.0.1/1.jpg",
    "backslash": "https://127.0.0.1\\.staticflickr.com/1.jpg",
    "space": "https://farm1.staticflickr.com/a b.jpg",
    "newline": "https://farm1.staticflickr.com/1.jpg\n",
    "NUL": "https://farm1.staticflickr.com/1\x00.jpg",
    "bad IPv6": "https://[::1/1.jpg",
    "bad port": "https://farm1.staticflickr.com:port/1.jpg",
    "high port": "https://farm1.staticflickr.com:99999/1.jpg",
    "long": "https://farm1.staticflickr.com/" + "a" * 10_000,
    "long host": f"https://{'a' * 10_000}/1.jpg",
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_bad_path(path):
    assert parse("sft", sft(output_image=path)).reason is BadReason.BAD_PATH
    assert parse("preference", preference(rejected_images=[path])).reason is BadReason.BAD_PATH
    assert parse("multi_turn", with_file("edit_turn1", path)).reason is BadReason.BAD_PATH


@pytest.mark.parametrize("url", FOREIGN.values(), ids=FOREIGN)
def test_an_edit_elsewhere_is_a_bad_url(url):
    bad = parse("sft", sft(output_image=url))
    assert bad.reason is BadReason.BAD_URL
    assert PUBLISHED_BASE in bad.detail


@pytest.mark.parametrize("url", URLS.values(), ids=URLS)
def test_bad_url(url):
    bad = parse("sft", sft(open_image_input_url=url))
    assert bad.reason is BadReason.BAD_URL
    assert "pw" not in bad.detail
    assert len(bad.detail) < 300
    assert parse("multi_turn", with_file("original_input_image", url)).reason is BadReason.BAD_URL


LINES = {
    "empty object": (b"{}", BadReason.MISSING_FIELD),
    "word": (b"hello", BadReason.NOT_JSON),
    "NaN": (b'{"text": NaN}', BadReason.NOT_JSON),
    "-Infinity": (b'{"text": -Infinity}', BadReason.NOT_JSON),
    "cut": (b'{"text": "a', BadReason.NOT_JSON),
    "two": (b"{} {}", BadReason.NOT_JSON),
    "control character": (b'{"text": "a\tb"}', BadReason.NOT_JSON),
    "long number": (b'{"text": "\\ud800", "n": ' + b"9" * 10_000 + b"}", BadReason.NOT_JSON),
    "BOM in the middle": (b"\xef\xbb\xbf{}", BadReason.NOT_JSON),
    "latin-1": (b'{"text": "caf\xe9"}', BadReason.NOT_UTF8),
    "encoded surrogate": (b'{"text": "\xed\xa0\x80"}', BadReason.NOT_UTF8),
    "overlong": (b'{"text": "\xc0\xaf"}', BadReason.NOT_UTF8),
    "list": (b"[]", BadReason.NOT_AN_OBJECT),
    "null": (b"null", BadReason.NOT_AN_OBJECT),
    "text": (b'"text"', BadReason.NOT_AN_OBJECT),
    "number": (b"1e999", BadReason.NOT_AN_OBJECT),
    "lone surrogate": (rb'"\ud800"', BadReason.NOT_AN_OBJECT),
    "deep lists": (b"[" * 100_000 + b"]" * 100_000, BadReason.TOO_DEEP),
    "deep objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, BadReason.TOO_DEEP),
}


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(("raw", "reason"), LINES.values(), ids=LINES)
def test_bad_json(raw, reason, config):
    bad = parse(config, raw)
    assert bad.reason is reason
    assert bad.detail
    assert bad.line.raw == raw


REQUIRED = [
    ("sft", "open_image_input_url"),
    ("sft", "text"),
    ("sft", "output_image"),
    ("preference", "open_image_input_url"),
    ("preference", "text"),
    ("preference", "output_image"),
    ("preference", "rejected_images"),
    ("multi_turn", "files"),
    ("multi_turn", "metadata_edit_turn_prompts"),
]
MAKE = {"sft": sft, "preference": preference, "multi_turn": multi_turn}


@pytest.mark.parametrize(("config", "name"), REQUIRED)
def test_required_fields(config, name):
    for value in (ABSENT, None):
        bad = parse(config, MAKE[config](**{name: value}))
        assert bad.reason is BadReason.MISSING_FIELD
        assert name in bad.detail
    for value in (5, True, {"a": 1}, 1.5):
        assert parse(config, MAKE[config](**{name: value})).reason is BadReason.WRONG_TYPE


SHAPES = {
    "rejected: none": (preference(rejected_images=[]), BadReason.MISSING_FIELD),
    "rejected: null": (preference(rejected_images=[None]), BadReason.WRONG_TYPE),
    "rejected: number": (preference(rejected_images=["images/a/1.png", 5]), BadReason.WRONG_TYPE),
    "rejected: lists": (preference(rejected_images=[["images/a/1.png"]]), BadReason.WRONG_TYPE),
    "rejected: 65": (
        preference(rejected_images=["images/a/1.png"] * 65),
        BadReason.TOO_MANY_IMAGES,
    ),
    "type: number": (preference(edit_type=5), BadReason.WRONG_TYPE),
    "summary: list": (preference(summarized_text=["a"]), BadReason.WRONG_TYPE),
    "text: list": (preference(text=["a"]), BadReason.WRONG_TYPE),
    "output: list": (preference(output_image=["images/a/1.png"]), BadReason.WRONG_TYPE),
    "files: no final": (with_file("final_image", ABSENT), BadReason.MISSING_FIELD),
    "files: no original": (with_file("original_input_image", ABSENT), BadReason.MISSING_FIELD),
    "files: null address": (with_file("edit_turn1", None), BadReason.MISSING_FIELD),
    "files: number": (with_file("edit_turn1", 5), BadReason.WRONG_TYPE),
    "files: strings": (multi_turn(files=["images/a/1.png"]), BadReason.WRONG_TYPE),
    "files: no id": (multi_turn(files=[{"url": "images/a/1.png"}]), BadReason.MISSING_FIELD),
    "files: empty": (multi_turn(files=[]), BadReason.MISSING_FIELD),
    "files: 65 edits": (multi_turn(65), BadReason.TOO_MANY_IMAGES),
    "turns: gap": (with_file("edit_turn1", ABSENT), BadReason.TURNS_MISMATCH),
    "turns: one more": (with_file("edit_turn9", "images/a/1.png"), BadReason.TURNS_MISMATCH),
    "turns: no number": (with_file("edit_turn", "images/a/1.png"), BadReason.TURNS_MISMATCH),
    "turns: twice": (
        multi_turn(files=multi_turn()["files"] + multi_turn()["files"][:1]),
        BadReason.TURNS_MISMATCH,
    ),
    "prompts: fewer": (multi_turn(metadata_edit_turn_prompts=["a"]), BadReason.TURNS_MISMATCH),
    "prompts: none": (multi_turn(metadata_edit_turn_prompts=[]), BadReason.TURNS_MISMATCH),
    "prompts: more": (multi_turn(metadata_edit_turn_prompts=["a"] * 4), BadReason.TURNS_MISMATCH),
    "prompts: null": (
        multi_turn(metadata_edit_turn_prompts=["a", None, "b"]),
        BadReason.WRONG_TYPE,
    ),
    "prompts: 65": (multi_turn(metadata_edit_turn_prompts=["a"] * 65), BadReason.TOO_MANY_IMAGES),
}


@pytest.mark.parametrize(("fields", "reason"), SHAPES.values(), ids=SHAPES)
def test_bad_shape(fields, reason):
    bad = parse("multi_turn" if "files" in fields else "preference", fields)
    assert isinstance(bad, BadRecord)
    assert bad.reason is reason


def test_every_reason_is_a_word_of_the_ledger():
    assert [reason.value for reason in BadReason] == [
        "not_json", "not_utf8", "not_an_object", "missing_field", "wrong_type", "bad_path",
        "bad_url", "turns_mismatch", "line_too_long", "too_many_images", "too_deep",
    ]  # fmt: skip


# Lines of a file


def test_lines_end_with_lf_or_crlf_or_the_file():
    lines = whole(b"\xef\xbb\xbf{}\r\n\n \r\n[]\n\r\n1")
    assert [(line.number, line.offset, line.raw) for line in lines] == [
        (1, 0, b"{}"), (2, 7, b""), (3, 8, b" "), (4, 11, b"[]"), (5, 14, b""), (6, 16, b"1"),
    ]  # fmt: skip
    assert lines[5].where == "line 6"
    assert part(b"a\nb\n", 2, None)[0].where == "byte 2"


@pytest.mark.parametrize(("data", "count"), [(b"", 0), (b"\n", 1), (b"a", 1), (b"a\n", 1)])
def test_an_unfinished_last_line_is_a_line(data, count):
    assert len(whole(data)) == count


def test_a_bom_alone_is_a_blank_line():
    assert [line.raw for line in whole(b"\xef\xbb\xbf")] == [b""]


@pytest.mark.parametrize(("size", "kept"), [(MAX_LINE_BYTES, True), (MAX_LINE_BYTES + 1, False)])
def test_a_long_line_is_reported_and_the_next_one_read(size, kept):
    data = b"{}\n" + b"a" * size + b"\n" + json.dumps(sft()).encode()
    lines = whole(data)
    assert [line.number for line in lines] == [1, 2, 3]
    assert (lines[1].raw is not None) is kept
    reason = BadReason.NOT_JSON if kept else BadReason.LINE_TOO_LONG
    assert parse_line("sft", lines[1]).reason is reason
    assert parse_line("sft", lines[2]).id == "positive-edit/71"
    assert part(data, 1, None) == [line._replace(number=None) for line in lines[1:]]


def test_a_line_of_any_length_takes_bounded_memory():
    blocks = iter([b"a" * 2**20] * 100 + [b"\n{}"])
    tracemalloc.start()
    try:
        lines = list(split_lines(lambda _: next(blocks, b"")))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [line.raw for line in lines] == [None, b"{}"]
    assert peak_bytes < 3 * MAX_LINE_BYTES


def test_a_huge_line_is_read_once_and_not_by_every_range():
    before, size = b"{}\n" * 100, 40 * 2**20
    data = before + b"a" * size + b"\n" + before
    edges = [*range(0, len(data), len(data) // 64), None]
    read_bytes, found = 0, []

    for start, end in itertools.pairwise(edges):
        file = io.BytesIO(data)
        file.seek(max(start - 1, 0))
        found += split_lines(file.read, start, end)
        read_bytes += file.tell() - max(start - 1, 0)

    assert [line.offset for line in found] == [line.offset for line in whole(data)]
    assert [line.raw is None for line in found] == [False] * 100 + [True] + [False] * 100
    assert read_bytes < 2 * len(data) + 64 * 2**20  # each range reads a block beyond its end


@pytest.mark.parametrize("config", CONFIGS)
def test_details_are_short_whatever_a_line_holds(config):
    name = "x" * 100_000
    files = [{"id": name, "url": "images/1.png"}] * 2
    required = [{"id": one, "url": "images/1.png"} for one in (name, "edit_turn7")]
    required += [{"id": "final_image", "url": "images/1.png"}]
    required += [{"id": "original_input_image", "url": PHOTO}]
    for change in (
        {"files": files, "output_image": name},
        {"files": required, "open_image_input_url": name},
        {"files": name, "text": [name]},
    ):
        bad = parse_line(config, Line(0, json.dumps({**sft(), **change}).encode()))
        assert isinstance(bad, BadRecord)
        assert len(bad.detail) <= 300


@pytest.mark.parametrize(
    "url",
    ["http://me:p4ss@h.example:x/1.jpg", "http://me:p4ss @h.example/", "ftp://me:p4ss@h.example/"],
)
def test_details_show_no_password(url):
    for change in ({"open_image_input_url": url}, {"output_image": url}):
        bad = parse_line("sft", Line(0, json.dumps({**sft(), **change}).encode()))
        assert "p4ss" not in bad.detail


@pytest.mark.parametrize("url", ["http://./1.jpg", "http://../1.jpg", "http://.../1.jpg"])
def test_a_host_that_is_dots_is_none(url):
    bad = parse_line("sft", Line(0, json.dumps(sft(open_image_input_url=url)).encode()))
    assert bad.reason is BadReason.BAD_URL


# Newlines, line ends and JSON by and by, so that lines are short and some are records
PIECES = st.sampled_from(
    [
        b"\n",
        b"\r\n",
        b"\n\n",
        b" ",
        b"{}",
        b"\xef\xbb\xbf",
        b"\xff",
        b"[",
        json.dumps(sft()).encode(),
    ]
)
FILES = st.one_of(st.binary(max_size=200), st.lists(PIECES | st.binary(max_size=5)).map(b"".join))


@given(FILES)
@example(b"\xef\xbb\xbf")
@example(b"\r\r\n\x00\n\x0b\n")
def test_any_bytes_are_lines_and_every_line_is_accounted_for(data):
    lines = whole(data)
    assert len(lines) == data.count(b"\n") + (not data.endswith(b"\n") and data != b"")
    assert [line.number for line in lines] == list(range(1, len(lines) + 1))
    offsets = [0, *(place + 1 for place, byte in enumerate(data) if byte == 10)]
    assert [line.offset for line in lines] == offsets[: len(lines)]
    for line in lines:
        if line.raw.strip():
            for config in CONFIGS:
                assert isinstance(parse_line(config, line), (Record, BadRecord))


@given(FILES, st.data())
def test_any_partition_yields_every_line_once(data, draw):
    inner = draw.draw(st.lists(st.integers(0, len(data) + 3), max_size=6))
    edges = [0, *sorted(inner), None]
    parts = [part(data, *edge) for edge in itertools.pairwise(edges)]
    together = [line._replace(number=None) for lines in parts for line in lines]
    assert together == [line._replace(number=None) for line in whole(data)]


@given(FILES, st.integers(1, 9))
def test_lines_do_not_depend_on_how_much_a_read_returns(data, size):
    file = io.BytesIO(data)
    assert list(split_lines(lambda _: file.read(size))) == whole(data)


def test_partitions_of_a_file_longer_than_a_block():
    rng = random.Random(3)
    data = b"".join(
        json.dumps(sft(text="x" * rng.randint(0, 3000))).encode() + rng.choice([b"\n", b"\r\n"])
        for _ in range(2000)
    )
    assert len(data) > 2 * 2**20
    edges = [0, *sorted(rng.sample(range(len(data)), 20)), None]
    parts = [part(data, *edge) for edge in itertools.pairwise(edges)]
    offsets = [line.offset for lines in parts for line in lines]
    assert offsets == [line.offset for line in whole(data)]
    assert len(offsets) == 2000


# Lone surrogates too, which JSON can escape and Parquet cannot hold.
WORDS = st.text("a/.%é😀\x00\ud800\udfff", max_size=8) | st.sampled_from(
    [PHOTO, "images/a/1.png", "images/../x", PUBLISHED_BASE + "images/%ff.png"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | WORDS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "url", "x"]), inner)
    ),
    max_leaves=10,
)
NAMES = st.sampled_from([*preference(), *multi_turn(), "note"])


@settings(max_examples=150)
@given(st.sampled_from(CONFIGS), st.dictionaries(NAMES, JSON, max_size=3))
def test_any_value_in_any_field_gives_a_record_or_a_report(config, changes):
    found = parse(config, MAKE[config](**changes))
    if isinstance(found, Record):
        assert len(found.prompts) == len(found.edited) <= MAX_IMAGES
        for path in (*found.edited, *found.rejected):
            assert ".." not in path.split("/")
            published_url(path).encode("ascii")
        json.dumps(found._replace(line=None), ensure_ascii=False).encode()
    else:
        assert isinstance(found.reason, BadReason)


@pytest.mark.parametrize("path", ["../../etc/hostname", "a/./b.jpg", "%2e%2E/x.jpg", "x/.."])
def test_an_input_url_stays_below_its_host(path):
    fields = {**sft(), "open_image_input_url": f"https://farm5.staticflickr.com/{path}"}
    found = parse("sft", fields)
    assert found.reason is BadReason.BAD_URL
