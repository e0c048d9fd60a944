"""An output can be trusted: signals and lost disks leave whole files, and say how to go on."""

from __future__ import annotations

import contextlib
import csv
import ctypes
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import psutil
import pytest
from PIL import Image

from pico_banana.convert.demo.sample_release import SampleRelease
from pico_banana.convert.output.store import Store
from pico_banana.errors import OutputError, PicoBananaError
from tests.commands import arguments_of, digests, ledgers, pico_banana, release_flags
from tests.fake_cdn import FakeCDN
from tests.fake_s3 import BUCKET

SFT = 70
GO_ON = "run the same command again to continue"
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
BEGUN = "*/images/positive-edit/*"


def command(release: SampleRelease, cdn: FakeCDN, out: Path | str, *words: Any) -> list[str]:
    flags = [*release_flags(release, f"{cdn.url}/cdn"), "--output", os.fspath(out)]
    return ["convert", "sft", *flags, "--records-per-shard", "10", *map(os.fspath, words)]


def hear_all() -> None:
    """Hear SIGHUP also where the tests themselves were begun under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def start(words: list[str], **options: Any) -> subprocess.Popen[str]:
    options = {"preexec_fn": hear_all, **options}
    return subprocess.Popen(arguments_of(*words), stderr=subprocess.PIPE, text=True, **options)


def workers_of(run: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(run.pid).children(recursive=True)
    return [child for child in children if child.ppid() != run.pid]  # they are forked


def edited(release: SampleRelease, place: int) -> str:
    """The glob of a record's edited image."""
    lines = (release.cdn / "jsonl/sft.jsonl").read_text(encoding="utf-8").splitlines()
    return f"*/{json.loads(lines[place])['output_image']}"


# Signals


STUB = """
import os, time
if not os.path.exists({mark!r}):
    open({mark!r}, "w").close()
    print("importing", flush=True)
    time.sleep(60)
raise ImportError
"""


def stub_that_waits(folder: Path, name: str) -> dict[str, str]:
    """An environment where a library tells that it is imported, waits once, and is not there."""
    code = STUB.format(mark=os.fspath(folder / "mark"))
    (folder / f"{name}.py").write_text(code, encoding="utf-8")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([os.fspath(folder), os.getcwd()])}


@pytest.mark.parametrize(
    ("library", "sent"),
    [
        ("typer", signal.SIGINT),
        *[("rich", sent) for sent in CODES],
    ],
)
def test_a_signal_while_python_imports_is_no_traceback(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path, sent: int, library: str
) -> None:
    env = stub_that_waits(tmp_path, library)
    run = start(command(release, cdn, tmp_path / "out"), stdout=subprocess.PIPE, env=env)
    assert run.stdout
    assert run.stdout.readline() == "importing\n"
    begun = time.monotonic()
    run.send_signal(sent)
    _, said = run.communicate(timeout=30)
    assert time.monotonic() - begun < 5
    assert run.returncode == CODES[sent]
    assert GO_ON in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("sent", "are_stopped"),
    [
        pytest.param(*case, marks=() if case == (signal.SIGTERM, True) else pytest.mark.long)
        for case in itertools.product(CODES, (False, True))
    ],
)
def test_a_run_ends_within_5_seconds_whatever_its_workers_do(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path, sent: int, are_stopped: bool
) -> None:
    cdn.hold(BEGUN)
    run = start(command(release, cdn, tmp_path / "out", "--workers", "4"))
    cdn.wait_for_request(BEGUN, n=40)
    workers = workers_of(run)
    assert len(workers) == 4
    for worker in workers if are_stopped else ():
        worker.suspend()
    begun = time.monotonic()
    run.send_signal(sent)
    # Impatience, while it ends, changes nothing.
    while run.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(0.1)
        run.send_signal(signal.SIGINT)
    assert time.monotonic() - begun < 5
    _, said = run.communicate(timeout=10)
    assert run.returncode == CODES[sent], said
    assert GO_ON in said
    assert "Traceback" not in said
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert not alive
    assert not list((tmp_path / "out").glob("**/*.tmp"))


