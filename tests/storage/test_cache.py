"""A file that is fetched once goes on where a fetch broke off, and is one version to the bit."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import os
import random
import resource
import signal
import time
from gzip import compress
from pathlib import Path
from types import SimpleNamespace

import pytest

from pico_banana.errors import ReleaseError
from pico_banana.storage.remote import RemoteFile
from tests.fake_cdn import (
    Answer,
    FakeCDN,
    chunked,
    cut,
    drip,
    gzip,
    longer,
    reset,
    stall,
    status,
    wrong_length,
)
from tests.forked import CONTEXT, process

MB = 1024 * 1024
SIZE = 300_000
HEAD = Answer()  # each look-up is a HEAD
CUT = 100_000


def version(number, size=SIZE):
    return random.Random(number).randbytes(size)


def put(folder, number, size=SIZE):
    """Publish a version of the file; its time tells it apart, whatever the clock's steps are."""
    path = folder / "new"
    path.write_bytes(version(number, size))
    os.utime(path, (1_700_000_000 + number, 1_700_000_000 + number))
    path.replace(folder / "list.csv")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """Have the waits between tries last a hundredth."""
    monkeypatch.setattr(
        "pico_banana.storage.remote.time",
        SimpleNamespace(sleep=lambda wait_s: time.sleep(wait_s / 100)),
    )


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "served"
    made.mkdir()
    put(made, 1)
    return made


@pytest.fixture
def cdn(folder):
    with FakeCDN(("/lists", folder)) as served:
        yield served


def remote(cdn, query=""):
    return RemoteFile(f"{cdn.url}/lists/list.csv{query}", {})


def keep(cdn, told=None, query=""):
    """The kept bytes; `told` gets what progress was told."""
    progress = None if told is None else lambda done, total: told.append((done, total))
    return Path(remote(cdn, query).kept("lists", progress)).read_bytes()


def asked(cdn):
    """From which byte on each GET asked, in order."""
    ranges = [one.headers.get("Range", "bytes=0-") for one in cdn.log if one.method == "GET"]
    assert all(asked.startswith("bytes=") and asked.endswith("-") for asked in ranges)
    return [int(asked[len("bytes=") : -1]) for asked in ranges]


def left():
    """What lies in the cache beside locks, as names and sizes."""
    base = Path(os.environ["PICO_BANANA_CACHE"]) / "lists"
    found = {path.name: path.stat().st_size for path in base.iterdir()}
    return {name: size for name, size in found.items() if not name.endswith(".lock")}


def part():
    """The size of the one partial file."""
    ((name, size),) = left().items()
    assert name.startswith(".")
    return size


# Connections that break


