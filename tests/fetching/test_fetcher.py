"""The fetch engine, through `Fetcher.in_order`, against a server that misbehaves."""

import gzip
import hashlib
import io
import pickle
import random
import socket
import subprocess
import sys
import textwrap
import threading
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import fsspec
import pytest
from PIL import Image

from pico_banana.fetching.fetcher import Fetcher
from pico_banana.fetching.inspect import Fetched
from pico_banana.fetching.sources import ImageRef, Place, Sources
from pico_banana.hosts.guard import AddressGuard
from pico_banana.missing import AskError, Missing, MissingReason
from pico_banana.open_images.index import Photo
from pico_banana.release.records import Record
from pico_banana.settings import Settings, build_settings
from pico_banana.urls import PUBLISHED_BASE
from tests import fake_cdn
from tests.fake_cdn import FakeCDN
from tests.forked import CONTEXT, process
from tests.paces import most_above_pace, watched_stalls

QUICK = {
    "retries": 3,
    "backoff_s": 0.001,
    "backoff_max_s": 0.01,
    "recovery_s": 0.05,
    "connect_timeout_s": 10,
    "read_timeout_s": 10,
    "total_timeout_s": 20,
}
IMAGE_ID = "0a1b2c3d4e5f6071"
PHOTO = Photo(IMAGE_ID, None, None, None, None, None, None, None, None)
INPUT_URL = "https://farm1.staticflickr.com/12/34_ab_o.jpg"
INPUT = Record("x", INPUT_URL, ("make it so",), ("images/positive-edit/0.png",))


def picture(seed, side=16, kind="PNG"):
    """Return an image of noise, which does not compress: a PNG has side² · 3 bytes and some."""
    stream = io.BytesIO()
    noise = random.Random(seed).randbytes(side * side * 3)
    Image.frombytes("RGB", (side, side), noise).save(stream, kind)
    return stream.getvalue()


def publish(folder, images):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in images.items():
        (folder / name).write_bytes(data)


class Release:
    """A folder that is served as CDN, bucket and Flickr."""

    def __init__(self, folder, server):
        self.folder, self.server = folder, server

    def settings(self, fetch=None, **arguments):
        mirrors = {
            "open-images-dataset.s3.amazonaws.com": f"{self.server.url}/bucket",
            "*.staticflickr.com": f"{self.server.url}/flickr/{{host}}",
        }
        arguments = {"cdn": f"{self.server.url}/cdn", "mirrors": mirrors, **arguments}
        return build_settings(Settings, arguments, {"fetch": {**QUICK, **(fetch or {})}})

    def fetch(self, refs, fetch=None, **arguments):
        """Return the results of single references, each a group of its own."""
        with Fetcher(self.settings(fetch, **arguments)) as fetcher:
            return [found for (found,) in fetcher.in_order([[[ref] for ref in refs]])]

    def fetch_input(self, photo=PHOTO, **arguments):
        ref = Sources(self.settings(**arguments)).input(INPUT, photo)
        return self.fetch([ref], **arguments)[0]

    def edited(self, *names):
        sources = Sources(self.settings())
        return [sources.edited(f"images/positive-edit/{name}.png") for name in names]

    def edits(self, count, side=16):
        """Publish `count` edits and return their references."""
        images = {f"{number}.png": picture(number, side) for number in range(count)}
        publish(self.folder / "cdn" / "images" / "positive-edit", images)
        return self.edited(*range(count))


@pytest.fixture
def server(tmp_path):
    mounts = [(f"/{name}", tmp_path / name) for name in ("cdn", "bucket", "flickr")]
    with FakeCDN(*mounts) as served:
        yield served


@pytest.fixture
def release(tmp_path, server):
    made = Release(tmp_path, server)
    made.edits(1)
    publish(tmp_path / "bucket" / "train", {f"{IMAGE_ID}.jpg": picture(1, kind="JPEG")})
    flickr = tmp_path / "flickr" / "farm1.staticflickr.com" / "12"
    publish(flickr, {"34_ab_o.jpg": picture(2, kind="JPEG")})
    return made


