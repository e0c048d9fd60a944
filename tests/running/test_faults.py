"""The fault suite: each way in which a server can fail, as a real answer to a real conversion.

One conversion meets all of them. Each ends in its reason, after so many requests, and no more.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
from collections import Counter
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pico_banana.convert.demo.sample_release import SampleRelease, make_sample_release
from pico_banana.missing import MissingReason
from tests import fake_cdn
from tests.commands import ledgers, pico_banana, release_flags, rows
from tests.fake_cdn import Answer, FakeCDN

RETRIES = 2
PLACEHOLDER = hashlib.sha256(b"a placeholder").hexdigest()
_wide = io.BytesIO()
Image.new("1", (30_000, 30_000)).save(_wide, "PNG")
PACKED = (("Content-Type", "image/png"), ("Content-Encoding", "gzip"))
IN_THE_PAST = formatdate(0, usegmt=True)
PERMANENT, ONCE_MORE, TRANSIENT = 1, 2, RETRIES + 1

# What the server answers, for ever; the reason; the requests that it gets.
FAULTS: dict[str, tuple[Answer, str, int]] = {
    "404": (fake_cdn.status(404), "not_found", PERMANENT),
    "410": (fake_cdn.status(410), "not_found", PERMANENT),
    "302 to photo_unavailable": (fake_cdn.placeholder(), "placeholder", PERMANENT),
    "200 with a known placeholder": (
        fake_cdn.body(b"a placeholder"),
        "placeholder",
        PERMANENT,
    ),
    "429": (fake_cdn.too_many(), "throttled", TRANSIENT),
    "429, Retry-After in seconds": (fake_cdn.too_many(0.01), "throttled", TRANSIENT),
    "429, Retry-After as a date": (fake_cdn.too_many(IN_THE_PAST), "throttled", TRANSIENT),
    "429, Retry-After that is neither": (fake_cdn.too_many("soon"), "throttled", TRANSIENT),
    "429, Retry-After beyond all calendars": (
        fake_cdn.too_many("Mon, 01 Jan 99999999999999999999 00:00:00 GMT"),
        "throttled",
        TRANSIENT,
    ),
    "500": (fake_cdn.status(500), "server_error", TRANSIENT),
    "502": (fake_cdn.status(502), "server_error", TRANSIENT),
    "503": (fake_cdn.status(503), "server_error", TRANSIENT),
    "504": (fake_cdn.status(504), "server_error", TRANSIENT),
    "408": (fake_cdn.status(408), "timeout", TRANSIENT),
    "a stall before the head": (fake_cdn.stall(-1), "timeout", TRANSIENT),
    "a stall at byte 0": (fake_cdn.stall(0), "timeout", TRANSIENT),
    "a stall in the middle": (fake_cdn.stall(500), "timeout", TRANSIENT),
    "a drip of 1 byte a second": (fake_cdn.drip(1), "timeout", TRANSIENT),
    "a reset before the head": (fake_cdn.reset(-1), "connection", TRANSIENT),
    "a cut body": (fake_cdn.cut(500), "truncated", TRANSIENT),
    "a Content-Length too large": (fake_cdn.wrong_length(7), "truncated", TRANSIENT),
    "a chunked body that is cut": (replace(fake_cdn.cut(500), length=None), "truncated", TRANSIENT),
    "a packed body that is cut": (
        replace(fake_cdn.gzip(), change=lambda whole: gzip.compress(whole)[:-20]),
        "truncated",
        TRANSIENT,
    ),
    "200 with HTML": (fake_cdn.body(b"<html>Sorry</html>"), "not_an_image", ONCE_MORE),
    "200 with nothing": (fake_cdn.body(b""), "not_an_image", ONCE_MORE),
    "flipped bits": (fake_cdn.corrupt(), "corrupt", ONCE_MORE),
    "an image published cut": (
        Answer(change=lambda whole: whole[: len(whole) // 2]),
        "corrupt",
        ONCE_MORE,
    ),
    "a lone 403": (fake_cdn.status(403), "forbidden", PERMANENT),
    "401": (fake_cdn.status(401), "forbidden", PERMANENT),
    "451": (fake_cdn.status(451), "forbidden", PERMANENT),
    "a redirect loop": (fake_cdn.redirect_loop(), "forbidden", PERMANENT),
    "a redirect to another host": (
        fake_cdn.redirect("https://example.com/a.png"),
        "forbidden_address",
        PERMANENT,
    ),
    "a redirect to 169.254.169.254": (
        fake_cdn.redirect("http://169.254.169.254/latest/meta-data"),
        "forbidden_address",
        PERMANENT,
    ),
    "a redirect to a file": (
        fake_cdn.redirect("file:///etc/passwd"),
        "forbidden_address",
        PERMANENT,
    ),
    "more bytes than max_image_bytes": (
        fake_cdn.body(bytes(200_001), "image/png"),
        "too_large",
        PERMANENT,
    ),
    "the same, chunked": (
        replace(fake_cdn.body(bytes(200_001), "image/png"), length=None),
        "too_large",
        PERMANENT,
    ),
    "a gzip bomb": (
        replace(fake_cdn.body(gzip.compress(bytes(50_000_000))), headers=PACKED),
        "too_large",
        PERMANENT,
    ),
    "more pixels than max_pixels": (
        fake_cdn.body(_wide.getvalue(), "image/png"),
        "too_many_pixels",
        PERMANENT,
    ),
}
ODD_BUT_WHOLE: dict[str, Answer] = {
    "gzip Content-Encoding": fake_cdn.gzip(),
    "chunked without length": fake_cdn.chunked(),
    "a redirect to the same host": fake_cdn.redirect("?again"),
    "a slow body": fake_cdn.drip(100_000),
}
FETCH = {
    "retries": RETRIES,
    "backoff_s": 0.05,
    "recovery_s": 0.01,
    "read_timeout_s": 0.5,
    "total_timeout_s": 1.5,
    "max_redirects": 3,
    "max_image_bytes": 200_000,
    "max_pixels": 100_000_000,
    "placeholder_sha256s": [PLACEHOLDER],
    "breaker_failures": 1000,
}
SFT = 2 * (len(FAULTS) + len(ODD_BUT_WHOLE)) + 10


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> SampleRelease:
    root = tmp_path_factory.mktemp("release")
    made = make_sample_release(root, sft=SFT, preference=0, multi_turn=0, size=(48, 32))
    assert max(path.stat().st_size for path in made.cdn.rglob("*.png")) < FETCH["max_image_bytes"]
    return made


def convert(release: SampleRelease, cdn: FakeCDN, out: Path, fetch: dict[str, Any], *words: str):
    settings = out.parent / "settings.yaml"
    settings.write_text(json.dumps({"fetch": fetch}), encoding="utf-8")
    return pico_banana(
        *("convert", "sft", *release_flags(release, f"{cdn.url}/cdn"), "--output", out),
        *("--records-per-shard", "40", "--settings", settings, *words),
    )


def edits(release: SampleRelease) -> list[str]:
    """The paths of the edited images, in the order of the records."""
    lines = (release.cdn / "jsonl" / "sft.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["output_image"] for line in lines]


def missing(out: Path) -> dict[str, dict[str, Any]]:
    """The missing images of an output by their file's name."""
    return {
        image["url"].rpartition("/")[2]: image
        for ledger in ledgers(out, "sft")
        for entry in ledger["missing"]
        for image in entry["images"]
    }


