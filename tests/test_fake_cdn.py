"""The fake CDN misbehaves as told, and answers faultlessly otherwise."""

import contextlib
import email.utils
import gzip
import http.client
import io
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests import fake_cdn
from tests.fake_cdn import FakeCDN

BODY = bytes(range(256)) * 8
BIG = b"0123456789abcdef" * 2**20  # 16 MB: more than the socket buffers of both sides


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "cdn" / "images").mkdir(parents=True)
    (tmp_path / "cdn" / "images" / "1.png").write_bytes(BODY)
    (tmp_path / "cdn" / "a b%é.jsonl").write_bytes(b"{}\n")
    (tmp_path / "cdn" / "empty.png").touch()
    (tmp_path / "cdn" / "big.tar").write_bytes(BIG)
    (tmp_path / "secret").write_text("no")
    return tmp_path / "cdn"


@pytest.fixture
def cdn(folder):
    with FakeCDN(("/cdn", folder)) as served:
        yield served


def ask(cdn, path="/cdn/images/1.png", *, method="GET", **headers):
    """Return status, headers and body; redirects are not followed."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    with contextlib.closing(http.client.HTTPConnection(cdn.url[7:], timeout=20)) as connection:
        connection.request(method, path, headers=names)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


@contextlib.contextmanager
def open_socket(cdn, path="/cdn/images/1.png"):
    host, port = cdn.url[7:].split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        yield connection


def read_until(connection, ending):
    got = b""
    while not got.endswith(ending):
        piece = connection.recv(65536)
        assert piece, f"the connection ended after {got!r}"
        got += piece
    return got


def read_all(connection):
    with contextlib.suppress(ConnectionResetError):
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_faultless_get_and_head(cdn):
    code, headers, content = ask(cdn)
    assert (code, content) == (200, BODY)
    assert headers["Content-Length"] == str(len(BODY))
    assert headers["Content-Type"] == "image/png"
    assert headers["Accept-Ranges"] == "bytes"
    assert email.utils.parsedate_to_datetime(headers["Last-Modified"])
    head_code, head, nothing = ask(cdn, method="HEAD")
    assert (head_code, nothing) == (200, b"")
    assert {k: v for k, v in head.items() if k != "Date"} == {
        k: v for k, v in headers.items() if k != "Date"
    }
    assert ask(cdn, If_None_Match=headers["ETag"])[0] == 304
    assert ask(cdn, "/cdn/empty.png")[::2] == (200, b"")
    assert ask(cdn, "/cdn/big.tar")[2] == BIG
    assert ask(cdn, method="PUT")[0] == 405


def test_paths_are_decoded_once_and_stay_in_the_folder(cdn):
    assert ask(cdn, "/cdn/a%20b%25%C3%A9.jsonl?x=1")[2] == b"{}\n"
    assert cdn.log[0].path == "/cdn/a b%é.jsonl"
    assert cdn.log[0].raw_path == "/cdn/a%20b%25%C3%A9.jsonl?x=1"
    for path in (
        "/cdn/a%2520b%2525%25C3%25A9.jsonl",
        "/cdn/../secret",
        "/cdn/%2e%2e/secret",
        "/cdn/images%2f..%2f..%2fsecret",
        "/cdn//etc/hostname",
        "/cdn/%00",
        "/cdn/images",
        "/cdn/",
        "/elsewhere/images/1.png",
    ):
        assert ask(cdn, path)[0] == 404, path


def test_the_first_mount_that_has_the_file_serves_it(folder, tmp_path):
    (tmp_path / "over").mkdir()
    (tmp_path / "over" / "empty.png").write_bytes(b"over")
    with FakeCDN(("/cdn", tmp_path / "over"), ("/cdn/", folder)) as cdn:
        assert ask(cdn, "/cdn/empty.png")[2] == b"over"
        assert ask(cdn)[2] == BODY


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("0-9", slice(0, 10)),
        ("2000-", slice(2000, None)),
        ("-5", slice(-5, None)),
        ("2040-9999", slice(2040, None)),
        ("-9999", slice(0, None)),
    ],
)
def test_ranges(cdn, asked, part):
    code, headers, content = ask(cdn, Range=f"bytes={asked}")
    assert (code, content) == (206, BODY[part])
    start, stop, _ = part.indices(len(BODY))
    assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(BODY)}"


def test_ranges_that_are_not_served(cdn):
    code, headers, _ = ask(cdn, Range="bytes=2048-")
    assert (code, headers["Content-Range"]) == (416, "bytes */2048")
    assert ask(cdn, Range="bytes=0-1,4-5")[0] == 200
    assert ask(cdn, Range="bytes=0-1", If_Range='"stale"')[0] == 200
    cdn.ranges = False
    code, headers, content = ask(cdn, Range="bytes=0-1")
    assert (code, headers["Accept-Ranges"], content) == (200, "none", BODY)


def test_faults_come_in_turn_for_each_path(cdn):
    cdn.fail("*.png", fake_cdn.status(500), fake_cdn.too_many(7))
    for path in ("/cdn/images/1.png", "/cdn/empty.png"):
        assert [ask(cdn, path)[0] for _ in range(3)] == [500, 429, 200]
    cdn.fail("*/1.png", fake_cdn.status(404), forever=fake_cdn.status(410))
    assert [ask(cdn)[0] for _ in range(3)] == [404, 410, 410]
    assert [r.status for r in cdn.requests("*/1.png")] == [500, 429, 200, 404, 410, 410]
    cdn.clear()
    assert ask(cdn)[0] == 200
    assert cdn.count() == 1


def test_status_and_retry_after(cdn):
    date = email.utils.formatdate(2e9, usegmt=True)
    cdn.fail("*", fake_cdn.too_many(), fake_cdn.too_many(7), fake_cdn.too_many(date))
    assert [ask(cdn)[1]["Retry-After"] for _ in range(3)] == [None, "7", date]
    cdn.fail("*", fake_cdn.status(503, {"X-Cache": "miss"}))
    code, headers, _ = ask(cdn)
    assert (code, headers["X-Cache"]) == (503, "miss")


def test_redirects(cdn):
    cdn.fail("*/1.png", fake_cdn.redirect("/cdn/empty.png"), forever=fake_cdn.placeholder())
    code, headers, _ = ask(cdn)
    assert (code, headers["Location"]) == (302, "/cdn/empty.png")
    with urllib.request.urlopen(f"{cdn.url}/cdn/images/1.png") as answer:  # noqa: S310
        assert answer.url.endswith("/photo_unavailable.png")
        assert (answer.status, answer.headers["Content-Type"]) == (200, "image/png")
        png = answer.read()
    assert png == fake_cdn.PLACEHOLDER_PNG
    Image.open(io.BytesIO(png)).load()
    cdn.fail("*", forever=fake_cdn.redirect_loop())
    with pytest.raises(urllib.error.HTTPError, match="infinite loop") as caught:
        urllib.request.urlopen(f"{cdn.url}/cdn/images/1.png")  # noqa: S310
    caught.value.close()


def test_other_bodies(cdn):
    cdn.fail("*", fake_cdn.body(b"<html>"), fake_cdn.longer(b"more"), fake_cdn.corrupt())
    code, headers, content = ask(cdn)
    assert (code, headers["Content-Type"], content) == (200, "text/html", b"<html>")
    _, headers, content = ask(cdn)
    assert (headers["Content-Length"], content) == (str(len(BODY) + 4), BODY + b"more")
    content = ask(cdn)[2]
    assert len(content) == len(BODY)
    assert sum(a != b for a, b in zip(content, BODY, strict=True)) == 64
    cdn.fail("*", fake_cdn.gzip(), fake_cdn.chunked())
    _, headers, content = ask(cdn)
    assert headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(content) == BODY
    _, headers, content = ask(cdn)
    assert (headers["Content-Length"], headers["Transfer-Encoding"]) == (None, "chunked")
    assert content == BODY


@pytest.mark.parametrize("answer", [fake_cdn.cut(100), replace(fake_cdn.cut(100), length=None)])
def test_cut(cdn, answer):
    cdn.fail("*", answer)
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(cdn)
    assert caught.value.partial == BODY[:100]


def test_wrong_length(cdn):
    cdn.fail("*", fake_cdn.wrong_length(5), fake_cdn.wrong_length(-5))
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(cdn)
    assert (caught.value.partial, caught.value.expected) == (BODY, 5)
    with open_socket(cdn) as connection:
        head, _, content = read_all(connection).partition(b"\r\n\r\n")
    assert b"Content-Length: 2043" in head
    assert content == BODY


@pytest.mark.parametrize("sent", [-1, 0, 100])
def test_reset(cdn, sent):
    cdn.fail("*", fake_cdn.reset(sent))
    with open_socket(cdn) as connection, pytest.raises(ConnectionResetError):
        b"".join(iter(lambda: connection.recv(65536), b""))
    assert ask(cdn)[0] == 200


@pytest.mark.parametrize("sent", [-1, 0, 100])
def test_stall_ends_with_the_server(folder, sent):
    running = contextlib.ExitStack()
    cdn = running.enter_context(FakeCDN(("/cdn", folder)))
    cdn.fail("*", forever=fake_cdn.stall(sent))
    with running, open_socket(cdn) as connection:
        cdn.wait_for_request()
        if sent >= 0:
            read_until(connection, b"\r\n\r\n" + BODY[:sent])
        assert cdn.log[0].ended is None
        assert cdn.log[0].status == (None if sent < 0 else 200)
        stopping = time.monotonic()
        running.close()
        assert time.monotonic() - stopping < 1
        assert not read_all(connection)
    assert cdn.log[0].ended is not None


def test_drip(cdn):
    cdn.fail("*", fake_cdn.drip(bytes_per_s=len(BODY) * 5))
    started = time.monotonic()
    assert ask(cdn)[2] == BODY
    assert time.monotonic() - started > 0.1


def test_a_client_that_goes_away_leaves_no_trace(folder, capfd, caplog):
    with FakeCDN(("/cdn", folder)) as cdn:
        cdn.fail("*/1.png", forever=fake_cdn.stall(10))
        for path in ("/cdn/big.tar", "/cdn/images/1.png"):
            with open_socket(cdn, path) as connection:
                assert connection.recv(100)
        assert ask(cdn, "/cdn/empty.png")[0] == 200
    assert all(request.ended for request in cdn.log)
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_hold_peak_and_log(cdn):
    cdn.hold("*.png")
    with ThreadPoolExecutor(4) as threads:
        answers = [threads.submit(ask, cdn, X_Mine="yes") for _ in range(4)]
        cdn.wait_for_request("*.png", n=4)
        assert ask(cdn, "/cdn/a%20b%25%C3%A9.jsonl")[0] == 200  # others are not held
        assert not any(answer.done() for answer in answers)
        cdn.fail("*.png", fake_cdn.status(404))
        cdn.release()
        assert sorted(answer.result()[0] for answer in answers) == [200, 200, 200, 404]
    assert (cdn.peak(), cdn.peak("*.png"), cdn.peak("*.jsonl")) == (5, 4, 1)
    assert (cdn.peak("*.zip"), cdn.count("*.png")) == (0, 4)
    first = cdn.requests("*.png")[0]
    assert (first.method, first.headers["x-mine"]) == ("GET", "yes")
    assert first.started < first.ended
    assert ask(cdn)[0] == 200


def test_one_request_after_the_other_peaks_at_one(cdn):
    for _ in range(20):
        ask(cdn, "/cdn/big.tar", method="HEAD")
        ask(cdn)
    assert cdn.peak() == 1


def test_stopping_ends_what_is_held(folder):
    with ThreadPoolExecutor(1) as thread:
        with FakeCDN(("/cdn", folder)) as cdn:
            cdn.hold()
            waiting = thread.submit(ask, cdn)
            cdn.wait_for_request()
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            waiting.result()


def test_wait_for_request_gives_up(cdn):
    with pytest.raises(TimeoutError, match=r"2 requests for \*\.png must come, but got 0"):
        cdn.wait_for_request("*.png", n=2, timeout_s=0.01)


def test_delay(cdn):
    cdn.delay_s = 0.05
    ask(cdn)
    assert cdn.log[0].ended - cdn.log[0].started >= 0.05


@pytest.mark.parametrize("ending", ["stdin", signal.SIGTERM])
def test_a_process_of_its_own(folder, ending):
    command = [sys.executable, "-m", "tests.fake_cdn", "--mount", f"/cdn={folder}"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    root = Path(__file__).parent.parent
    with subprocess.Popen([*command, "--delay-ms", "1"], cwd=root, **pipes) as server:
        url = server.stdout.readline().strip()
        with urllib.request.urlopen(f"{url}/cdn/images/1.png") as answer:  # noqa: S310
            assert answer.read() == BODY
        if ending == "stdin":
            server.stdin.close()
        else:
            server.send_signal(ending)
        assert server.wait(timeout=20) == 0


def test_nothing_of_it_outlives_the_block(folder):
    before = threading.active_count()
    with FakeCDN(("/cdn", folder)) as cdn:
        ask(cdn)
    assert threading.active_count() == before
    with pytest.raises(ConnectionRefusedError):
        ask(cdn)