def reading(fetcher, batches):
    """Read everything in a thread, and return the future of the list of groups."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(lambda: list(fetcher.in_order(batches)))
    pool.shutdown(wait=False)
    return future


# ---- what comes ------------------------------------------------------------------------------


def test_an_image_comes_as_it_was_published(release, server):
    (ref,) = release.edited(0)
    (found,) = release.fetch([ref])
    data = picture(0)
    assert isinstance(found, Fetched)
    assert found.data == data
    assert found.url == f"{PUBLISHED_BASE}images/positive-edit/0.png"
    assert found.name == "0.png"
    sha256 = hashlib.sha256(data).hexdigest()
    known = {"sha256": sha256, "format": "PNG", "width": 16, "height": 16}
    assert (found.measures, found.mark) == (known, None)
    assert (found.way, found.tries, server.count()) == ("cdn", 1, 1)


@pytest.mark.parametrize(
    "answer",
    [
        fake_cdn.gzip(),
        fake_cdn.chunked(),
        fake_cdn.drip(20_000),
        fake_cdn.redirect("/cdn/images/positive-edit/../positive-edit/0.png?again=1", 301),
        fake_cdn.redirect("/-/nowhere/%C3%A9"),
    ],
    ids=["gzip", "chunked", "drip", "redirect", "redirect elsewhere"],
)
def test_odd_but_right_answers_are_taken(release, server, answer):
    server.fail("/cdn/*", answer)
    if dict(answer.headers).get("Location", "").startswith("/-/"):
        (found,) = release.fetch(release.edited(0))
        assert found.reason is MissingReason.NOT_FOUND
        assert found.address.endswith("/0.png")
    else:
        (found,) = release.fetch(release.edited(0))
        assert found.data == picture(0)
        assert found.tries == 1


def packed(encoding, pack):
    return fake_cdn.Answer(headers=(("Content-Encoding", encoding),), change=pack)


def raw_deflate(whole):
    packing = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packing.compress(whole) + packing.flush()


def in_members(whole):
    return b"".join(gzip.compress(whole[at : at + 50]) for at in range(0, len(whole), 50))


@pytest.mark.parametrize(
    "answer",
    [
        packed("gzip", in_members),
        packed("x-gzip", lambda whole: in_members(whole) + bytes(300)),
        packed("deflate", zlib.compress),
        packed("deflate", raw_deflate),
        packed("Deflate, identity", raw_deflate),
        packed("deflate", gzip.compress),
        packed("aws-chunked", bytes),
        packed("gzip,aws-chunked", gzip.compress),
        packed("", bytes),
        fake_cdn.Answer(headers=(("X-Policy", "a" * 20_000),)),
        fake_cdn.Answer(headers=(("Set-Cookie", f"a={'b' * 9_000}"),)),
    ],
)
@pytest.mark.parametrize("piece", [None, 4000])
def test_odd_forms_of_an_answer_are_taken(release, server, answer, piece):
    # In small pieces members end in the middle of one.
    slow = answer if piece is None else replace(answer, bytes_per_s=piece)
    server.fail("/cdn/*", forever=slow)
    (found,) = release.fetch(release.edited(0))
    assert (found.data, found.tries) == (picture(0), 1)


@pytest.mark.parametrize(
    ("status", "content_range", "is_taken"),
    [
        (203, None, True),
        (206, "bytes 0-{last}/{size}", True),
        (206, "bytes 0-{last}/*", False),
        (206, "bytes 0-9/{size}", False),
        (206, None, False),
    ],
)
def test_an_unasked_part_is_taken_where_it_is_the_whole(
    release, server, status, content_range, is_taken
):
    data = picture(0)
    headers = [("Content-Type", "image/png")]
    if content_range:
        said = content_range.format(last=len(data) - 1, size=len(data))
        headers.append(("Content-Range", said))
    server.fail("/cdn/*", forever=fake_cdn.Answer(status, tuple(headers), data))
    (found,) = release.fetch(release.edited(0), {"retries": 0})
    assert isinstance(found, Fetched) is is_taken
    if not is_taken:
        assert found.reason is MissingReason.SERVER_ERROR


def test_bytes_after_the_image_are_published_bytes_too(release, server):
    server.fail("/cdn/*", fake_cdn.longer(b"more"))
    (found,) = release.fetch(release.edited(0))
    assert found.data == picture(0) + b"more"


def test_names_are_quoted_once(release, server):
    publish(release.folder / "cdn/images/positive-edit", {"a b%20é#?.png": picture(3)})
    (found,) = release.fetch(release.edited("a b%20é#?"))
    assert found.data == picture(3)
    assert server.log[0].raw_path == "/cdn/images/positive-edit/a%20b%2520%C3%A9%23%3F.png"


# ---- why an image is missing -------------------------------------------------------------------

HTML = fake_cdn.body(b"<html>Sorry</html>")
OTHER_PLACES = [
    "http://example.com/0.png",
    "ftp://127.0.0.1/0.png",
    "file:///etc/passwd",
    "http://10.1.2.3/latest",
    "http://169.254.169.254/latest/meta-data",
    "http://[::1]/0.png",
    "http://[::ffff:127.0.0.1]:1/0.png",
    "http://user:word@127.0.0.1/0.png",
    "http://127.0.0.1:99999/0.png",
    "http://[bad/0.png",
]


@pytest.mark.parametrize(
    ("answer", "fetch", "reason", "requests"),
    [
        (fake_cdn.status(404), {}, "not_found", 1),
        (fake_cdn.status(410), {}, "not_found", 1),
        (fake_cdn.placeholder(), {}, "placeholder", 1),
        (fake_cdn.too_many(), {}, "throttled", 4),
        (fake_cdn.too_many("soon"), {}, "throttled", 4),
        (fake_cdn.too_many("²"), {}, "throttled", 4),
        (fake_cdn.too_many(0), {"retries": 0}, "throttled", 1),
        (fake_cdn.too_many(9999), {"retry_after_max_s": 0.01}, "throttled", 4),
        (fake_cdn.status(500), {}, "server_error", 4),
        (fake_cdn.status(503), {"retries": 1}, "server_error", 2),
        (fake_cdn.status(408), {"retries": 1}, "timeout", 2),
        (fake_cdn.stall(-1), {"retries": 1, "read_timeout_s": 0.1}, "timeout", 2),
        (fake_cdn.stall(10), {"retries": 1, "read_timeout_s": 0.1}, "timeout", 2),
        (fake_cdn.drip(200), {"retries": 1, "total_timeout_s": 0.3}, "timeout", 2),
        (fake_cdn.reset(-1), {}, "connection", 4),
        (fake_cdn.cut(100), {}, "truncated", 4),
        (fake_cdn.wrong_length(7), {}, "truncated", 4),
        (replace(fake_cdn.cut(100), length=None), {"retries": 1}, "truncated", 2),
        (HTML, {}, "not_an_image", 2),
        (fake_cdn.body(b""), {}, "not_an_image", 2),
        (fake_cdn.corrupt(), {}, "corrupt", 2),
        (fake_cdn.status(403), {}, "forbidden", 1),
        (fake_cdn.status(418), {}, "forbidden", 1),
        (fake_cdn.redirect_loop(), {"max_redirects": 3}, "forbidden", 4),
        (fake_cdn.Answer(), {"max_image_bytes": 500}, "too_large", 1),
        (fake_cdn.chunked(), {"max_image_bytes": 500}, "too_large", 1),
        (fake_cdn.Answer(), {"max_pixels": 255}, "too_many_pixels", 1),
        *[(fake_cdn.redirect(place), {}, "forbidden_address", 1) for place in OTHER_PLACES],
    ],
)
def test_the_reason_is_typed_and_only_passing_faults_are_tried_again(
    release, server, answer, fetch, reason, requests
):
    server.fail("/cdn/*", forever=answer)
    (ref,) = release.edited(0)
    (found,) = release.fetch([ref], fetch)
    assert isinstance(found, Missing)
    assert (found.reason.value, server.count()) == (reason, requests)
    # A redirect that is followed belongs to the try that met it.
    assert found.tries == server.count("/cdn/*")
    assert (found.url, found.address) == (ref.url, ref.places[0].address)
    assert found.detail


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (fake_cdn.redirect("/photo_unavailable.png?sig=p4ss#p4ss"), "photo_unavailable.png"),
        (fake_cdn.redirect("http://me:p4ss@h.example/?sig=p4ss"), "http://h.example/ may not"),
        (fake_cdn.redirect("http://10.0.0.1/?sig=p4ss"), "address 10.0.0.1 is private"),
        (fake_cdn.redirect("http://10.0.0.1:p4ss/"), "port"),
    ],
)
def test_details_hold_no_secret(release, server, answer, detail):
    server.fail("/cdn/*", forever=answer)
    (found,) = release.fetch(release.edited(0))
    assert detail in found.detail
    assert "=p4ss" not in found.detail
    assert "@" not in found.detail


def test_details_are_short_and_for_every_terminal():
    said = AskError(MissingReason.FORBIDDEN, "status 403 \x1b[31mred\x9b2J\n" + "a" * 10_000).detail
    assert said.startswith("status 403  [31mred 2J aaa")
    assert len(said) == 300


def test_a_known_placeholder_may_come_with_status_200(release, server):
    server.fail("/cdn/*", forever=fake_cdn.body(fake_cdn.PLACEHOLDER_PNG, "image/png"))
    digest = hashlib.sha256(fake_cdn.PLACEHOLDER_PNG).hexdigest()
    (found,) = release.fetch(release.edited(0), {"placeholder_sha256s": [digest]})
    assert (found.reason, found.tries, server.count()) == (MissingReason.PLACEHOLDER, 1, 1)


def test_a_content_length_that_is_always_too_small_cuts_the_image_for_good(release, server):
    server.fail("/cdn/*", forever=fake_cdn.wrong_length(-7))
    (found,) = release.fetch(release.edited(0))
    # What comes beyond the length may break the connection first, now and then.
    broken = (MissingReason.CONNECTION, MissingReason.TRUNCATED)
    assert found.reason is MissingReason.CORRUPT or found.reason in broken
    assert found.tries == server.count() <= 4


@pytest.mark.parametrize("answer", [fake_cdn.reset(0), fake_cdn.reset(100)])
def test_a_connection_that_breaks_in_the_body(release, server, answer):
    server.fail("/cdn/*", forever=answer)
    (found,) = release.fetch(release.edited(0))
    # Which of them is seen depends on how much arrives in one piece.
    assert found.reason in (MissingReason.CONNECTION, MissingReason.TRUNCATED)
    assert found.tries == server.count() == 4


def test_nobody_listens(release):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    ref = ImageRef(INPUT_URL, "0.png", (Place("cdn", f"http://127.0.0.1:{port}/0.png"),))
    (found,) = release.fetch([ref], {"retries": 2}, cdn=f"http://127.0.0.1:{port}")
    assert (found.reason, found.tries) == (MissingReason.CONNECTION, 3)


def test_no_place_could_be_tried(release, server):
    with Fetcher(release.settings()) as fetcher:
        ref = Sources(release.settings()).edited("somewhere/0.png")
        (((found,)),) = fetcher.in_order([[[ref]]])
    assert (found.reason, found.tries, found.address) == (MissingReason.UNRESOLVED, 0, None)
    assert server.count() == 0


@pytest.mark.parametrize("passing", [fake_cdn.too_many(), fake_cdn.status(502), fake_cdn.cut(9)])
def test_a_passing_fault_passes(release, server, passing):
    server.fail("/cdn/*", passing, passing)
    (found,) = release.fetch(release.edited(0))
    assert isinstance(found, Fetched)
    assert (found.tries, server.count()) == (3, 3)


def test_corrupt_bytes_are_fetched_once_more_whatever_came_before(release, server):
    server.fail("/cdn/*", fake_cdn.too_many(), fake_cdn.status(500), fake_cdn.corrupt())
    (found,) = release.fetch(release.edited(0))
    assert isinstance(found, Fetched)
    assert found.tries == 4


def test_a_host_that_is_not_named_has_no_private_address(release, server):
    port = server.url.rpartition(":")[2]
    server.fail("/cdn/*", fake_cdn.redirect(f"http://127.0.0.1:{port}/cdn/secret.png"))
    (ref,) = release.edited(0)
    ref = ref._replace(
        places=(Place("cdn", ref.places[0].address.replace("127.0.0.1", "localhost")),)
    )
    settings = {"cdn": f"http://localhost:{port}/cdn", "mirrors": {}}
    (found,) = release.fetch([ref], **settings)
    assert (found.reason, server.count()) == (MissingReason.FORBIDDEN_ADDRESS, 1)


def test_an_allowed_name_must_not_resolve_to_a_private_address(release, server, monkeypatch):
    port = int(server.url.rpartition(":")[2])
    entry = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [entry])
    ref = ImageRef(
        INPUT_URL, "a.jpg", (Place("flickr", f"http://farm1.staticflickr.com:{port}/a"),)
    )
    (found,) = release.fetch([ref], mirrors={})
    assert (found.reason, found.tries) == (MissingReason.FORBIDDEN_ADDRESS, 0)
    assert server.count() == 0


# ---- places ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "absent", [fake_cdn.status(404), fake_cdn.status(410), fake_cdn.placeholder()]
)
def test_the_next_source_is_tried_after_an_absence(release, server, absent):
    server.fail("/bucket/*", forever=absent)
    found = release.fetch_input(input_sources=["bucket", "flickr"])
    assert (found.way, found.tries, found.data) == ("flickr", 2, picture(2, kind="JPEG"))


@pytest.mark.parametrize(
    ("fault", "requests"),
    [(fake_cdn.too_many(), 4), (fake_cdn.status(403), 1), (HTML, 2), (fake_cdn.cut(99), 4)],
)
def test_the_next_source_is_not_tried_after_another_fault(release, server, fault, requests):
    server.fail("/bucket/*", forever=fault)
    found = release.fetch_input(input_sources=["bucket", "flickr"])
    assert isinstance(found, Missing)
    assert server.count("/bucket/*") == requests
    assert server.count("/flickr/*") == 0


def test_the_reason_is_that_of_the_last_place(release, server):
    server.fail("/bucket/*", forever=fake_cdn.status(404))
    server.fail("/flickr/*", forever=fake_cdn.placeholder())
    found = release.fetch_input(input_sources=["bucket", "flickr"])
    assert (found.reason, found.tries) == (MissingReason.PLACEHOLDER, 2)
    assert "/flickr/" in found.address


@pytest.mark.parametrize("below", [f"train_{IMAGE_ID[0]}", "train", ""])
def test_a_photo_is_found_in_the_folder(release, server, below):
    publish(release.folder / "photos" / below, {f"{IMAGE_ID}.jpg": picture(4, kind="JPEG")})
    found = release.fetch_input(open_images=release.folder / "photos")
    assert (found.way, found.data) == ("folder", picture(4, kind="JPEG"))
    assert server.count() == 0


def test_a_photo_that_the_folder_lacks_comes_from_the_bucket(release, server):
    (release.folder / "photos").mkdir(exist_ok=True)
    found = release.fetch_input(open_images=release.folder / "photos")
    assert (found.way, server.count("/bucket/*")) == ("bucket", 1)


def test_a_photo_that_only_the_folder_may_have_is_not_listed(release, server):
    found = release.fetch_input(open_images=release.folder, input_sources=["folder"])
    assert found.reason is MissingReason.NOT_LISTED
    assert server.count() == 0


def test_a_photo_without_image_id_is_not_listed(release, server):
    found = release.fetch_input(photo=None)
    assert (found.reason, found.tries, server.count()) == (MissingReason.NOT_LISTED, 0, 0)


def test_a_local_release(release):
    refs = [
        Sources(release.settings(cdn=release.folder / "cdn")).edited(f"images/{name}")
        for name in ("positive-edit/0.png", "positive-edit/9.png", "positive-edit")
    ]
    found, absent, folder = release.fetch(refs)
    assert (found.way, found.data) == ("cdn", picture(0))
    assert absent.reason is MissingReason.NOT_FOUND
    assert folder.reason is MissingReason.FORBIDDEN


def test_the_size_cap_holds_for_files_too(release):
    files = fsspec.filesystem("memory")
    files.pipe("/test-cap/images/0.png", picture(5))
    for cdn, path in (
        (release.folder / "cdn", "positive-edit/0.png"),
        ("memory://test-cap", "0.png"),
    ):
        ref = Sources(release.settings(cdn=cdn)).edited(f"images/{path}")
        (found,) = release.fetch([ref], {"max_image_bytes": 500})
        assert (found.reason, found.tries) == (MissingReason.TOO_LARGE, 1)
    files.rm("/test-cap", recursive=True)


def test_a_release_that_fsspec_reaches(release):
    files = fsspec.filesystem("memory")
    files.pipe("/test-fetch/images/a b.png", picture(5))
    sources = Sources(release.settings(cdn="memory://test-fetch"))
    found, absent = release.fetch(
        [sources.edited("images/a b.png"), sources.edited("images/c.png")]
    )
    files.rm("/test-fetch", recursive=True)
    assert (found.way, found.data) == ("cdn", picture(5))
    assert absent.reason is MissingReason.NOT_FOUND


# ---- order, sharing, concurrency ---------------------------------------------------------------


def test_order_is_kept_whatever_comes_first(release, server):
    refs = release.edits(60)
    chosen = random.Random(7)
    for number in range(60):
        pace = chosen.choice([4_000, 10_000, float("inf")])
        server.fail(f"*/{number}.png", fake_cdn.drip(pace))
    groups = [refs[0:1], refs[1:5], refs[5:5], refs[5:30], *[[ref] for ref in refs[30:]]]
    with Fetcher(release.settings()) as fetcher:
        got = [[found.name for found in group] for group in fetcher.in_order([groups])]
        assert server.count("*.png") == fetcher.tally.images == 60
    assert got == [[ref.name for ref in group] for group in groups]


def test_an_address_is_fetched_once_in_a_batch(release, server):
    refs = release.edits(12)
    absent = release.edited("absent")
    groups = [[refs[0], ref, refs[0], *absent] for ref in refs] * 2
    with Fetcher(release.settings(concurrency=2)) as fetcher:
        results = list(fetcher.in_order([groups]))
    assert [[found.url for found in group] for group in results] == [
        [ref.url for ref in group] for group in groups
    ]
    assert len({id(group[0]) for group in results}) == 1
    assert {request.path: server.count(request.path) for request in server.log} == {
        request.path: 1 for request in server.log
    }


@pytest.mark.parametrize("concurrency", [1, 5])
def test_so_many_are_under_way_at_once(release, server, concurrency):
    refs = release.edits(20)
    server.delay_s = 0.01
    release.fetch(refs, concurrency=concurrency)
    assert server.peak() == concurrency


def test_the_next_batch_is_requested_while_the_last_one_is_handed_over(release, server):
    refs = release.edits(8)
    server.hold("*/[4-7].png")
    with Fetcher(release.settings()) as fetcher:
        groups = fetcher.in_order([[[ref] for ref in refs[:4]], [[ref] for ref in refs[4:]]])
        first = next(groups)
        server.wait_for_request("*/[4-7].png", 4)
        server.release()
        rest = [first, *groups]
    assert [found.name for (found,) in rest] == [ref.name for ref in refs]


def test_results_are_taken_when_the_source_has_none_yet(release):
    refs = release.edits(4)
    got, nones = [], 0

    def batches():
        nonlocal nones
        yield [[refs[0]], [refs[1]]]
        while len(got) < 2:
            nones += 1
            yield None
        yield []
        yield [[]]
        yield [[refs[2], refs[3]]]

    with Fetcher(release.settings()) as fetcher:
        for group in fetcher.in_order(batches()):
            got.append([found.name for found in group])  # noqa: PERF401  (batches looks at it)
    assert got == [["0.png"], ["1.png"], [], ["2.png", "3.png"]]
    assert nones <= 2


@pytest.mark.parametrize("batches", [[], [[]], [None], [None, []]])
def test_nothing_to_fetch(release, batches):
    with Fetcher(release.settings()) as fetcher:
        assert list(fetcher.in_order(batches)) == []


def test_empty_groups_have_their_turn(release):
    with Fetcher(release.settings()) as fetcher:
        assert list(fetcher.in_order([[[]], [[], []]])) == [[], [], []]


# ---- the host's wishes -------------------------------------------------------------------------


@pytest.mark.parametrize("form", [pytest.param("seconds", marks=pytest.mark.long), "date"])
def test_retry_after_holds_for_the_whole_host(release, server, form):
    refs = release.edits(40)
    wish = 1 if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
    server.fail("*/1.png", fake_cdn.too_many(wish))
    budget = {"hosts": {"127.0.0.1": {"connections": 2}}}
    with watched_stalls() as stalls:
        found = release.fetch(refs, budget)
    assert all(isinstance(one, Fetched) for one in found)
    (throttled,) = [request for request in server.log if request.status == 429]
    pause_from = throttled.ended + 0.3 + 2 * stalls.longest_s
    pause_to = throttled.ended + 0.95
    assert not [one for one in server.log if pause_from < one.started < pause_to]
    assert max(one.started for one in server.log) > pause_to


def test_a_pace_is_kept_in_every_window(release, server):
    budget = {"hosts": {"127.0.0.1": {"connections": 8, "requests_per_second": 10}}}
    server.fail("*/[0-3].png", fake_cdn.status(500))  # a retry counts like any other request
    refs = release.edits(10)
    with watched_stalls() as stalls:
        release.fetch(refs, budget)
    assert server.count() == 14
    assert most_above_pace(server.log, 10, stalls) <= 2


def test_a_pace_is_kept_where_other_hosts_take_all_slots(release, server):
    refs = release.edits(60)
    with FakeCDN(("/cdn", release.folder / "cdn")) as paced:
        place = paced.url.replace("127.0.0.1", "localhost")
        settings = release.settings(
            {"hosts": {"localhost": {"connections": 64, "requests_per_second": 10}}},
            mirrors={"farm1.staticflickr.com": place},
            concurrency=4,
        )
        server.delay_s = 0.2
        slow = [
            ImageRef(
                ref.url,
                ref.name,
                (Place("flickr", ref.places[0].address.replace(server.url, place)),),
            )
            for ref in refs[:12]
        ]
        groups = [[one, other] for one, other in zip(slow, refs[20:32], strict=True)]
        with watched_stalls() as stalls, Fetcher(settings) as fetcher:
            assert all(
                isinstance(found, Fetched)
                for group in fetcher.in_order([groups])
                for found in group
            )
        assert most_above_pace(paced.log, 10, stalls) <= 2


def test_a_slow_host_does_not_hold_another_one_back(release, server):
    refs = release.edits(30)
    with FakeCDN(("/cdn", release.folder / "cdn")) as slow:
        place = slow.url.replace("127.0.0.1", "localhost")
        settings = release.settings(
            {"hosts": {"localhost": {"connections": 1}}},
            mirrors={"farm1.staticflickr.com": place},
            concurrency=16,
        )
        queued = [
            ref._replace(
                places=(Place("flickr", ref.places[0].address.replace(server.url, place)),)
            )
            for ref in refs[:10]
        ]
        slow.hold()
        with Fetcher(settings) as fetcher:
            done = reading(fetcher, [[[ref] for ref in queued + refs[10:]]])
            slow.wait_for_request()
            server.wait_for_request(n=20)
            assert slow.count() == 1
            slow.release()
            assert len(done.result(30)) == 30
        assert slow.peak() == 1


# ---- memory ------------------------------------------------------------------------------------

SIDE_300_KB = 316


def test_bytes_that_wait_for_the_reader_are_bounded(release, server):
    refs = release.edits(40, SIDE_300_KB)
    size, held = len(picture(0, SIDE_300_KB)), 2_000_000  # sizes differ by some bytes
    most = 0
    with Fetcher(release.settings({"held_bytes": held})) as fetcher:
        consumed = 0
        for group in fetcher.in_order([[[ref] for ref in refs]]):
            consumed += len(group[0].data)
            time.sleep(0.002)  # the reader's own work
            most = max(most, fetcher.tally.size_bytes - consumed)
        assert fetcher.tally.size_bytes == consumed
    assert held / 2 < most <= held + 1.01 * size
    assert server.count() <= 80


def test_no_deadlock_where_single_images_exceed_the_bound(release, server):
    refs = release.edits(12, SIDE_300_KB)
    server.fail("*/[369].png", fake_cdn.chunked(), fake_cdn.chunked())
    server.fail("*/[147].png", fake_cdn.cut(200_000), fake_cdn.status(500))
    groups = [[refs[-1], ref] for ref in refs] + [[refs[0]]]
    with Fetcher(release.settings({"held_bytes": 100_000})) as fetcher:
        results = list(fetcher.in_order([groups, groups]))
    assert [len(group) for group in results] == [len(group) for group in groups] * 2
    assert all(isinstance(found, Fetched) for group in results for found in group)


def test_asking_again_for_want_of_room_is_no_failure(release, server):
    refs = release.edits(6, SIDE_300_KB)
    server.fail("*/5.png", fake_cdn.Answer(), *[fake_cdn.status(500)] * 3)
    server.hold("*/[05].png")
    with Fetcher(release.settings({"held_bytes": 700_000})) as fetcher:
        done = reading(fetcher, [[[ref] for ref in refs]])
        server.wait_for_request(n=6)
        server.release()  # two of the others fill the room now
        results = [found for (found,) in done.result(30)]
    assert all(isinstance(found, Fetched) for found in results)
    assert sum(found.tries for found in results) == server.count()


def test_an_answer_of_unknown_length_is_not_asked_for_piece_by_piece(release, server):
    refs = release.edits(2, 600)  # 1 MB
    server.fail("*", forever=fake_cdn.chunked())
    server.hold("*/0.png")
    with Fetcher(release.settings({"held_bytes": 900_000})) as fetcher:
        done = reading(fetcher, [[[ref] for ref in refs]])
        server.wait_for_request("*/1.png")
        server.release()
        assert [type(found) for (found,) in done.result(30)] == [Fetched, Fetched]
    assert server.count("*/1.png") <= 3


# ---- stopping, processes -----------------------------------------------------------------------


def test_stopping_early_ends_fetching(release, server):
    refs = release.edits(60)
    server.hold("*/[1-9]*.png")
    with Fetcher(release.settings(concurrency=8)) as fetcher:
        groups = fetcher.in_order([[[ref] for ref in refs]])
        next(groups)
        server.wait_for_request(n=9)
        groups.close()
        server.release()
        before = server.count()
        (((found,)),) = fetcher.in_order([[[refs[0]]]])  # whatever was still to come has come now
        assert isinstance(found, Fetched)
    assert server.count() == before + 1 == 10


def test_stopping_early_gives_the_room_back(release, server):
    refs = release.edits(12, SIDE_300_KB)
    groups = [[[ref] for ref in refs]]
    with Fetcher(release.settings({"held_bytes": 1_000_000})) as fetcher:
        for _ in range(20):
            next(fetcher.in_order(groups))
        server.clear()
        server.hold("*/0.png")
        done = reading(fetcher, groups)
        server.wait_for_request("*/[1-9]*.png", 3)
        server.release()
        assert len(done.result(30)) == 12


def test_a_failing_source_of_batches_is_heard(release):
    refs = release.edits(3)

    def batches():
        yield [[ref] for ref in refs]
        raise LookupError

    with Fetcher(release.settings()) as fetcher:
        with pytest.raises(LookupError):
            list(fetcher.in_order(batches()))
        assert len(next(fetcher.in_order([[refs]]))) == 3


@pytest.fixture
def own_threads():
    """The threads of this test's fetchers, not those that other tests left."""
    others = threading.enumerate()
    return lambda: [
        thread.name
        for thread in threading.enumerate()
        if "pico-banana" in thread.name and thread not in others
    ]


