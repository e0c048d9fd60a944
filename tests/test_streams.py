"""Standard streams that are closed, full, or read by nobody: the work is done to its end."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pico_banana.convert.demo.sample_release import SampleRelease
from tests.commands import Ended, arguments_of, digests, pico_banana, release_flags, rows
from tests.fake_cdn import FakeCDN
from tests.fake_hub import FakeHub
from tests.publish_commands import REPO, env_of, words_of

TALKATIVE = os.fspath(Path(__file__).parent / "talkative")
FULL = Path("/dev/full")
FULL_STREAMS = [">/dev/full", "2>/dev/full", ">/dev/full 2>&1"] if FULL.exists() else []
CLOSED = "<&- >&- 2>&-"
QUICK = [CLOSED, *FULL_STREAMS[-1:]]
NOBODY = [CLOSED, *[pytest.param(both, marks=pytest.mark.long) for both in FULL_STREAMS[-1:]]]
SLOW = ["<&-", ">&-", "2>&-", "| true", "| head -1", "2> >(true)", "2>&1 | true"]
SLOW += FULL_STREAMS[:-1]
STREAMS = [*QUICK, *[pytest.param(streams, marks=pytest.mark.long) for streams in SLOW]]
NOT_WRITTEN = "standard output could not be written: No space left on device"
full = pytest.mark.skipif(not FULL.exists(), reason="no disk here is always full")


def redirected(
    streams: str,
    *words: str | os.PathLike[str],
    env: Mapping[str, str] | None = None,
    command: list[str] | None = None,
) -> Ended:
    """Run a command, its standard streams as bash understands `streams`."""
    done = subprocess.run(
        ["bash", "-c", f'"$@" {streams}; exit "${{PIPESTATUS[0]}}"', "bash"]
        + (command or arguments_of(*words)),
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **(env or {})},
        check=False,
    )
    for said in (done.stdout, done.stderr):
        assert "Traceback" not in said, said
        assert "Exception ignored" not in said, said
    return Ended(done.returncode, done.stdout, done.stderr)


def convert_words(release: SampleRelease, out: Path, *words: str) -> list[Any]:
    flags = [*release_flags(release), "--limit", "20", "--records-per-shard", "5"]
    return ["convert", "sft", *flags, "--output", out, *words]


@pytest.fixture(scope="module")
def undisturbed(release: SampleRelease, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of what a run makes whose streams are as usual."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert pico_banana(*convert_words(release, out)).code == 0
    return digests(out)


@pytest.mark.parametrize("streams", STREAMS)
def test_a_conversion_is_whole_whoever_listens(
    streams: str, release: SampleRelease, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ended = redirected(streams, *convert_words(release, out))
    assert ended.code == 0, ended.err
    assert digests(out) == undisturbed
    assert (NOT_WRITTEN in ended.err) == (streams == ">/dev/full")


@pytest.mark.parametrize("streams", ["", *NOBODY])
def test_what_workers_print_goes_into_no_file_and_ends_no_shard(
    streams: str, release: SampleRelease, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ended = redirected(streams, *convert_words(release, out), env={"PYTHONPATH": TALKATIVE})
    assert ended.code == 0, ended.err
    assert digests(out) == undisturbed
    assert ("by the way" in ended.out and "by the way" in ended.err) == (not streams)


@pytest.mark.long
@pytest.mark.parametrize("streams", NOBODY)
def test_other_work_is_done_too(streams: str, release: SampleRelease, tmp_path: Path) -> None:
    out, listed = tmp_path / "out", tmp_path / "listed.arrow"
    flags = [*release_flags(release)[:2], *release_flags(release)[4:]]
    assert redirected(streams, "index", "sft", *flags, "--output", listed).code == 0
    assert listed.exists()
    sliced = ["convert", "sft", *release_flags(release), "--slice", "0/1", "--output", out]
    assert pico_banana(*sliced).code == 0
    assert not (out / "README.md").exists()
    assert redirected(streams, "finish", out).code == 0
    assert (out / "README.md").exists()


@pytest.mark.long
@pytest.mark.parametrize("streams", NOBODY)
def test_publishing_is_done_too(streams: str, release: SampleRelease, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with FakeHub() as hub:
        words = words_of(release, out, "--limit", "4", "--keep-local")
        assert redirected(streams, *words, env=env_of(hub, out)).code == 0
        assert len([path for path in hub.repos[REPO].files if path.endswith(".parquet")]) == 2
        assert redirected(streams, "publish", out, REPO, env=env_of(hub, out)).code == 0


@pytest.mark.long
@pytest.mark.parametrize("streams", NOBODY)
def test_the_demo_draws_its_pictures_too(streams: str, tmp_path: Path) -> None:
    assert redirected(streams, "demo", "--output", tmp_path).code == 0
    assert (tmp_path / "contact-sheet.png").exists()


@pytest.mark.long
@pytest.mark.parametrize("streams", NOBODY)
def test_faults_keep_their_exit_code(
    streams: str, own_release: SampleRelease, tmp_path: Path
) -> None:
    assert redirected(streams, "convert", "--workers").code == 2
    assert redirected(streams, "convert", "sfd", "--output", tmp_path).code == 2
    for path in own_release.cdn.glob("images/positive-edit/*"):
        path.unlink()
    words = convert_words(own_release, tmp_path / "out", "--on-missing", "skip")
    assert redirected(streams, *words).code == 1
    assert len(list(tmp_path.glob("out/sft/*.parquet"))) == 4


@full
def test_a_list_that_is_not_written_is_an_error(release: SampleRelease, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert pico_banana(*convert_words(release, out)).code == 0
    plan = ["plan", "sft", *release_flags(release), "--limit", "5"]
    for words in (["types"], ["--help"], ["--version"], plan, ["verify", out]):
        ended = redirected(">/dev/full", *words)
        assert ended.code == 1, words
        assert ended.err.splitlines()[-1].startswith(f"error: {NOT_WRITTEN}; ")


@pytest.mark.parametrize("streams", [pytest.param(">&-", marks=pytest.mark.long), "| head -1"])
def test_a_list_that_nobody_wants_is_none(
    streams: str, release: SampleRelease, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert pico_banana(*convert_words(release, out)).code == 0
    for words in (["types"], ["--help"], ["verify", out]):
        ended = redirected(streams, *words)
        assert ended.code == 0, ended.err
        assert not ended.err
        assert len(ended.out.splitlines()) == (1 if "head" in streams else 0)


@pytest.mark.skipif(not hasattr(fcntl, "F_SETPIPE_SZ"), reason="pipes have one size here")
def test_a_slow_reader_of_a_pipe_that_does_not_block_gets_it_all() -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    run = subprocess.Popen(arguments_of("types"), stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    select.select([reader], [], [], 60)
    with open(reader, encoding="utf-8") as file:
        said = file.read()
    assert run.communicate(timeout=60)[1] == ""
    assert run.returncode == 0
    assert said == pico_banana("types").out
    assert len(said.encode()) > 4096


@pytest.mark.skipif(sys.platform != "linux", reason="terminals are taken another way")
@pytest.mark.parametrize(
    ("trap", "code"),
    [("-", 129), pytest.param("''", 0, marks=pytest.mark.long)],
    ids=["heard", "nohup"],
)
def test_a_terminal_that_is_closed_ends_what_hears_of_it(
    trap: str, code: int, release: SampleRelease, cdn: FakeCDN, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    cdn.hold("*/images/positive-edit/*")
    words = ["convert", "sft", *release_flags(release, f"{cdn.url}/cdn"), "--output", out]
    other, terminal = pty.openpty()
    # The first terminal that the leader of a session opens is the session's.
    script = f'trap {trap} HUP; exec "$@" <>{os.ttyname(terminal)} >&0 2>&0'
    command = ["bash", "-c", script, "bash", *arguments_of(*words)]
    hear = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)}
    run = subprocess.Popen(command, start_new_session=True, **hear)
    cdn.wait_for_request("*/images/positive-edit/*")
    os.close(terminal)
    os.close(other)
    if not code:
        cdn.release()
    assert run.wait(60) == code
    assert len(rows(out, "sft")) == (0 if code else release.good["sft"])


LOAD = """
import sys, warnings
import datasets, pico_banana_400k
warnings.simplefilter("always")
places = dict(zip(("cdn", "open_images", "open_images_metadata"), sys.argv[2:]))
some = dict(places, input_sources=["folder"], on_missing="skip", split="train")
if sys.stderr:
    datasets.disable_progress_bars()
streamed = len([*pico_banana_400k.load("sft", streaming=True, **some)])
datasets.disable_progress_bars()  # the library's own cannot do without a standard error
loaded = len(pico_banana_400k.load("sft", **some))
with open(sys.argv[1], "w") as said:
    said.write(f"{streamed} streamed, {loaded} loaded")
"""


@pytest.mark.parametrize("streams", [pytest.param("2>&-", marks=pytest.mark.long), *NOBODY])
def test_the_loader_warns_into_nothing(
    streams: str, own_release: SampleRelease, tmp_path: Path
) -> None:
    next(own_release.cdn.glob("images/positive-edit/*")).unlink()
    said = tmp_path / "said"
    command = [sys.executable, "-c", LOAD, os.fspath(said), *release_flags(own_release)[1::2]]
    ended = redirected(streams, command=command)
    assert ended.code == 0, ended.err
    left = own_release.good["sft"] - 1
    assert said.read_text() == f"{left} streamed, {left} loaded"
