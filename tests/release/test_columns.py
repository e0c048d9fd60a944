"""Records as columns are those that `parse_line` gives, whatever the lines hold."""

import io
import itertools
import json
import os

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pico_banana.convert.options import ConvertSettings
from pico_banana.convert.planning.make_plan import make_plan
from pico_banana.release.columns import (
    columns_of,
    known_columns,
    parsed,
    split_blocks,
    usual_columns,
)
from pico_banana.release.files import Release
from pico_banana.release.records import MAX_LINE_BYTES, Record, line_of, parse_line, split_lines
from pico_banana.schema import CONFIGS
from pico_banana.settings import build_settings
from tests.odd_lines import lines_of
from tests.release_lines import MAKE

DATA = st.sampled_from(CONFIGS).flatmap(
    lambda config: st.tuples(st.just(config), st.lists(lines_of(config), max_size=6))
)


def usual_lines(config, count):
    return [json.dumps(MAKE[config](), ensure_ascii=False).encode()] * count


def records_of(config, lines):
    return [parse_line(config, line_of(7 * place, line, 1)) for place, line in enumerate(lines)]


@pytest.mark.parametrize("config", CONFIGS)
def test_usual_lines_are_taken_together(config):
    lines = usual_lines(config, 3)
    usual = usual_columns(config, b"".join(line + b"\n" for line in lines))
    assert usual.records == columns_of(records_of(config, lines))
    assert usual.starts.tolist() == [0, len(lines[0]) + 1, 2 * len(lines[0]) + 2]


@given(DATA)
@settings(max_examples=100)
@example(("sft", [b'{"a": 1}{"b": 2}', b""]))
@example(
    ("sft", [json.dumps(MAKE["sft"]()).replace("{", '{"note": ' + "9" * 5000 + ", ", 1).encode()])
)
@example(("sft", [b'{"open_image_input_url":', b"1}"]))
@example(("multi_turn", [b'{"files": [null], "metadata_edit_turn_prompts": []}']))
def test_what_is_taken_together_is_what_each_line_gives(data):
    config, lines = data
    lines = [line for body in lines for line in body.split(b"\n")]
    text = b"".join(line + b"\n" for line in lines)
    usual = usual_columns(config, text)
    if usual is not None:
        found = records_of(config, lines)
        assert all(isinstance(record, Record) and not record.odd for record in found)
        assert usual.records == columns_of(found) == known_columns(config, text)
        assert usual.starts.tolist() == [
            *itertools.accumulate(map(len, lines[:-1]), lambda a, b: a + b + 1, initial=0)
        ]


CHANGES = [
    ("sft", "text", None),
    ("sft", "text", 1),
    ("sft", "text", "lone \ud800"),
    ("sft", "output_image", "images/a b.png"),
    ("sft", "output_image", "images/../a.png"),
    ("sft", "output_image", "nano/a.png"),
    ("sft", "output_image", f"images/{'a' * 300}.png"),
    ("sft", "output_image", f"images/{'a/' * 17}b.png"),
    ("sft", "output_image", "images/a.png\n"),
    ("sft", "open_image_input_url", "ftp://h/a.jpg"),
    ("sft", "open_image_input_url", "https://h/../a.jpg"),
    ("sft", "open_image_input_url", "https://h/a.jpg?b"),
    ("sft", "open_image_input_url", None),
    ("sft", "note", [[]] * 1000),
    ("preference", "rejected_images", []),
    ("preference", "rejected_images", None),
    ("preference", "rejected_images", [None]),
    ("preference", "rejected_images", "images/a.png"),
    ("preference", "rejected_images", ["images/a.png"] * 65),
    ("preference", "rejected_images", ["images/a.png", "images/a b.png"]),
    ("multi_turn", "files", []),
    ("multi_turn", "files", [{"id": "final_image", "url": "images/a.png"}]),
    ("multi_turn", "metadata_edit_turn_prompts", ["one too few"]),
    ("multi_turn", "metadata_edit_turn_prompts", [None, None, None]),
]