def test_each_fault_has_its_reason_and_its_number_of_requests(
    release: SampleRelease, tmp_path: Path
) -> None:
    # Every other one, so that the host is well.
    chosen = dict(zip([*FAULTS, *ODD_BUT_WHOLE], edits(release)[::2], strict=False))
    out = tmp_path / "out"
    with FakeCDN(("/cdn", release.cdn)) as cdn:
        for name, (answer, _, _) in FAULTS.items():
            cdn.fail(f"/cdn/{chosen[name]}", forever=answer)
        for name, answer in ODD_BUT_WHOLE.items():
            cdn.fail(f"/cdn/{chosen[name]}", answer)
        ended = convert(release, cdn, out, FETCH)
        asked = {name: cdn.count(f"/cdn/{path}") for name, path in chosen.items()}
        all_asked = cdn.count()
    assert ended.code == 1, ended.err
    found = missing(out)
    names = {path.rpartition("/")[2]: name for name, path in chosen.items()}
    assert {names[name]: image["reason"] for name, image in found.items()} == {
        name: reason for name, (_, reason, _) in FAULTS.items()
    }
    assert {name: asked[name] for name in FAULTS} == {
        name: requests for name, (_, _, requests) in FAULTS.items()
    }
    assert {names[name]: image["tries"] for name, image in found.items()} == {
        name: asked[name] for name in FAULTS
    }
    assert len(rows(out, "sft")) == SFT - len(FAULTS)
    assert pico_banana("verify", out).code == 0
    (run,) = [json.loads(path.read_bytes()) for path in (out / "_ledger" / "runs").iterdir()]
    (traffic,) = [one for host, one in run["hosts"].items() if host.startswith("http:")]
    assert traffic["asked"] == sum(requests for _, requests in traffic["durations"])
    # JSONL and the like are no images: they are not asked for through the budgets.
    assert traffic["asked"] == all_asked - cdn.count("/cdn/jsonl/*")
    assert traffic["missing"] == Counter(reason for _, reason, _ in FAULTS.values())
    assert traffic["got"] == SFT - len(FAULTS)
    print(f"{len(FAULTS)} faults, {all_asked} requests")  # noqa: T201


