"""Turn JSONL lines of the release into frozen records; a bad line becomes a report, never a hole.

The wire format is the release's: see its README (github.com/apple/pico-banana-400k) and
`docs/release-format.md`. Nothing here reads a network or knows where a release lies.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import orjson

from pico_banana.errors import CONTROLS, bare_url
from pico_banana.urls import COMMON_PATH, PUBLISHED_BASE, photo_of

__all__ = [
    "MAX_IMAGES",
    "MAX_LINE_BYTES",
    "BadReason",
    "BadRecord",
    "Line",
    "Record",
    "line_of",
    "parse_line",
    "split_lines",
]


MAX_LINE_BYTES = 4 * 1024 * 1024
"""The longest line that is parsed, in bytes; published lines have less than 2,000."""

MAX_IMAGES = 64
"""The most edited or rejected images that one record may have; published ones have at most 5."""

_MAX_NAME = 4096
_MAX_DETAIL = 300  # it may quote what the line holds, and a plan keeps the details of all bad lines
_BLOCK_BYTES = 1024 * 1024
_REJECTED_PREFIX = "nano-banana-300k/"
_BASE_REMAINDER = PUBLISHED_BASE.removeprefix("https:")
_TURN = re.compile(r"_turn\d+(?=(?:_retry\d+)?$)")
# What every published URL looks like; anything else is looked at slowly.
_COMMON_URL = re.compile(r"https?://[a-z0-9][a-z0-9.-]{0,250}/[A-Za-z0-9/_.~-]{1,500}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_URL = re.compile(r"[\x00-\x20\x7f-\x9f\\]")


class BadReason(str, enum.Enum):
    """Why a line is no record."""

    NOT_JSON = "not_json"
    NOT_UTF8 = "not_utf8"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    BAD_PATH = "bad_path"
    BAD_URL = "bad_url"
    TURNS_MISMATCH = "turns_mismatch"
    LINE_TOO_LONG = "line_too_long"
    TOO_MANY_IMAGES = "too_many_images"
    TOO_DEEP = "too_deep"


class Line(NamedTuple):  # half of a dataclass's cost: a plan makes 386,000 of them
    """One line of a JSONL file: where its first byte lies, and its bytes without line end.

    `raw` is None for a line longer than `MAX_LINE_BYTES`, whose bytes are not kept; `number`
    counts from 1, blank lines too, and is None where reading began in the middle of the file.
    """

    offset: int
    raw: bytes | None
    number: int | None = None

    @property
    def where(self) -> str:
        """The line in words: "line 12" or "byte 3456"."""
        return f"byte {self.offset}" if self.number is None else f"line {self.number}"


class BadRecord(NamedTuple):
    """A line that is no record: where it lies, a typed reason, and what was wrong in words."""

    line: Line
    reason: BadReason
    detail: str


class Record(NamedTuple):
    """One good line of the release.

    Attributes:
        line: the line that it was read from, None where it was made otherwise.
        id: the edited (chosen, final) image's path without `images/`, extension and `_turnN`.
        input_url: the source photo's published URL.
        prompts: the instruction; one a turn in multi_turn.
        short_prompt: `summarized_text`, None where null or absent.
        edited: paths under the release's base: one image, or one a turn in multi_turn.
        rejected: paths under the release's base, preference only.
        edit_type: the release's string, None where null or absent, and in multi_turn.
        odd: what was mended or is unusual: "lone_surrogate".
    """

    id: str
    input_url: str
    prompts: tuple[str, ...]
    edited: tuple[str, ...]
    short_prompt: str | None = None
    rejected: tuple[str, ...] = ()
    edit_type: str | None = None
    odd: tuple[str, ...] = ()
    line: Line | None = None

    @property
    def photo(self) -> str:
        """The photo's file name: the last segment of its URL, without the query."""
        return photo_of(self.input_url)