def test_close_leaves_no_thread_and_use_starts_anew(release, own_threads):
    (ref,) = release.edited(0)
    fetcher = Fetcher(release.settings())
    assert own_threads() == []
    for _ in range(2):
        assert len(list(fetcher.in_order([[[ref]]]))) == 1
        assert own_threads()
        fetcher.close()
        assert own_threads() == []
    fetcher.close()


def test_close_ends_what_is_under_way(release, server, own_threads):
    refs = release.edits(9)
    server.hold("*/[1-9].png")
    fetcher = Fetcher(release.settings())
    groups = fetcher.in_order([[[ref] for ref in refs]])
    next(groups)
    server.wait_for_request(n=9)
    fetcher.close()
    groups.close()
    assert own_threads() == []
    server.release()


def fetch_in_a_process(fetcher, ref, answers):
    with fetcher:
        (((found,)),) = fetcher.in_order([[[ref]]])
    answers.put((found, fetcher.tally.images))


def test_a_fetcher_travels_to_another_process(release):
    (ref,) = release.edited(0)
    with Fetcher(release.settings()) as fetcher:
        (((here,)),) = fetcher.in_order([[[ref]]])
        copy = pickle.loads(pickle.dumps(fetcher))  # noqa: S301  (our own bytes)
        assert copy.tally.images == 0
        answers = CONTEXT.SimpleQueue()
        other = process(fetch_in_a_process, fetcher, ref, answers)
        other.start()
        assert answers.get() == (here, 1)
        other.join(30)
        assert other.exitcode == 0