@pytest.mark.parametrize(("config", "name", "value"), CHANGES)
def test_an_unusual_line_is_left_to_the_parser_of_lines(config, name, value):
    line = json.dumps({**MAKE[config](), name: value}).encode()
    usual = usual_lines(config, 2)
    assert usual_columns(config, b"\n".join([usual[0], line, usual[1], b""])) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-1],
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: b"\n" + text,
        lambda text: text.replace(b"\n", b"\n\n", 1),
        lambda text: b" " + text,
        lambda text: text.replace(b"{", b'{"note": "\xff", ', 1),
        lambda text: text.replace(b"{", b'{"note": ' + b"[" * 1100 + b"]" * 1100 + b", ", 1),
        lambda text: text.replace(b"{", b'{"note": "' + b" " * MAX_LINE_BYTES + b'", ', 1),
        lambda text: text.replace(b"{", b'{"text": "again", ', 1),
        lambda text: text.replace(b"}\n", b"}{}\n", 1),
    ],
)
def test_unusual_bytes_are_left_to_the_parser_of_lines(change):
    text = b"\n".join([*usual_lines("sft", 3), b""])
    assert usual_columns("sft", text) is not None
    assert usual_columns("sft", change(text)) is None


@given(
    st.lists(st.sampled_from([b"", b"\r", b"a", b"{}", b"long" * 9]), max_size=9),
    st.integers(1, 20),
)
def test_blocks_have_the_lines_of_the_file(lines, size):
    text = b"\n".join(lines)
    file = io.BytesIO(text)
    blocks = split_blocks(lambda _: file.read(size))
    found = [line for block in blocks for line in block.lines()]
    assert found == [*split_lines(io.BytesIO(text).read)]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n{}", b"\n{}\n"])
@pytest.mark.parametrize("more", [-1, 0, 1, 2, MAX_LINE_BYTES])
def test_a_line_that_is_too_long_is_not_held(end, more):
    text = b"{}\n" + b"x" * (MAX_LINE_BYTES + more) + end
    blocks = split_blocks(io.BytesIO(text).read)
    found = [line for block in blocks for line in block.lines()]
    assert found == [*split_lines(io.BytesIO(text).read)]
    assert (found[1].raw is None) == (more > 0 or (more == 0 and end == b"\r\n"))


def test_only_what_lies_around_an_unusual_line_is_left_to_the_parser_of_lines():
    lines = usual_lines("sft", 1000)
    lines[700] = b"broken"
    (block,) = split_blocks(io.BytesIO(b"\n".join([*lines, b""])).read)
    parts = [*parsed("sft", block)]
    assert [line for part, _ in parts for line in part.lines()] == [*block.lines()]
    slow = [(part.number, len([*part.lines()])) for part, usual in parts if usual is None]
    assert sum(count for _, count in slow) <= 64
    assert any(number <= 701 < number + count for number, count in slow)
    for part, usual in parts:
        if usual is not None:
            assert usual.records == columns_of(records_of("sft", part.text.splitlines()))


@pytest.mark.parametrize("config", CONFIGS)
def test_a_plan_is_the_same_by_columns_and_by_lines(config, tmp_path):
    lines = usual_lines(config, 400)
    lines[150:150] = [b"", b"broken", json.dumps({**MAKE[config](), "note": "é"}).encode("utf-16")]
    path = tmp_path / "records.jsonl"
    path.write_bytes(b"\n".join(lines))

    def plan(**given):
        made = build_settings(ConvertSettings, {"cdn": tmp_path, "records_per_shard": 90, **given})
        return make_plan(config, made, os.fspath(path), Release(made).manifest(config), None)

    by_columns, by_lines = plan(), plan(exclude_ids=["nothing"])
    usual = [shard.is_usual for shard in by_columns.shards]
    assert (usual[0], usual[1], usual[3]) == (True, False, True)
    assert not any(shard.is_usual for shard in by_lines.shards)
    by_columns.settings = by_lines.settings
    assert by_columns.to_json() == by_lines.to_json()
    assert by_columns.edit_types == by_lines.edit_types
    assert by_columns.unlisted == by_lines.unlisted == 400
    assert [shard.offsets for shard in by_columns.shards] == [s.offsets for s in by_lines.shards]
