"""Records as columns: blocks of a JSONL file's lines, parsed together where all are as usual.

What takes a record at a time takes long with 386,000 of them. Arrow's JSON reader parses thousands
of lines at once, and what they hold is checked by column. A block in which anything is unusual is
left to `pico_banana.release.records`, which knows of every oddity and has the last word on what a
line is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json as pa_json

from pico_banana.arrow import numbers_of, strings_of, values_of
from pico_banana.release.records import MAX_IMAGES, MAX_LINE_BYTES, Line, Record, line_of
from pico_banana.urls import PUBLISHED_BASE, published_url

__all__ = [
    "RECORD_COLUMNS",
    "Block",
    "Numbers",
    "Usual",
    "below",
    "columns_of",
    "known_columns",
    "parsed",
    "quoted",
    "split_blocks",
    "usual_columns",
]

Numbers = np.ndarray[Any, np.dtype[np.int64]]

_TEXT, _TEXTS = pa.string(), pa.list_(pa.string())
RECORD_COLUMNS = pa.schema(
    {
        "id": _TEXT,
        "input_url": _TEXT,
        "prompts": _TEXTS,
        "short_prompt": _TEXT,
        "edited": _TEXTS,
        "rejected": _TEXTS,
        "edit_type": _TEXT,
    }
)
"""The fields of `pico_banana.release.records.Record` but `odd` and `line`."""

_BLOCK_BYTES = 4 * 1024 * 1024
_FEW_LINES = 64
# No shorter line, and none with fewer opening brackets, is nested too deeply for any parser.
_DEEP_BYTES, _DEEP_BRACKETS = 1900, 900
_NO_NUMBER = re.compile(rb"[:,\[]\s*-?(?:NaN|Inf)")
_MOST_DIGITS = 4300  # Python makes no longer integers
_LONG_NUMBER = re.compile(rb"\d{%d}" % (_MOST_DIGITS + 1))
_SINGLE_TURN = {
    "open_image_input_url": _TEXT,
    "text": _TEXT,
    "output_image": _TEXT,
    "edit_type": _TEXT,
    "summarized_text": _TEXT,
}
_WIRE = {
    "sft": pa.schema(_SINGLE_TURN),
    "preference": pa.schema({**_SINGLE_TURN, "rejected_images": _TEXTS}),
    "multi_turn": pa.schema(
        {
            "files": pa.list_(pa.struct({"id": _TEXT, "url": _TEXT})),
            "metadata_edit_turn_prompts": _TEXTS,
        }
    ),
}
# At most as wide as what `pico_banana.release.records` takes for common.
_USUAL_URL = r"\Ahttps?://[a-z0-9][a-z0-9.-]*/[A-Za-z0-9/_.~-]+\z"
_USUAL_PATH = r"\Aimages(?:/[A-Za-z0-9_-][A-Za-z0-9_.-]*)+\z"
_MOST_BYTES, _MOST_SEGMENTS = 250, 16
_FILE_IDS = strings_of(
    ["original_input_image", "final_image", *[f"edit_turn{n}" for n in range(1, MAX_IMAGES + 1)]]
)
_NO_TEXTS = strings_of([])


class Block(NamedTuple):
    """Lines that follow each other in a JSONL file.

    Attributes:
        offset: where the first one begins in the file.
        number: its number, from 1.
        text: the bytes of all, line ends included; of a line that is too long to be kept, None.
    """

    offset: int
    number: int
    text: bytes | None

    def lines(self) -> Iterator[Line]:
        """Yield the lines, blank ones included."""
        if self.text is None:
            yield Line(self.offset, None, self.number)
            return
        offset = self.offset
        bodies = self.text.removesuffix(b"\n").split(b"\n")
        for number, body in enumerate(bodies, self.number):
            yield line_of(offset, body, number)
            offset += len(body) + 1


class Usual(NamedTuple):
    """Records of a block of usual lines.

    Attributes:
        records: as `RECORD_COLUMNS`.
        starts: where the line of each begins in the block.
    """

    records: pa.RecordBatch
    starts: Numbers


def split_blocks(read: Callable[[int], bytes]) -> Iterator[Block]:
    """Yield a file's lines as blocks of some MiB; no more than the longest line is held.

    Args:
        read: returns the next bytes, at most so many, b"" at the end; stands at the beginning.
    """
    offset, number = 0, 1
    rest, dropped = b"", 0  # of the line that has not ended yet: what is held, and how much is not
    while block := read(_BLOCK_BYTES):
        text = rest + block
        if dropped:
            end = text.find(b"\n") + 1
            if not end:
                dropped += len(text)
                continue
            yield Block(offset, number, None)
            offset, number, dropped, text = offset + dropped + end, number + 1, 0, text[end:]
        end = text.rfind(b"\n") + 1
        if end:
            yield Block(offset, number, text[:end])
            offset, number = offset + end, number + text.count(b"\n")
        rest = text[end:]
        if len(rest) > MAX_LINE_BYTES:
            dropped, rest = len(rest), b""
    if dropped:
        yield Block(offset, number, None)
    elif rest:
        yield Block(offset, number, rest)


def parsed(config: str, block: Block) -> Iterator[tuple[Block, Usual | None]]:
    """Yield a block in parts: of each its records, or None where one of its lines is not as usual.

    Args:
        config: sft, preference or multi_turn.
        block: lines of this config's JSONL file.
    """
    if block.text is None:
        yield block, None
        return
    usual = usual_columns(config, block.text)
    count = block.text.count(b"\n")
    if usual is not None or count <= _FEW_LINES:
        yield block, usual
        return
    half = block.text.rfind(b"\n", 0, len(block.text) // 2) + 1
    middle = half or block.text.index(b"\n") + 1  # the first line may be the longer half
    first, second = block.text[:middle], block.text[middle:]
    yield from parsed(config, block._replace(text=first))
    if second:
        number = block.number + first.count(b"\n")
        yield from parsed(config, Block(block.offset + middle, number, second))


def columns_of(records: Sequence[Record]) -> pa.RecordBatch:
    """Return records as `RECORD_COLUMNS`."""
    names = RECORD_COLUMNS.names
    columns = {name: [getattr(record, name) for record in records] for name in names}
    return pa.RecordBatch.from_pydict(columns, schema=RECORD_COLUMNS)


def usual_columns(config: str, text: bytes) -> Usual | None:
    """Return the records of lines, if all of them are as usual.

    None where any line is blank, bad, odd, or merely unusual: then `parse_line` must look at each.
    What is returned is what it would have returned.

    Args:
        config: sft, preference or multi_turn.
        text: lines of this config's JSONL file, each with its line end.
    """
    starts = _plain_lines(text)
    if starts is None:
        return None
    wire = _parsed(config, text)
    if wire is None or wire.num_rows != len(starts):
        return None
    made = _records(config, wire)
    is_usual = made is not None and _are_usual(made)
    return Usual(made, starts) if is_usual else None


def known_columns(config: str, text: bytes) -> pa.RecordBatch:
    """Return the records of lines of which it is known that `usual_columns` takes them."""
    wire = _parsed(config, text)
    made = None if wire is None else _records(config, wire)
    if made is None:
        raise AssertionError("these lines are not as usual")
    return made


def _records(config: str, wire: pa.RecordBatch) -> pa.RecordBatch | None:
    """Records, None where some are not of the usual form; URLs and paths may be anything."""
    return _multi_turn(wire) if config == "multi_turn" else _single_turn(wire)


def _are_usual(records: pa.RecordBatch) -> bool:
    """Whether all URLs and paths are there, and as nearly all are."""
    rejected = records["rejected"].values
    return (
        _are_usual_urls(records["input_url"])
        and _are_usual_paths(records["edited"].values)
        and (not len(rejected) or _are_usual_paths(rejected))
    )


def quoted(paths: pa.StringArray) -> pa.StringArray:
    """Return paths as they stand in URLs."""
    if not len(paths) or _are_usual_paths(paths):
        return paths
    urls = map(published_url, paths.to_pylist())
    return pa.array([url.removeprefix(PUBLISHED_BASE) for url in urls], _TEXT)


def below(base: str, names: pa.StringArray, end: str = "") -> pa.StringArray:
    """Return names, null for null, with this base before and this end behind each."""
    return pc.binary_join_element_wise(base, names, end, "")


def _plain_lines(text: bytes) -> Numbers | None:
    """Where each line begins, if each is braces around what no parser reads in its own way."""
    if not text.endswith(b"\n") or b"\r" in text:
        return None
    # Arrow reads numbers that are not JSON's. Found fast, and looked at more closely.
    if (b"NaN" in text or b"Inf" in text) and _NO_NUMBER.search(text):
        return None
    # A lone surrogate is mended; where one may be, is not looked at here.
    if b"\\u" in text and (b"\\ud" in text or b"\\uD" in text):
        return None
    try:
        text.decode()
    except UnicodeDecodeError:
        return None
    characters = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(characters == ord("\n"))
    starts = np.concatenate([[0], ends[:-1] + 1])
    # So no value goes over several lines, and as many rows as lines mean one in each.
    if (characters[starts] != ord("{")).any() or (characters[ends - 1] != ord("}")).any():
        return None
    sizes = ends - starts
    if sizes.max() > MAX_LINE_BYTES:
        return None
    for place in np.flatnonzero(sizes > _DEEP_BYTES):
        begin, end = int(starts[place]), int(ends[place])
        if end - begin > _MOST_DIGITS and _LONG_NUMBER.search(text, begin, end):
            return None
        if text.count(b"[", begin, end) + text.count(b"{", begin, end) > _DEEP_BRACKETS:
            return None
    return starts


def _parsed(config: str, text: bytes) -> pa.RecordBatch | None:
    # One thread and one block: lines come by the MiB, and more would be in each other's way.
    reading = pa_json.ReadOptions(use_threads=False, block_size=len(text) + 1)
    parsing = pa_json.ParseOptions(
        explicit_schema=_WIRE[config], unexpected_field_behavior="ignore"
    )
    try:
        table = pa_json.read_json(pa.BufferReader(text), reading, parsing)
    except pa.ArrowInvalid:
        return None
    batches = table.to_batches()
    return batches[0] if len(batches) == 1 else None


def _single_turn(wire: pa.RecordBatch) -> pa.RecordBatch | None:
    urls, edited, prompts = (
        wire[name] for name in ("open_image_input_url", "output_image", "text")
    )
    if prompts.null_count:
        return None
    if "rejected_images" in wire.schema.names:
        rejected = _rejected(wire["rejected_images"])
        if rejected is None:
            return None
    else:
        rejected = _lists(np.zeros(len(urls) + 1, np.int32), _NO_TEXTS)
    each = np.arange(len(urls) + 1, dtype=np.int32)
    columns = {
        "id": _ids(edited),
        "input_url": urls,
        "prompts": _lists(each, prompts),
        "short_prompt": wire["summarized_text"],
        "edited": _lists(each, edited),
        "rejected": rejected,
        "edit_type": wire["edit_type"],
    }
    return pa.RecordBatch.from_pydict(columns, schema=RECORD_COLUMNS)


def _rejected(lists: pa.ListArray) -> pa.ListArray | None:
    counts = _counts(lists)
    if counts is None or counts.min() < 1 or counts.max() > MAX_IMAGES:
        return None
    paths = pc.replace_substring_regex(lists.flatten(), r"\Anano-banana-300k/", "")
    return _lists(_edges(counts), paths)


def _multi_turn(wire: pa.RecordBatch) -> pa.RecordBatch | None:
    files, prompts = wire["files"], wire["metadata_edit_turn_prompts"]
    counts, turns = _counts(files), _counts(prompts)
    if counts is None or turns is None or counts.min() < 2 or turns.max() > MAX_IMAGES:  # noqa: PLR2004
        return None
    texts = prompts.flatten()
    if (turns != counts - 1).any() or texts.null_count:
        return None
    entries = files.flatten()
    names, urls = entries.field("id"), entries.field("url")
    edges = _edges(counts)
    # The turns, then the final image, then the original: the order of nearly all.
    left = np.repeat(edges[1:], counts) - np.arange(len(names)) - 1
    expected = np.where(left < 2, left, np.arange(len(names)) - np.repeat(edges[:-1], counts) + 2)  # noqa: PLR2004
    are_expected = pc.equal(names, _FILE_IDS.take(numbers_of(expected)))
    if entries.null_count or not pc.all(are_expected, skip_nulls=False).as_py():
        return None
    inputs = urls.take(numbers_of(edges[1:] - 1))
    edited = urls.take(numbers_of(np.flatnonzero(left > 0)))
    last = edited.take(numbers_of(_edges(turns)[1:] - 1))
    # As the release names them: `_turn3`, and behind it maybe `_retry1`, which stays.
    ids = pc.replace_substring_regex(_ids(last), r"_turn\d+((?:_retry\d+)?)\z", r"\1")
    none = pa.nulls(len(inputs), _TEXT)
    columns = {
        "id": ids,
        "input_url": inputs,
        "prompts": _lists(_edges(turns), texts),
        "short_prompt": none,
        "edited": _lists(_edges(turns), edited),
        "rejected": _lists(np.zeros(len(inputs) + 1, np.int32), _NO_TEXTS),
        "edit_type": none,
    }
    return pa.RecordBatch.from_pydict(columns, schema=RECORD_COLUMNS)


def _ids(paths: pa.StringArray) -> pa.StringArray:
    """Paths without `images/` and extension."""
    bare = pc.utf8_slice_codeunits(paths, len("images/"))
    return pc.replace_substring_regex(bare, r"\.[^./]*\z", "")


def _are_usual_urls(urls: pa.StringArray) -> bool:
    is_odd = pc.match_substring(urls, "/.")
    return _all_match(urls, _USUAL_URL) and not pc.any(is_odd, min_count=0).as_py()


def _are_usual_paths(paths: pa.StringArray) -> bool:
    depth = pc.max(pc.count_substring(paths, "/")).as_py()
    return _all_match(paths, _USUAL_PATH) and depth <= _MOST_SEGMENTS


def _all_match(texts: pa.StringArray, pattern: str) -> bool:
    """Whether texts, at least one, are all there, match, and are not long."""
    do_match = pc.all(pc.match_substring_regex(texts, pattern), skip_nulls=False)
    return bool(do_match.as_py() and pc.max(pc.binary_length(texts)).as_py() <= _MOST_BYTES)


def _counts(lists: pa.ListArray) -> Numbers | None:
    """How many entries each list has; None where a list is null."""
    return None if lists.null_count else np.diff(values_of(lists.offsets))


def _edges(counts: Numbers) -> Numbers:
    return np.concatenate([[0], np.cumsum(counts)])


def _lists(edges: np.ndarray[Any, Any], values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(numbers_of(edges.astype(np.int32)), values)