def test_a_worker_that_is_asked_to_end_leaves_nothing_half_written(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    cdn.hold(BEGUN)
    run = start(command(release, cdn, out, "--workers", "2", "--concurrency", "2"))
    cdn.wait_for_request(BEGUN, n=4)
    (first, second) = workers_of(run)
    # The other one keeps the parent from sweeping what this one leaves.
    run.send_signal(signal.SIGSTOP)
    first.terminate()
    psutil.wait_procs([first], timeout=10)
    assert second.is_running()
    assert len(list(out.glob("sft/.*.tmp"))) <= 1
    run.send_signal(signal.SIGCONT)
    _, said = run.communicate(timeout=30)
    assert run.returncode == 1
    assert "a worker process ended by signal 15" in said
    assert "Traceback" not in said
    assert not list(out.glob("**/*.tmp"))


@pytest.mark.long
def test_what_nohup_has_switched_off_stays_so(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path
) -> None:
    cdn.hold(BEGUN)
    words = command(release, cdn, tmp_path / "out", "--workers", "2")
    run = start(words, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    cdn.wait_for_request(BEGUN, n=20)
    for process in [psutil.Process(run.pid), *workers_of(run)]:
        process.send_signal(signal.SIGHUP)
    cdn.release()
    _, said = run.communicate(timeout=60)
    assert run.returncode == 0, said


SWALLOWS = """
import time
from pico_banana.convert.signals import catch, end_within
catch()
end_within(0.2, "so long")
while True:
    try:
        print("ready", flush=True)
        time.sleep(60)
    except BaseException:
        pass
"""


def test_an_end_that_is_swallowed_comes_all_the_same() -> None:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    run = subprocess.Popen([sys.executable, "-c", SWALLOWS], text=True, **pipes)
    assert run.stdout.readline() == "ready\n"
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=30)
    assert run.returncode == 143, said
    assert said.strip() == "so long"


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
def test_interrupted_at_any_moment_and_continued(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    out = tmp_path / "out"
    words = command(release, cdn, out, "--workers", "3")
    run = start(words, start_new_session=True)
    until = rng.randrange(1, SFT + 5)  # requests: the first ones are for JSONL and manifest
    while run.poll() is None and cdn.count() < until:
        with contextlib.suppress(TimeoutError):
            cdn.wait_for_request(n=until, timeout_s=0.1)
    if run.poll() is None:
        os.killpg(run.pid, rng.choice([*CODES]))  # as a terminal does it: to all of them
    _, said = run.communicate(timeout=30)
    # After the last word Python's own end has begun, where a signal acts by itself.
    is_done = run.returncode == 0 or -run.returncode in CODES
    assert is_done or run.returncode in CODES.values(), said
    assert is_done is (GO_ON not in said)
    assert "Traceback" not in said
    assert not list(out.glob("**/*.tmp"))
    assert pico_banana(*words).code == 0
    assert len(digests(out)) == SFT // 10 + 1
    assert pico_banana("verify", out).code == 0


@pytest.mark.long
def test_an_upload_that_is_broken_off_is_taken_back(
    s3: Any, own_release: SampleRelease, tmp_path: Path
) -> None:
    """An unfinished upload would cost its owner for ever, and no listing shows it."""
    # A row group of 64 MiB is full after 17 of these, and begins the upload.
    noise = tmp_path / "noise.png"
    picture = Image.frombytes("RGB", (1400, 1000), random.Random(1).randbytes(4_200_000))
    picture.save(noise, compress_level=0)
    for path in own_release.cdn.glob("images/positive-edit/*.png"):
        path.unlink()
        os.link(noise, path)
    with FakeCDN(("/cdn", own_release.cdn)) as cdn:
        cdn.hold(edited(own_release, 19))
        words = command(own_release, cdn, f"s3://{BUCKET}/out", "--limit", "20", "--workers", "1")
        run = start([*words, "--records-per-shard", "20"])
        while PARQUET not in uploads(s3):
            assert run.poll() is None, run.communicate()
            time.sleep(0.02)
        run.send_signal(signal.SIGTERM)
        _, said = run.communicate(timeout=30)
    files = [entry["Key"] for entry in s3.list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert run.returncode == 143, said
    assert GO_ON in said
    assert uploads(s3) == []
    assert PARQUET not in files


PARQUET = "out/sft/train-00000-of-00001.parquet"


def uploads(client: Any) -> list[str]:
    """What is being uploaded, or was left so."""
    found = client.list_multipart_uploads(Bucket=BUCKET)
    return [one["Key"] for one in found.get("Uploads", [])]


# Disks


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path is short enough for a socket's."""
    with tempfile.TemporaryDirectory(prefix="pb-") as folder:
        if len(folder) > 40:
            pytest.skip("the folder of temporary files has a long path")
        yield Path(folder)


@pytest.mark.long
def test_what_a_kill_left_of_a_run_is_swept_by_the_next(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path, short: Path
) -> None:
    env = {**os.environ, "TMPDIR": os.fspath(short)}
    waiting = edited(release, 5)
    cdn.hold(waiting)

    def begin(name: str) -> subprocess.Popen[str]:
        before = cdn.count(waiting)
        words = command(release, cdn, tmp_path / name, "--limit", "10", "--workers", "1")
        run = start(words, env=env)
        cdn.wait_for_request(waiting, n=before + 1)
        return run

    killed, alive = begin("one"), begin("other")
    assert len(folders := {*short.iterdir()}) == 4  # two each: of the workers, of the budgets
    killed.kill()
    killed.communicate(timeout=30)
    again = begin("one")
    assert len(folders & {*short.iterdir()}) == 2  # those of the one that runs
    cdn.release()
    for one in (again, alive):
        _, said = one.communicate(timeout=60)
        assert one.returncode == 0, said
    assert not list(short.iterdir())


def without_override() -> None:
    """Take from root what lets it write where permissions forbid it; others have it not."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
            if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
                raise OSError(ctypes.get_errno(), "prctl")


PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2


@pytest.fixture
def begun(
    release: SampleRelease, cdn: FakeCDN, tmp_path: Path
) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A run of which two shards are finished, and whose third one waits in the middle."""
    out = tmp_path / "out"
    waiting = edited(release, 25)
    cdn.hold(waiting)
    run = start(command(release, cdn, out, "--workers", "1"), preexec_fn=without_override)
    cdn.wait_for_request(waiting)
    while len(list(out.glob("_ledger/sft/train-*.json"))) < 2:
        assert run.poll() is None
        time.sleep(0.02)
    yield run, out
    run.kill()
    run.communicate()


def finished(out: Path) -> dict[str, bytes]:
    """The files that must be the same whatever happens: two shards and their ledgers."""
    found = [*out.glob("sft/*.parquet"), *out.glob("_ledger/sft/train-*.json")]
    return {os.fspath(path.relative_to(out)): path.read_bytes() for path in found}


def writable(out: Path, is_so: bool) -> None:
    for folder in (out, out / "sft", out / "_ledger", out / "_ledger/sft", out / "_ledger/runs"):
        folder.chmod(0o755 if is_so else 0o555)


@pytest.mark.long
def test_an_output_that_is_deleted_underneath_is_noticed_and_not_begun_again(
    cdn: FakeCDN, begun: tuple[subprocess.Popen[str], Path]
) -> None:
    run, out = begun
    shutil.rmtree(out)
    cdn.release()
    _, said = run.communicate(timeout=60)
    assert run.returncode == 1
    assert f"{out}/sft/train-00002-of-00007.parquet cannot be written: its folder is gone" in said
    assert "Bring it back" in said
    assert "Traceback" not in said
    assert not list(out.glob("**/*.parquet"))
    assert not (out / "README.md").exists()


@pytest.mark.parametrize(
    "what",
    [
        "",
        pytest.param("sft", marks=pytest.mark.long),
        pytest.param("_ledger/sft", marks=pytest.mark.long),
    ],
)
def test_what_was_moved_away_and_comes_back_goes_on(
    release: SampleRelease,
    cdn: FakeCDN,
    tmp_path: Path,
    begun: tuple[subprocess.Popen[str], Path],
    what: str,
) -> None:
    run, out = begun
    before = finished(out)
    (out / what).rename(tmp_path / "away")
    cdn.release()
    _, said = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "its folder is gone" in said
    assert "Traceback" not in said
    if not what:
        shutil.rmtree(out, ignore_errors=True)  # a lock may have been looked for there
    (tmp_path / "away").rename(out / what)
    went_on(release, cdn, out, before)


@pytest.mark.long
def test_permission_that_is_lost_underneath_is_named(
    release: SampleRelease, cdn: FakeCDN, begun: tuple[subprocess.Popen[str], Path]
) -> None:
    run, out = begun
    before = finished(out)
    writable(out, is_so=False)
    cdn.release()
    _, said = run.communicate(timeout=60)
    writable(out, is_so=True)
    assert run.returncode == 1
    assert f"{out}/sft/train-00002-of-00007.parquet cannot be written: [Errno 13]" in said
    assert "What is finished stays finished" in said
    assert "Traceback" not in said
    went_on(release, cdn, out, before)


@pytest.mark.skipif(not hasattr(psutil, "RLIMIT_FSIZE"), reason="needs prlimit, which is Linux'")
def test_a_disk_that_is_full_in_the_middle_is_named(
    release: SampleRelease, cdn: FakeCDN, begun: tuple[subprocess.Popen[str], Path]
) -> None:
    run, out = begun
    before = finished(out)
    (worker,) = workers_of(run)
    # The system's own refusal to write on, as a full disk's: EFBIG in place of ENOSPC.
    worker.rlimit(psutil.RLIMIT_FSIZE, (5_000, 5_000))
    cdn.release()
    _, said = run.communicate(timeout=60)
    assert run.returncode == 1
    assert f"{out}/sft/train-00002-of-00007.parquet cannot be written: [Errno 27]" in said
    assert "Traceback" not in said
    assert not list(out.glob("**/*.tmp"))
    went_on(release, cdn, out, before)


def went_on(release: SampleRelease, cdn: FakeCDN, out: Path, before: dict[str, bytes]) -> None:
    """The same command continues: finished shards are the same, and not fetched again."""
    assert len(before) == 4
    assert before.items() <= finished(out).items()
    cdn.clear()
    ended = pico_banana(*command(release, cdn, out))
    assert ended.code == 0, ended.err
    assert before.items() <= finished(out).items()
    assert cdn.count(BEGUN) == SFT - 20
    assert pico_banana("verify", out).code == 0
    assert not list(out.glob("**/*.tmp"))


SMALL_DISK = """
mount -t tmpfs -o size=1g none "$OUT" || exit 77
"$@" &
while [ "$(ls "$OUT/_ledger/sft" 2> /dev/null | grep -c ^train)" -lt 2 ]; do sleep 0.02; done
cp -r "$OUT" "$BEFORE"
mount -o remount,size="$(du -sk "$OUT" | cut -f1)k" "$OUT"
echo full
wait $!
echo "ended with $?"
cp -r "$OUT" "$AFTER"
"""


@pytest.mark.long
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare, which is Linux'")
def test_a_disk_of_its_own_is_full(release: SampleRelease, cdn: FakeCDN, tmp_path: Path) -> None:
    """In name spaces of its own, for which no privilege is needed where the system allows it."""
    out, before, after = (tmp_path / name for name in ("out", "before", "after"))
    out.mkdir()
    cdn.hold(edited(release, 25))
    words = arguments_of(*command(release, cdn, out, "--workers", "1"))
    spaces = ["unshare", "--user", "--map-root-user", "--mount", "--kill-child", "--fork"]
    run = subprocess.Popen(
        [*spaces, "sh", "-c", SMALL_DISK, "sh", *words],
        env={**os.environ, "OUT": str(out), "BEFORE": str(before), "AFTER": str(after)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout
    if run.stdout.readline() != "full\n":
        pytest.skip(f"no name spaces here: {run.communicate()[1]}")
    cdn.release()
    told, said = run.communicate(timeout=60)
    assert told == "ended with 1\n"
    assert f"{out}/sft/train-00002-of-00007.parquet cannot be written: [Errno 28]" in said
    assert "What is finished stays finished" in said
    assert "Traceback" not in said
    assert finished(before).items() <= finished(after).items()
    assert not list(after.glob("**/*.tmp"))
    out.rmdir()
    shutil.copytree(after, out)
    went_on(release, cdn, out, finished(before))


def test_a_cache_on_a_full_disk_is_named(release: SampleRelease) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))

    ended = pico_banana("plan", "sft", *release_flags(release), preexec=small_files)
    assert ended.code == 2
    assert "the index of" in ended.err
    assert "set PICO_BANANA_CACHE to a folder with room for it" in ended.err


# Secrets


@pytest.mark.parametrize(
    "output",
    [
        "s3://key:S3CR3T-S3CR3T@bucket/out",
        "s3://key:sl/ash/S3CR3T-S3CR3T@bucket/out",
        "sftp://me:S3CR3T-S3CR3T@host/out",
        "simplecache::s3://key:S3CR3T-S3CR3T@bucket/out",
    ],
)
def test_an_output_with_a_password_in_it_is_refused_and_not_shown(
    release: SampleRelease, output: str
) -> None:
    ended = pico_banana("convert", "sft", *release_flags(release), "--output", output)
    assert ended.code == 2
    assert "give them as storage_options in a settings file" in ended.err
    assert "S3CR3T" not in ended.err + ended.out


class Talkative(fsspec.AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A file system whose errors tell what it was opened with."""

    protocol = "talkative"

    def __init__(self, key: str, *, opens: bool = True) -> None:
        super().__init__()
        self.key = key
        if not opens:
            raise ValueError(f"the key {key} is wrong")

    def _refuse(self, *_: Any, **__: Any) -> None:
        raise RuntimeError(f"https://host/?signature=abc is denied to {self.key}")

    open = cat_file = info = ls = rm_file = _refuse


@pytest.mark.parametrize("call", ["write", "read", "size_bytes", "names", "delete", "open"])
def test_what_a_file_system_says_is_shown_without_secrets(call: str) -> None:
    fsspec.register_implementation("talkative", Talkative, clobber=True)
    options = {"key": "S3CR3T-S3CR3T"}
    store = Store("talkative://place", options)
    arguments = ("name", b"data") if call == "write" else ("name",)
    with pytest.raises(PicoBananaError) as caught:
        getattr(store, call)(*arguments)
    assert "place/name cannot be" in str(caught.value)
    assert "https://host/ is denied to …" in str(caught.value)
    with pytest.raises(OutputError, match="the key … is wrong"):
        Store("talkative://place", {**options, "opens": False})


# Originals


def test_a_flickr_original_that_is_another_than_the_listed_one_is_kept_and_marked(
    own_release: SampleRelease, tmp_path: Path
) -> None:
    with open(own_release.metadata_csv, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = (own_release.cdn / "jsonl/sft.jsonl").read_text(encoding="utf-8").splitlines()
    urls = list(dict.fromkeys(json.loads(line)["open_image_input_url"] for line in lines))
    changes = {
        urls[0]: {"OriginalSize": "5"},
        urls[2]: {"OriginalMD5": "1B2M2Y8AsgTpgAmY7PhCfg=="},
        urls[3]: {"OriginalMD5": "", "OriginalSize": ""},
    }
    listed = tmp_path / "list.csv"
    with open(listed, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, **changes.get(row["OriginalURL"], {})} for row in rows)

    def marks(name: str, photos: Path, *words: str) -> list[tuple[str, str]]:
        flags = ["--cdn", own_release.cdn, "--open-images-metadata", photos, "--input-sources"]
        flags += ["flickr", "--mirrors", f"*.staticflickr.com={own_release.flickr}/{{host}}"]
        ended = pico_banana("convert", "sft", *flags, *words, "--output", tmp_path / name)
        assert ended.code in (0, 1), ended.err
        (ledger,) = ledgers(tmp_path / name, "sft")
        return [(mark["url"], mark["mark"]) for mark in ledger["marks"]]

    assert marks("as listed", own_release.metadata_csv) == []
    size, md5 = (urls[0], "original_size_differs"), (urls[2], "original_md5_differs")
    of_each = SFT // len(urls)
    assert marks("another", listed) == [size] * of_each + [md5] * of_each
    # Images that are taken from a shard that is made anew have the same marks.
    absent = own_release.cdn / json.loads(lines[1])["output_image"]
    absent.rename(tmp_path / "away")
    try:
        marks("again", listed)
    finally:
        (tmp_path / "away").rename(absent)
    assert marks("again", listed, "--retry-missing-all") == marks("another", listed)
    assert digests(tmp_path / "again") == digests(tmp_path / "another")
