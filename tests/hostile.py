"""Lines as an attacker would send them, each with what must become of it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pico_banana.urls import PUBLISHED_BASE

PASSWORD = "p4ssw0rd"  # noqa: S105  (made up; it must be seen nowhere)
TEXT = (
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b2J [bold]bold[/bold] <script>alert(1)</script> "
    "](http://evil.example) `code` | cell | \u202etxt.exe\u2028 \x00 \r\n# heading\n"
    + "long "
    * 2000
)
Record = dict[str, Any]


class Line(NamedTuple):
    """A line of a JSONL file, and its fate: bad, missing or written."""

    raw: bytes
    fate: str


def with_edit(record: Record, path: Any) -> Record:
    """The record with another (last) edited image."""
    made = copy.deepcopy(record)
    if "files" not in made:
        return {**made, "output_image": path}
    for entry in made["files"]:
        if entry["id"] == "final_image":
            entry["url"] = path
    return made


def with_input(record: Record, url: Any) -> Record:
    """The record with another photo."""
    made = copy.deepcopy(record)
    if "files" not in made:
        return {**made, "open_image_input_url": url}
    for entry in made["files"]:
        if entry["id"] == "original_input_image":
            entry["url"] = url
    return made


def with_texts(record: Record, text: str) -> Record:
    """The record with other texts, and another edit type."""
    if "files" in record:
        turns = len(record["metadata_edit_turn_prompts"])
        return {**record, "metadata_edit_turn_prompts": [text] * turns}
    return {**record, "text": text, "summarized_text": text, "edit_type": text}


def edits(decoy: str, outside: str) -> Iterator[tuple[Any, str]]:
    """Paths of edited images, with their fates."""
    bad = [
        *("../../etc/passwd", "/etc/passwd", "//etc/passwd", "file:///etc/passwd", "~/../x", ""),
        *(f"{outside}/secret.png", f"file://{outside}/secret.png", f"{decoy}/secret.png"),
        *("images/../../x", "images/./x", "images//x", "images/a/../../../etc/passwd", "images/"),
        *("images\\..\\..\\x", "images/..\\..\\etc\\passwd", "\\\\host\\share\\x.png", ".."),
        *("images/a\nb.png", "images/a\rb.png", "images/a\x00b.png", "images/\x1b[31m.png"),
        *("images/a\x9bb.png", "images/" + "a" * 10_000, "s3://bucket/x.png", "http://[bad/x.png"),
        f"https://me:{PASSWORD}@ml-site.cdn-apple.com/datasets/pico-banana-300k/nb/images/x.png",
        f"{PUBLISHED_BASE}images/../../../x.png",
        f"{PUBLISHED_BASE}images/%2e%2e/%2e%2e/x.png",
        f"{PUBLISHED_BASE}images/%00.png",
        "https://ml-site.cdn-apple.com.evil.example/datasets/pico-banana-300k/nb/images/x.png",
        *(None, 5, ["images/x.png"], {"path": "/etc/passwd"}, True),
    ]
    missing = [
        *("images/..%2f..", "images/..%2f..%2fetc%2fpasswd", "images/%2e%2e/x", "images/%00"),
        *("images/-rf", "images/$(touch x).png", "images/[bold].png", "images/<script>.png"),
        *("images/a?b#c.png", "images/~root", "images/x::file", "images/x::/etc/passwd"),
        *("images/\u202egnp.exe", "images/" + "b" * 300 + ".png", "images/" + "c/" * 1000 + "d"),
        *("somewhere/else.png", "C:x.png", "secret.png", "images"),
    ]
    yield from [(path, "bad") for path in bad]
    yield from [(path, "missing") for path in missing]


def inputs(decoy: str, outside: str, listed: str) -> Iterator[tuple[Any, str]]:
    """URLs of photos, with their fates; `listed` is the file name of a photo that is known."""
    port = decoy.rpartition(":")[2]
    bad = [
        f"http://me:{PASSWORD}@farm1.staticflickr.com/1_o.jpg",
        f"http://farm1.staticflickr.com@127.0.0.1:{port}/secret.png",
        f"http://127.0.0.1:{port}\\@farm1.staticflickr.com/secret.png",
        *("http://@farm1.staticflickr.com/1_o.jpg", f"http://farm1.staticflickr.com:{PASSWORD}/"),
        *(f"file://{outside}/secret.png", "file:///etc/passwd", "ftp://127.0.0.1/x", "/etc/passwd"),
        *("javascript:alert(1)", "data:image/png;base64,AAAA", f"//127.0.0.1:{port}/x", "", "x"),
        *("http://farm1.staticflickr.com/../../secret.jpg", "http://farm1.staticflickr.com/%2E./x"),
        *(
            "http://farm1.staticflickr.com/a\nb",
            "http://farm1.staticflickr.com/a\x00b",
            "http:///x",
        ),
        *(
            "http://farm1.staticflickr.com/\x1b[31m",
            "http://farm1.staticflickr.com/a b",
            "http://[b",
        ),
        *("http://farm1.staticflickr.com/" + "a" * 10_000, "http://farm1.staticflickr.com:99999/x"),
        *("http://../secret.png", None, 5, [f"{decoy}/secret.png"]),
    ]
    missing = [
        *(f"{decoy}/secret.png", f"http://localhost:{port}/secret.png"),
        *(f"http://[::1]:{port}/secret.png", f"http://[::ffff:127.0.0.1]:{port}/secret.png"),
        *(f"http://2130706433:{port}/secret.png", f"http://0x7f.1:{port}/secret.png"),
        *(f"http://127.1:{port}/secret.png", "http://169.254.169.254/latest/meta-data/"),
        *("http://10.0.0.1/x.jpg", "http://evil.example/x.jpg", "https://8.8.8.8/x.jpg"),
        *("http://farm1.staticflickr.com.evil.example/x.jpg", "https://staticflickr.com/x.jpg"),
        *("http://farm1.staticflickr.com/no.jpg", "HTTP://FARM1.staticflickr.com/no.jpg"),
        *(
            f"http://farm9.staticflickr.com:{port}/secret.png",
            "http://farm9.staticflickr.com/x.png",
        ),
        # Listed, but with an ImageID that is a path.
        *("https://farm1.staticflickr.com/7/71_o.jpg", "https://farm1.staticflickr.com/7/72_o.jpg"),
    ]
    yield from [(url, "bad") for url in bad]
    yield from [(url, "missing") for url in missing]
    # Known by its name, and read from the folder.
    yield f"{decoy}/{listed}", "written"


def texts() -> list[str]:
    return [TEXT, "\x00", "\ud800 lone", "[/]", "x" * 10_000, "", "\n\n---\nlicense: mit\n---\n"]


def no_json(record: Record) -> Iterator[bytes]:
    """Lines that are no record whatever the config."""
    raw = json.dumps(record).encode()
    for constant in (b"NaN", b"Infinity", b"-Infinity"):
        yield raw[:-1] + b', "x": ' + constant + b"}"
    yield raw[:-1] + b', "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    yield b"[" * 100_000
    yield b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    yield from (b"[]", b"null", b"1", b'"text"', b"{}", b"{", raw[:-1], raw + raw, b"\xff\xfe{}")
    yield b'{"text": "\xed\xa0\x80"}'
    yield b"<script>alert(1)</script> [bold]"
    yield b"\x1b[2J\x00"
    yield raw[:-1] + b', "x": "' + b"a" * 5 * 2**20 + b'"}'
    many = [json.dumps(with_edit(record, "images/x.png")).encode()[:-1], b', "%s": [', b"]}"]
    field, entry = (b"files", b"{}") if "files" in record else (b"rejected_images", b'""')
    if field.decode() in record:
        yield many[0] + many[1] % field + b",".join([entry] * 1_000_000) + many[2]


def lines(record: Record, decoy: str, outside: str) -> list[Line]:
    """All lines made of one good record of a config."""
    photo = record.get("open_image_input_url") or next(
        entry["url"] for entry in record["files"] if entry["id"] == "original_input_image"
    )
    made: list[tuple[Record, str]] = [
        *[(with_edit(record, path), fate) for path, fate in edits(decoy, outside)],
        *[
            (with_input(record, url), fate)
            for url, fate in inputs(decoy, outside, photo.rpartition("/")[2])
        ],
        *[(with_texts(record, text), "written") for text in texts()],
    ]
    if "rejected_images" in record:
        made += [
            ({**record, "rejected_images": [path]}, fate) for path, fate in edits(decoy, outside)
        ]
    found = [Line(json.dumps(one).encode(), fate) for one, fate in made]
    return found + [Line(raw, "bad") for raw in no_json(record)]


def redirects(cdn: str, decoy: str, outside: str) -> list[str]:
    """Where a server may try to lead to."""
    port, own = decoy.rpartition(":")[2], cdn.rpartition(":")[2]
    names = [
        *("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "2130706433"),
        *("0x7f.1", "127.1", "0", "0.0.0.0", "127.0.0.1.", "[::]", "[::127.0.0.1]"),  # noqa: S104
        *("[64:ff9b::7f00:1]", "[2002:7f00:1::]", "127%2e0.0.1", "LOCALHOST", "①②⑦.0.0.1"),
        *(f"127.0.0.1:{own}@127.0.0.1", "me:word@127.0.0.1", "@127.0.0.1"),
    ]
    return [
        *[f"http://{name}:{port}/secret.png" for name in names],
        *(f"//127.0.0.1:{port}/secret.png", f"https://127.0.0.1:{own}/secret.png"),
        *("http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/", "http://192.168.1.1/"),
        *("http://172.16.0.1/", "http://100.64.0.1/", "http://[fd00::1]/", "http://[fe80::1]/"),
        *("file:///etc/passwd", f"file://{outside}/secret.png", "ftp://127.0.0.1/x", "data:,x"),
        *("http://farm9.staticflickr.com/secret.png", f"http://farm9.staticflickr.com:{port}/x"),
        *("http://evil.example/x.png", "https://ml-site.cdn-apple.com:8443/x", "http://[bad/"),
        *(
            f"http://127.0.0.1:{port}\\@farm1.staticflickr.com/x",
            "/cdn/images/hop.png",
            "gopher://x",
        ),
    ]


def redirected(record: Record, targets: Mapping[str, str]) -> list[Line]:
    """A record for each path that is led away."""
    return [Line(json.dumps(with_edit(record, path)).encode(), "missing") for path in targets]