SCRIPT = """
import os, sys
from pico_banana.fetching.fetcher import Fetcher
from pico_banana.settings import Settings, build_settings
from pico_banana.fetching.sources import Sources

fetch = {"backoff_s": 0.001, "read_timeout_s": 20}
settings = build_settings(Settings, {"cdn": sys.argv[1] + "/cdn"}, {"fetch": fetch})
sources = Sources(settings)
groups = [[sources.edited(f"images/positive-edit/{number}.png")] for number in range(8)]
fetcher = Fetcher(settings)
"""


def run_script(server, text):
    script = SCRIPT + textwrap.dedent(text)
    return subprocess.run(
        [sys.executable, "-c", script, server.url],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_forked_child_leaves_its_parents_connections_alone(release, server):
    release.edits(8)
    done = run_script(
        server,
        """
        import gc
        def tries():
            return [found.tries for (found,) in fetcher.in_order([groups])]
        assert tries() == [1] * 8
        for use in (tries, lambda: None, fetcher.close):
            for leave in (sys.exit, os._exit):
                pid = os.fork()
                if not pid:
                    assert use() in (None, [1] * 8)
                    gc.collect()
                    leave(0)
                assert os.waitpid(pid, 0)[1] == 0
                assert tries() == [1] * 8
        fetcher.close()
        """,
    )
    assert (done.returncode, done.stderr) == (0, "")
    starts = [request.started for request in server.log]
    assert max(starts) - min(starts) < 15  # no connection waited for its read timeout


def test_an_interpreter_ends_though_a_fetcher_was_not_closed(release, server):
    release.edits(8)
    server.hold("*/[1-9].png")
    done = run_script(
        server, "results = fetcher.in_order([groups])\nnext(results)\nprint('so far')"
    )
    server.release()
    assert (done.returncode, done.stdout, done.stderr) == (0, "so far\n", "")


# ---- all of it together ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_many_images_and_faults(release, server, seed):
    chosen = random.Random(seed)
    refs = release.edits(300)
    absent = set(chosen.sample(range(300), 10))
    faults = [
        fake_cdn.too_many(),
        fake_cdn.status(500),
        fake_cdn.cut(50),
        fake_cdn.reset(-1),
        fake_cdn.reset(50),
        fake_cdn.corrupt(),
        fake_cdn.gzip(),
        fake_cdn.chunked(),
        fake_cdn.wrong_length(-3),
    ]
    for number in chosen.sample(range(300), 60):
        server.fail(f"*/{number}.png", chosen.choice(faults))
    for number in absent:
        server.fail(f"*/{number}.png", forever=fake_cdn.status(404))
    order = chosen.choices(range(300), k=400)
    groups = [[refs[number] for number in order[at : at + 3]] for at in range(0, 400, 3)]
    cuts = sorted(chosen.sample(range(len(groups)), 3))
    batches = [groups[i:j] for i, j in zip([0, *cuts], [*cuts, len(groups)], strict=True)]
    fetch = {"held_bytes": chosen.choice([5_000, 50_000, 5_000_000])}
    with Fetcher(release.settings(fetch, concurrency=chosen.choice([1, 8, 64]))) as fetcher:
        results = [found for group in fetcher.in_order(batches) for found in group]
    assert [found.url for found in results] == [refs[number].url for number in order]
    missing = {found.url: found.reason.value for found in results if isinstance(found, Missing)}
    assert Counter(missing.values()).keys() == {"not_found"}
    assert missing.keys() == {refs[number].url for number in absent.intersection(order)}


def test_an_image_that_is_published_cut_is_corrupt(release, server):
    """The same cut bytes twice, each time with their full length: no further try helps."""
    whole = picture(0)
    server.fail("*/0.png", forever=fake_cdn.body(whole[: len(whole) // 2], "image/png"))
    release.edits(1)
    refs = release.edited("0")
    (found,) = release.fetch(refs)
    assert (found.reason, found.tries) == (MissingReason.CORRUPT, 2)


def test_a_proxy_may_have_a_private_address(release, server, monkeypatch):
    """A proxy's name is resolved in place of the host's."""
    port = server.url.rpartition(":")[2]
    monkeypatch.setenv("http_proxy", f"http://localhost:{port}")
    monkeypatch.setenv("no_proxy", "")
    mirrors = {"ml-site.cdn-apple.com": "http://cdn.example/cdn"}
    cdn = "https://ml-site.cdn-apple.com"
    refs = [
        Sources(release.settings(cdn=cdn, mirrors=mirrors)).edited("images/positive-edit/0.png")
    ]
    (found,) = release.fetch(refs, cdn=cdn, mirrors=mirrors)
    assert found.data == picture(0)


def test_a_mirror_may_have_the_host_in_its_own_name(release):
    settings = release.settings(mirrors={"*.staticflickr.com": "http://{host}.proxy.example/x"})
    guard = AddressGuard(Sources(settings).allowed_hosts(), Sources(settings).named_hosts())
    guard.check("http://farm5.staticflickr.com.proxy.example/x/1_a_o.jpg")
    with pytest.raises(AskError):
        guard.check("http://farm5.example.proxy.example/x/1_a_o.jpg")