def test_a_burst_of_403_leaves_no_hole(release: SampleRelease, tmp_path: Path) -> None:
    with FakeCDN(("/cdn", release.cdn)) as cdn:
        cdn.fail("/cdn/images/*/[12]*", fake_cdn.status(403))
        ended = convert(release, cdn, tmp_path / "out", {**FETCH, "retries": 6}, "--limit", "40")
        assert len([one for one in cdn.log if one.status == 403]) > 5
    assert ended.code == 0, ended.err
    assert len(rows(tmp_path / "out", "sft")) == 40


DEAD = {
    "retries": 1,
    "backoff_s": 0.001,
    "breaker_failures": 5,
    "breaker_pause_s": 0.01,
    "breaker_pauses": 3,
}


def test_a_host_that_is_down_is_given_up_and_its_holes_can_be_filled(
    release: SampleRelease, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ("--concurrency", "4")
    with FakeCDN(("/cdn", release.cdn)) as cdn:
        cdn.fail("/cdn/images/*", forever=fake_cdn.reset(-1))
        ended = convert(release, cdn, out, DEAD, *words)
        assert cdn.count("/cdn/images/*") < 30
    assert ended.code == 1
    assert "given up for this run" in ended.err
    assert {image["reason"] for image in missing(out).values()} == {"connection"}
    assert len(missing(out)) == SFT
    assert pico_banana("verify", out).code == 0
    with FakeCDN(("/cdn", release.cdn)) as cdn:
        ended = convert(release, cdn, out, DEAD, "--retry-missing", *words)
    assert ended.code == 0, ended.err
    assert len(rows(out, "sft")) == SFT


def test_a_host_that_is_down_ends_a_run_early_with_max_missing(
    release: SampleRelease, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with FakeCDN(("/cdn", release.cdn)) as cdn:
        cdn.fail("/cdn/images/*", forever=fake_cdn.status(500))
        ended = convert(release, cdn, out, DEAD, "--concurrency", "4", "--max-missing", "3")
        assert cdn.count("/cdn/images/*") < 30
    assert ended.code == 1
    assert "more than --max-missing 3 allows" in ended.err
    assert len(ledgers(out, "sft")) < 3


def test_the_report_of_a_run(release: SampleRelease, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with FakeCDN(("/cdn", release.cdn)) as cdn:
        cdn.fail("*/1*.png", fake_cdn.status(500))
        cdn.fail(f"/cdn/{edits(release)[3]}", forever=fake_cdn.status(404))
        ended = convert(release, cdn, out, FETCH)
        host = cdn.url
    assert ended.code == 1
    for shown in (ended.err, pico_banana("verify", out).out):
        assert "asked" in shown
        assert "99% s" in shown
        assert host in shown
        assert "server_error" in shown
        assert "not_found" in shown
    (path,) = (out / "_ledger" / "runs").iterdir()
    run = json.loads(path.read_bytes())
    assert (run["ended"], run["workers"], run["configs"]) == ("done", 2, ["sft"])
    assert run["hosts"][host]["median_s"] > 0
    assert run["hosts"]["local files"]["got"] == run["hosts"]["local files"]["asked"] > 0
    (path.parent / "broken.json").write_bytes(b"{}")
    ended = pico_banana("verify", out)
    assert ended.code == 0
    assert "broken.json: no report of a run" in ended.out


def test_reasons_that_no_answer_provokes_are_few() -> None:
    """What is not in the suite is no answer of a server; `test_fetch` has these."""
    provoked = {reason for _, reason, _ in FAULTS.values()}
    assert {reason.value for reason in MissingReason} - provoked == {"not_listed", "unresolved"}


def test_the_document_says_what_the_suite_shows() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text(encoding="utf-8")
    stated = re.findall(r"^\| (.+) \| `(\w+)` \| (\d) \|$", text, re.MULTILINE)
    assert stated == [(name, reason, str(count)) for name, (_, reason, count) in FAULTS.items()]
    assert f"{', '.join(ODD_BUT_WHOLE)}." in text