class _BadLineError(Exception):
    def __init__(self, reason: BadReason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


Resolve = Callable[[str], "str | None"]


def _unresolved(_path: str) -> None:
    return None


def parse_line(config: str, line: Line, resolve: Resolve = _unresolved) -> Record | BadRecord:
    """Return the record that a line of this config's JSONL file holds, or why it is none.

    Args:
        config: sft, preference or multi_turn.
        line: the line; must not be blank.
        resolve: maps a path that does not start with `images/` to the one that does (the
            manifest's), or to None. Such a path is kept as it is where it is not known: it then
            cannot be fetched, and its image is *missing*.

    A lone surrogate in a text becomes U+FFFD, and the record is marked as odd.
    """
    if line.raw is None:
        detail = f"a line must have at most {MAX_LINE_BYTES} bytes, but this one has more"
        return BadRecord(line, BadReason.LINE_TOO_LONG, detail)
    try:
        fields, odd = _parse_json(line.raw)
        make = _multi_turn if config == "multi_turn" else _single_turn
        return make(fields, line, odd, resolve, config == "preference")
    except _BadLineError as bad:
        return BadRecord(line, bad.reason, bad.detail[:_MAX_DETAIL])


def _parse_json(raw: bytes) -> tuple[dict[str, Any], tuple[str, ...]]:
    odd: tuple[str, ...] = ()
    try:
        fields = orjson.loads(raw)
    except orjson.JSONDecodeError:  # rare: the stdlib accepts lone surrogates, and tells more
        fields, odd = _parse_json_slowly(raw)
    if not isinstance(fields, dict):
        raise _BadLineError(
            BadReason.NOT_AN_OBJECT, f"must be a JSON object, but is a {type(fields).__name__}"
        )
    return fields, odd


def _parse_json_slowly(raw: bytes) -> tuple[Any, tuple[str, ...]]:
    try:
        text = raw.decode("utf-8")
        return _mend(json.loads(text, parse_constant=_refuse_constant))
    except UnicodeDecodeError as error:
        raise _BadLineError(BadReason.NOT_UTF8, f"byte {error.start} is not UTF-8") from None
    except RecursionError:
        raise _BadLineError(BadReason.TOO_DEEP, "objects or lists are nested too deeply") from None
    except ValueError as error:
        raise _BadLineError(BadReason.NOT_JSON, str(error)) from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _mend(fields: Any) -> tuple[Any, tuple[str, ...]]:
    """Put U+FFFD where a text has a lone surrogate, which no Parquet string can hold."""
    text = json.dumps(fields, ensure_ascii=False)
    mended, count = _SURROGATE.subn("\ufffd", text)
    return (json.loads(mended), ("lone_surrogate",)) if count else (fields, ())


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if isinstance(value, str):
        return value
    if value is None:
        raise _BadLineError(BadReason.MISSING_FIELD, f"{name!r} is absent or null")
    raise _BadLineError(
        BadReason.WRONG_TYPE, f"{name!r} must be a string, but is a {type(value).__name__}"
    )


def _optional_text(fields: Mapping[str, Any], name: str) -> str | None:
    return None if fields.get(name) is None else _text(fields, name)


def _list(fields: Mapping[str, Any], name: str, most: int = MAX_IMAGES) -> list[Any]:
    value = fields.get(name)
    if value is None:
        raise _BadLineError(BadReason.MISSING_FIELD, f"{name!r} is absent or null")
    if not isinstance(value, list):
        raise _BadLineError(
            BadReason.WRONG_TYPE, f"{name!r} must be a list, but is a {type(value).__name__}"
        )
    if len(value) > most:
        raise _BadLineError(
            BadReason.TOO_MANY_IMAGES, f"{name!r} has {len(value)} entries, at most {most}"
        )
    return value


def _quoted(text: str) -> str:
    return repr(bare_url(text)[:80])  # it may hold a password


def _photo_url(url: str) -> str:
    if _COMMON_URL.fullmatch(url) and "/." not in url:
        return url
    if len(url) > _MAX_NAME or _NO_URL.search(url):
        raise _BadLineError(BadReason.BAD_URL, f"input URL {_quoted(url)} is no URL")
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port  # a port that is no number raises
    except ValueError:
        raise _BadLineError(
            BadReason.BAD_URL, "input URL must have a host's name and, if any, a port's number"
        ) from None
    if parts.scheme not in ("http", "https") or not (host or "").strip("."):
        raise _BadLineError(
            BadReason.BAD_URL, f"input URL must be an http(s) URL, but is {_quoted(url)}"
        )
    if "@" in parts.netloc:  # not shown: it may be a password
        raise _BadLineError(BadReason.BAD_URL, "input URL must not hold credentials")
    if any(segment in (".", "..") for segment in unquote(parts.path).split("/")):
        # A mirror may be a folder, which such a path would leave.
        raise _BadLineError(BadReason.BAD_URL, "input URL must not hold '.' or '..' in its path")
    return url


def _path(value: Any, name: str, resolve: Resolve) -> str:
    """Return a path below the release's base, from a path, a prefixed path or an own URL."""
    if not isinstance(value, str):
        raise _BadLineError(
            BadReason.WRONG_TYPE, f"{name!r} must hold a path, but holds a {type(value).__name__}"
        )
    path = value.removeprefix(_REJECTED_PREFIX)
    if COMMON_PATH.fullmatch(path):
        return path
    if path.startswith(("https://", "http://")):
        remainder = path.removeprefix("https:").removeprefix("http:")
        if not remainder.startswith(_BASE_REMAINDER):
            raise _BadLineError(
                BadReason.BAD_URL,
                f"{name!r} must lie under {PUBLISHED_BASE}, but is {_quoted(path)}",
            )
        path = unquote(remainder.removeprefix(_BASE_REMAINDER))
    if not _is_plain(path):
        raise _BadLineError(BadReason.BAD_PATH, f"{name!r} must be a path, but is {_quoted(path)}")
    if path.startswith("images/"):
        return path
    resolved = resolve(path)
    return resolved if resolved and _is_plain(resolved) else path


def _is_plain(path: str) -> bool:
    """Whether a path stays below its base, whatever file system or server reads it."""
    if not path or len(path) > _MAX_NAME or "\\" in path or "://" in path:
        return False
    if any(segment in ("", ".", "..") for segment in path.split("/")):
        return False
    return not CONTROLS.search(path)


def _id(path: str) -> str:
    stem, dot, extension = path.rpartition(".")
    return (stem if dot and "/" not in extension else path).removeprefix("images/")


def _usual(fields: dict[str, Any], line: Line, odd: tuple[str, ...]) -> Record | None:
    """An sft record as nearly all are, None for any other: a plan makes 257,730 of them."""
    url, edited, text = map(fields.get, ("open_image_input_url", "output_image", "text"))
    short_prompt, edit_type = fields.get("summarized_text"), fields.get("edit_type")
    if (
        isinstance(url, str)
        and isinstance(edited, str)
        and isinstance(text, str)
        and (short_prompt is None or isinstance(short_prompt, str))
        and (edit_type is None or isinstance(edit_type, str))
        and COMMON_PATH.fullmatch(edited)
        and _COMMON_URL.fullmatch(url)
        and "/." not in url
    ):
        return Record(_id(edited), url, (text,), (edited,), short_prompt, (), edit_type, odd, line)
    return None


def _single_turn(
    fields: dict[str, Any], line: Line, odd: tuple[str, ...], resolve: Resolve, preference: bool
) -> Record:
    if not preference and (usual := _usual(fields, line, odd)):
        return usual
    edited = _path(_text(fields, "output_image"), "output_image", resolve)
    rejected: tuple[str, ...] = ()
    if preference:
        value = fields.get("rejected_images")
        listed = [value] if isinstance(value, str) else _list(fields, "rejected_images")
        if not listed:
            raise _BadLineError(BadReason.MISSING_FIELD, "'rejected_images' is empty")
        rejected = tuple([_path(path, "rejected_images", resolve) for path in listed])
    return Record(
        id=_id(edited),
        input_url=_photo_url(_text(fields, "open_image_input_url")),
        prompts=(_text(fields, "text"),),
        edited=(edited,),
        short_prompt=_optional_text(fields, "summarized_text"),
        rejected=rejected,
        edit_type=_optional_text(fields, "edit_type"),
        odd=odd,
        line=line,
    )


def _multi_turn(
    fields: dict[str, Any], line: Line, odd: tuple[str, ...], resolve: Resolve, _preference: bool
) -> Record:
    urls = _files(_list(fields, "files", MAX_IMAGES + 1))  # the original is there too
    for required in ("final_image", "original_input_image"):
        if required not in urls:
            raise _BadLineError(BadReason.MISSING_FIELD, f"'files' has no {required!r}")
    turns = sum(name.startswith("edit_turn") for name in urls)
    names = [f"edit_turn{turn}" for turn in range(1, turns + 1)] + ["final_image"]
    if any(name not in urls for name in names):
        raise _BadLineError(BadReason.TURNS_MISMATCH, f"'files' lacks a turn: it has {[*urls]}")
    prompts = _list(fields, "metadata_edit_turn_prompts")
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise _BadLineError(BadReason.WRONG_TYPE, "a turn's prompt is no string")
    if len(prompts) != len(names):
        raise _BadLineError(
            BadReason.TURNS_MISMATCH, f"{len(names)} edited images, but {len(prompts)} prompts"
        )
    edited = tuple([_path(urls[name], name, resolve) for name in names])
    return Record(
        id=_TURN.sub("", _id(edited[-1])),
        input_url=_photo_url(urls["original_input_image"]),
        prompts=tuple(prompts),
        edited=edited,
        odd=odd,
        line=line,
    )


def _files(entries: list[Any]) -> dict[str, str]:
    urls: dict[str, str] = {}
    for entry in entries:
        if not isinstance(entry, dict):
            raise _BadLineError(BadReason.WRONG_TYPE, "an entry of 'files' is no object")
        name = _text(entry, "id")
        if name in urls:
            raise _BadLineError(BadReason.TURNS_MISMATCH, f"'files' has {name!r} twice")
        urls[name] = _text(entry, "url")
    return urls


def split_lines(
    read: Callable[[int], bytes], start: int = 0, end: int | None = None
) -> Iterator[Line]:
    """Yield the lines whose first byte lies in [start, end), blank ones included, in file order.

    Args:
        read: returns the next bytes, at most so many, b"" at the end; must stand at `start`, or
            one byte before it where `start > 0`, so that a line which begins at `start` is told
            from one that began before.
        start: offset of the range's first byte.
        end: offset after the range's last byte; None reads to the end.

    Lines are numbered where `start` is 0. Memory stays bounded: of a line longer than
    `MAX_LINE_BYTES` only its offset is kept.
    """
    if end is not None and end <= start:
        return
    offset = start - 1 if start else 0
    number = None if start else 1
    skipping = start > 0
    pending: list[bytes] = []
    pending_bytes = 0
    while block := read(_BLOCK_BYTES):
        *ended, rest = block.split(b"\n")
        for part in ended:
            size = pending_bytes + len(part)
            if not skipping:
                pending.append(part)
                yield _line(offset, pending, size, number)
                number = None if number is None else number + 1
            skipping, pending, pending_bytes = False, [], 0
            offset += size + 1
            if end is not None and offset >= end:
                return
        pending_bytes += len(rest)
        if not skipping and pending_bytes <= MAX_LINE_BYTES:
            pending.append(rest)
        elif end is not None and offset + pending_bytes >= end:
            break  # no other line begins in the range: the end of a huge one is nobody's to read
    if pending_bytes and not skipping:
        yield _line(offset, pending, pending_bytes, number)


def line_of(offset: int, body: bytes, number: int) -> Line:
    """Return the line that begins at this offset and has these bytes, a carriage return maybe."""
    return _line(offset, [body], len(body), number)


_BOM = b"\xef\xbb\xbf"


def _line(offset: int, pending: list[bytes], size: int, number: int | None) -> Line:
    if size > MAX_LINE_BYTES:
        return Line(offset, None, number)
    raw = pending[0] if len(pending) == 1 else b"".join(pending)
    if offset == 0:
        raw = raw.removeprefix(_BOM)
    return Line(offset, raw.removesuffix(b"\r"), number)