@pytest.mark.parametrize("seed", range(4))
def test_no_byte_before_a_cut_is_asked_again(cdn, seed):
    rng = random.Random(seed)
    sizes = [rng.randrange(1, SIZE // 5) for _ in range(4)]
    faults = [dataclasses.replace(cut(size), length=rng.choice([0, None])) for size in sizes]
    cdn.fail("*", HEAD, *faults)
    told = []
    assert keep(cdn, told) == version(1)
    assert asked(cdn) == [0, *itertools.accumulate(sizes)]
    # A server sends the whole instead, where the file is no longer this one.
    wanted = {one.headers["If-Range"] for one in cdn.log if "Range" in one.headers}
    assert wanted == {remote(cdn).identity()}
    assert len(left()) == 1
    # What is told begins at what is there, and never goes back.
    assert told == sorted(told)
    assert told[0] == (0, SIZE)
    assert told[-1] == (SIZE, SIZE)
    for at in itertools.accumulate(sizes):
        assert told.count((at, SIZE)) == 2  # before the cut, and after it


def test_a_reset_loses_little(cdn):
    cdn.fail("*", HEAD, reset(CUT), status(503), reset(-1))
    assert keep(cdn) == version(1)
    starts = asked(cdn)
    assert starts[0] == 0
    assert starts[1] <= CUT  # what was under way when the connection broke is lost
    assert starts[1:] == [starts[1]] * 3


def test_a_server_that_falls_silent(cdn, monkeypatch):
    monkeypatch.setattr("pico_banana.storage.remote._SILENCE_S", 0.2)
    cdn.fail("*", HEAD, stall(CUT), stall(0), stall(-1))
    assert keep(cdn) == version(1)
    assert asked(cdn) == [0, CUT, CUT, CUT]


def test_a_fetch_that_goes_on_is_never_given_up(folder, cdn):
    """Of tries in a row that bring nothing there are five; these bring more than a MB each."""
    size = 12 * MB
    put(folder, 1, size)
    cdn.fail("*", HEAD, *[cut(MB + 99) for _ in range(9)])
    assert keep(cdn) == version(1, size)
    assert asked(cdn) == [number * (MB + 99) for number in range(10)]


def test_a_fetch_that_does_not_go_on_is_given_up_and_continued_later(cdn):
    cdn.fail("*", HEAD, forever=cut(1000))
    with pytest.raises(ReleaseError, match=r"/lists/list\.csv cannot be fetched: ") as caught:
        keep(cdn)
    assert caught.value.url == f"{cdn.url}/lists/list.csv"
    assert asked(cdn) == [0, 1000, 2000, 3000, 4000]
    assert part() == 5000
    cdn.clear()
    told = []
    assert keep(cdn, told) == version(1)
    assert asked(cdn) == [5000]
    assert told[0] == (5000, SIZE)
    assert len(left()) == 1


def test_a_signed_address_is_not_shown(cdn):
    cdn.fail("*", HEAD, cut(CUT), forever=status(403))
    with pytest.raises(ReleaseError, match="403") as caught:
        keep(cdn, query="?X-Signature=secret")
    assert caught.value.__cause__ is None
    for said in (str(caught.value), repr(caught.value), *left()):
        assert "secret" not in said
        assert "Signature" not in said
    cdn.clear()
    assert keep(cdn, query="?X-Signature=secret") == version(1)
    assert asked(cdn) == [CUT]


def test_a_file_that_goes_away_meanwhile(cdn):
    cdn.fail("*", HEAD, cut(CUT), forever=status(404))
    with pytest.raises(ReleaseError, match=r"list\.csv cannot be fetched: FileNotFoundError"):
        keep(cdn)
    assert cdn.count() == 3


# Processes that end


def kept_elsewhere(url, end, largest_file, said):
    """Keep a file, tell how far it is, and at last its path; runs in a process of its own."""
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    def progress(done, total):
        said.send((done, total))
        if end and done >= end:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        said.send(RemoteFile(url, {}).kept("lists", progress))
    except ReleaseError as error:
        said.send(str(error))
        raise SystemExit(1) from None


class Started:
    """A process that keeps a file, and kills itself once so many bytes have come."""

    def __init__(self, url, end=0, largest_file=0):
        self._heard, said = CONTEXT.Pipe(duplex=False)
        self._process = process(kept_elsewhere, url, end, largest_file, said)
        self._process.start()
        said.close()

    def wait_for(self, done):
        while self._heard.recv()[0] != done:
            pass

    def kill(self):
        self._process.kill()
        self._process.join()

    def ended(self):
        """Exit code, what progress was told, and its path or what is wrong."""
        lines = []
        with contextlib.suppress(EOFError):
            while self._heard.poll(60):
                lines.append(self._heard.recv())
        self._process.join(60)
        last = lines.pop() if lines and isinstance(lines[-1], str) else ""
        return self._process.exitcode, lines, last


def killed(cdn, at=CUT):
    """Have a process killed when just so many bytes have come."""
    cdn.fail("*", HEAD, stall(at))
    assert Started(f"{cdn.url}/lists/list.csv", at).ended()[0] == -signal.SIGKILL
    cdn.clear()
    assert part() == at


@pytest.mark.parametrize("at", [1, CUT, SIZE - 1])
def test_a_killed_process_is_continued_by_the_next(cdn, at):
    killed(cdn, at)
    code, told, path = Started(f"{cdn.url}/lists/list.csv").ended()
    assert code == 0
    assert Path(path).read_bytes() == version(1)
    assert asked(cdn) == [at]
    assert told[0] == (at, SIZE)
    assert left() == {Path(path).name: SIZE}


def test_many_killed_processes(cdn):
    for at in range(50_000, SIZE, 50_000):
        cdn.fail("*", HEAD, stall(50_000))
        assert Started(f"{cdn.url}/lists/list.csv", at).ended()[0] == -signal.SIGKILL
        assert part() == at
    assert keep(cdn) == version(1)
    assert asked(cdn) == list(range(0, SIZE, 50_000))


def test_killed_before_the_whole_got_its_name(cdn):
    cdn.fail("*", HEAD, dataclasses.replace(Answer(), end="stall"))
    assert Started(f"{cdn.url}/lists/list.csv", SIZE).ended()[0] == -signal.SIGKILL
    assert part() == SIZE
    cdn.clear()
    told = []
    assert keep(cdn, told) == version(1)
    assert asked(cdn) == [SIZE]
    assert set(told) == {(SIZE, SIZE)}
    assert [one.status for one in cdn.log if one.method == "GET"] == [416]


def test_who_waits_goes_on_where_the_first_is_killed(cdn):
    cdn.fail("*", HEAD, stall(CUT))
    first = Started(f"{cdn.url}/lists/list.csv")
    first.wait_for(CUT)
    cdn.fail("*", HEAD)
    second = Started(f"{cdn.url}/lists/list.csv")
    cdn.wait_for_request(n=3)  # it has looked the file up, and waits for the first
    first.kill()
    code, told, path = second.ended()
    assert code == 0
    assert told[0] == (CUT, SIZE)
    assert Path(path).read_bytes() == version(1)
    assert asked(cdn) == [0, CUT]


def test_processes_at_once_fetch_once_and_continue_once(cdn):
    killed(cdn)
    cdn.hold()
    processes = [Started(f"{cdn.url}/lists/list.csv") for _ in range(4)]
    try:
        cdn.wait_for_request(n=4)
    finally:
        cdn.release()
    paths = {process.ended()[2] for process in processes}
    assert [Path(path).read_bytes() for path in paths] == [version(1)]
    assert asked(cdn) == [CUT]


def test_a_full_disk_says_so_and_is_continued(cdn):
    code, _, said = Started(f"{cdn.url}/lists/list.csv", largest_file=CUT).ended()
    assert code == 1
    assert f"the cache folder {os.environ['PICO_BANANA_CACHE']} cannot be written: " in said
    assert f"[Errno {errno.EFBIG}]" in said
    assert len(asked(cdn)) == 1
    size = part()
    assert 0 < size <= CUT
    cdn.clear()
    assert keep(cdn) == version(1)
    assert asked(cdn) == [size]


@pytest.fixture
def hears_sigint():
    """Hear SIGINT also where a shell began the tests in its background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("hears_sigint")
def test_an_interrupted_fetch_writes_no_more_and_is_continued(cdn):
    """As in a notebook: the process lives on."""
    cdn.fail("*", HEAD, drip(200_000))

    def progress(done, _):
        if done:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        remote(cdn).kept("lists", progress)
    size = part()
    assert keep(cdn) == version(1)
    assert asked(cdn) == [0, size]
    assert list(left().values()) == [SIZE]


# Files that change


@pytest.mark.parametrize("size", [SIZE, SIZE + 5, CUT - 5])
@pytest.mark.parametrize("kills", [False, True])
@pytest.mark.parametrize("gone", ["", "ETag", "Last-Modified"])
def test_a_file_that_changes_meanwhile_is_its_new_version(folder, cdn, size, kills, gone):
    """Also where the server names its versions by one of the two alone."""
    as_ever = dataclasses.replace(Answer(), headers=((gone, ""),) if gone else ())
    cdn.fail("*", forever=as_ever)
    broken = dataclasses.replace(as_ever, send_bytes=CUT, end="stall" if kills else "close")
    cdn.fail("*", as_ever, broken)
    if kills:
        assert Started(f"{cdn.url}/lists/list.csv", CUT).ended()[0] == -signal.SIGKILL
        put(folder, 2, size)
        found = keep(cdn)
    else:
        told = []

        def progress(done, total):
            told.append((done, total))
            if told.count((CUT, SIZE)) == 1:  # before the connection is cut
                put(folder, 2, size)

        found = Path(remote(cdn).kept("lists", progress)).read_bytes()
    assert found == version(2, size)
    assert list(left().values()) == [size]  # nothing of the old version is left


@pytest.mark.parametrize("names", [False, True])
def test_a_server_that_answers_a_stale_if_range_with_a_part(folder, cdn, names):
    """What it sends is of the new version; its ETag says so, or the next look-up."""
    cdn.if_range = False
    plain = Answer() if names else Answer(headers=(("ETag", ""), ("Last-Modified", "")))
    cdn.fail("*", HEAD, dataclasses.replace(plain, send_bytes=CUT, end="close"), plain)

    def progress(done, _):
        if done == CUT and asked(cdn) == [0]:
            put(folder, 2)

    assert Path(remote(cdn).kept("lists", progress)).read_bytes() == version(2)
    assert asked(cdn) == [0, CUT, 0]
    assert list(left().values()) == [SIZE]


def test_what_is_being_fetched_is_not_swept(folder, cdn):
    cdn.fail("*", HEAD, stall(CUT))
    first = Started(f"{cdn.url}/lists/list.csv")
    first.wait_for(CUT)
    put(folder, 2)
    assert keep(cdn) == version(2)
    assert sorted(left().values()) == [CUT, SIZE]
    first.kill()
    put(folder, 3)
    assert keep(cdn) == version(3)
    assert sorted(left().values()) == [SIZE, SIZE]  # versions 2 and 3


def test_servers_that_name_a_file_otherwise_each_time(cdn):
    """Each request is answered by another of them, with an ETag of its own."""
    tags = [dataclasses.replace(Answer(), headers=(("ETag", f'"{n}"'),)) for n in range(20)]
    tags[9] = dataclasses.replace(tags[9], send_bytes=CUT, end="close")
    cdn.fail("*", *tags)
    assert keep(cdn) == version(1)
    assert set(asked(cdn)) == {0}
    assert list(left().values()) == [SIZE]


# Servers that give less


def test_a_server_without_ranges(cdn):
    cdn.ranges = False
    cdn.fail("*", HEAD, cut(CUT), cut(CUT // 2), cut(2 * CUT))
    told = []
    assert keep(cdn, told) == version(1)
    assert len(asked(cdn)) == 4
    assert told[-1] == (SIZE, SIZE)
    cdn.clear()
    assert keep(cdn) == version(1)
    assert asked(cdn) == []


@pytest.mark.parametrize(
    "headers",
    [
        (("ETag", ""), ("Last-Modified", "")),
        (("ETag", 'W/"1"'),),  # the same for bytes that only mean the same
    ],
)
def test_without_a_name_of_its_version_a_fetch_begins_anew(folder, cdn, headers):
    plain = dataclasses.replace(Answer(), headers=headers)
    cdn.fail("*", forever=plain)
    cdn.fail("*", plain, dataclasses.replace(plain, send_bytes=CUT, end="close"))
    assert keep(cdn) == version(1)
    assert asked(cdn) == [0, 0]
    cdn.clear()
    cdn.fail("*", plain, forever=dataclasses.replace(plain, send_bytes=CUT, end="close"))
    with pytest.raises(ReleaseError):
        keep(cdn, query="?never")
    assert list(left().values()) == [SIZE]  # of what cannot be continued nothing is left
    cdn.clear()
    cdn.fail("*", forever=plain)
    cdn.fail("*", plain, dataclasses.replace(plain, send_bytes=CUT, end="stall"))
    other = f"{cdn.url}/lists/list.csv?other"
    assert Started(other, CUT).ended()[0] == -signal.SIGKILL
    put(folder, 2)
    cdn.clear()
    cdn.fail("*", forever=plain)
    assert keep(cdn, query="?other") == version(2)
    assert asked(cdn) == [0]


@pytest.mark.parametrize("encoding", ["aws-chunked", "", "identity", "Identity , aws-chunked"])
def test_what_is_not_packed_goes_on_where_it_broke_off(cdn, encoding):
    plain = Answer(headers=(("Content-Encoding", encoding),))
    broken = dataclasses.replace(plain, send_bytes=CUT, end="close")
    cdn.fail("*", plain, broken, broken, broken, forever=plain)
    assert keep(cdn) == version(1)
    # Of aws-chunked fsspec believes no size, and looks it up by a GET, which is the first of these.
    assert asked(cdn) in ([0, CUT, 2 * CUT], [0, 0, CUT, 2 * CUT])


@pytest.mark.parametrize("fault", [gzip(), chunked(), dataclasses.replace(gzip(), length=None)])
def test_a_packed_or_chunked_answer(cdn, fault):
    cdn.fail("*", forever=fault)
    told = []
    assert keep(cdn, told) == version(1)
    assert told[-1] == (SIZE, None)
    assert {one.headers["Accept-Encoding"] for one in cdn.log} == {"identity"}
    cdn.clear()
    cdn.fail("*", forever=fault)
    broken = dataclasses.replace(fault, send_bytes=CUT, end="close")
    cdn.fail("*", fault, fault, broken, broken)  # HEAD says no size, so GET is asked for it too
    assert keep(cdn, query="?other") == version(1)


@pytest.mark.parametrize("fault", [wrong_length(7), wrong_length(-7), longer(b"more"), status(500)])
def test_an_answer_of_another_length_is_not_kept(cdn, fault):
    cdn.fail("*", HEAD, fault)
    assert keep(cdn) == version(1)
    assert list(left().values()) == [SIZE]


@pytest.mark.parametrize("change", [lambda whole: whole[:CUT], lambda whole: whole + b"more"])
def test_a_packed_answer_of_another_length_is_not_kept(cdn, change):
    """What it declares is the length of what is packed; only HEAD said how long the file is."""
    cdn.fail("*", HEAD, dataclasses.replace(gzip(), change=lambda whole: compress(change(whole))))
    assert keep(cdn) == version(1)
    assert list(left().values()) == [SIZE]


def test_a_length_that_is_never_right(cdn):
    cdn.fail("*", forever=wrong_length(7))
    with pytest.raises(ReleaseError, match=r"/lists/list\.csv "):
        keep(cdn)


@pytest.mark.parametrize(
    "odd",
    [
        (("Content-Range", f"bytes 5-{SIZE - 1}/{SIZE}"),),
        (("Content-Range", "bytes */*"),),
        (("Content-Range", ""),),
        (("Content-Range", f"bytes {CUT}-{SIZE}/{SIZE + 1}"),),
        (("Content-Encoding", "gzip"),),
    ],
)
def test_a_range_that_does_not_fit_is_not_taken(cdn, odd):
    cdn.fail("*", HEAD, cut(CUT), dataclasses.replace(Answer(), headers=odd))
    assert keep(cdn) == version(1)
    assert asked(cdn) == [0, CUT, 0]


def test_an_empty_file(folder, cdn):
    put(folder, 1, 0)
    told = []
    assert keep(cdn, told) == b""
    assert set(told) == {(0, 0)}


# Files that serve once


def test_a_fetched_file_goes_when_it_has_served(cdn):
    cdn.fail("*", HEAD, cut(CUT))
    with remote(cdn).fetched("lists") as path:
        assert Path(path).read_bytes() == version(1)
        assert path.endswith("-list.csv")
    assert left() == {}
    with pytest.raises(ValueError, match="no list"), remote(cdn).fetched("lists") as path:
        raise ValueError("no list")
    assert left() == {}
    assert asked(cdn) == [0, CUT, 0]


def test_a_fetched_file_stays_where_the_process_is_ended(cdn):
    with pytest.raises(KeyboardInterrupt), remote(cdn).fetched("lists"):
        raise KeyboardInterrupt
    with remote(cdn).fetched("lists") as path:
        assert Path(path).read_bytes() == version(1)
    assert asked(cdn) == [0]


def test_a_local_file_is_never_deleted(folder):
    with RemoteFile(str(folder / "list.csv"), {}).fetched("lists") as path:
        assert path == str(folder / "list.csv")
    assert Path(path).read_bytes() == version(1)


# Other file systems


BUCKET = "kept-files"


@pytest.fixture(scope="module")
def s3_url():
    """Moto's S3 server."""
    pytest.importorskip("boto3")
    pytest.importorskip("s3fs")
    moto_server = pytest.importorskip("moto.server")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_url, monkeypatch):
    """Put a version of the file into a bucket."""
    boto3 = pytest.importorskip("boto3")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    return lambda body: client.put_object(Bucket=BUCKET, Key="list.csv", Body=body)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("changes", [False, True])
def test_an_object_store_is_continued_too(bucket, changes):
    at, size = 9 * MB, 10 * MB  # in the second part that is asked for
    bucket(version(1, size))
    url = f"s3://{BUCKET}/list.csv"
    assert Started(url, at).ended()[0] == -signal.SIGKILL
    assert part() == at
    if changes:
        bucket(version(2, size))
    code, told, path = Started(url).ended()
    assert code == 0, path
    assert told[0] == (0 if changes else at, size)
    assert Path(path).read_bytes() == version(2 if changes else 1, size)
    assert left() == {Path(path).name: size}


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_object_that_changes_while_it_is_read(bucket):
    size = 10 * MB
    bucket(version(1, size))
    seen = []

    def progress(done, _):
        seen.append(done)
        if seen.count(3 * MB) == 1:
            bucket(version(2, size))

    path = RemoteFile(f"s3://{BUCKET}/list.csv", {}).kept("lists", progress)
    assert Path(path).read_bytes() == version(2, size)
    assert list(left().values()) == [size]
