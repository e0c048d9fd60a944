"""Start the project's commands as forks of a process that has imported them already.

A command is a process of its own, with its own folder, environment, signals and end; only the
second that Python takes to import it is saved, once for all commands of a test run.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing import util
from types import ModuleType
from typing import NoReturn

_COMMAND = "pico_banana.convert.__main__"
# What the commands import when they need it; none of it starts a thread.
_MODULES = [
    _COMMAND,
    *[
        f"pico_banana.convert.{name}"
        for name in (
            *("cli", "conversion", "finish", "screen", "output.verify", "output.card"),
            *(
                "running.local",
                "planning.coverage",
                "planning.estimate",
                "reporting.tables",
                "running.processes",
            ),
        )
    ],
    *("pico_banana.fetching.fetcher", "datetime"),
]
_HUB = "huggingface_hub.repocard"
_READ_AT_IMPORT = ("PYTHON", "SSL_", "LD_", "OPENBLAS_", "OMP_")


def _chosen(env: Mapping[str, str], *prefixes: str) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(prefixes)}


def needs_own_hub(env: Mapping[str, str]) -> bool:
    """Whether the Hub's library must be imported with this environment, which it reads only then.

    Not where it has a folder of caches alone: what writes cards looks at none.
    """
    return bool({*_chosen(env, "HF_")} - {"HF_HOME"})


class CommandServer:
    """A process that is forked for each command; it ends with the process that made it.

    Args:
        with_hub: whether it has imported the Hub's library, see `needs_own_hub`.
    """

    def __init__(self, *, with_hub: bool) -> None:
        self._folder = tempfile.mkdtemp(prefix="pico-banana-commands-")
        self._address = os.path.join(self._folder, "socket")
        self._env = dict(os.environ)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(self._address)
        listening.listen()
        more = [_HUB] if with_hub else []
        # Its standard input is a pipe from here: when this process is gone, however, it ends.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.command_server", str(listening.fileno()), *more],
            cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[listening.fileno()],
        )
        listening.close()
        atexit.register(self.close)

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def takes(self, env: Mapping[str, str]) -> bool:
        """Whether a command with this environment would be no different for having been forked."""
        return _chosen(env, *_READ_AT_IMPORT) == _chosen(self._env, *_READ_AT_IMPORT)

    def run(
        self, words: Sequence[str], env: Mapping[str, str], timeout_s: float
    ) -> tuple[int, str, str]:
        """Run a command to its end; return its exit code, as `subprocess` gives it, and output."""
        with (
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
            socket.socket(socket.AF_UNIX) as connection,
        ):
            connection.connect(self._address)
            asked = json.dumps({"words": [*words], "env": dict(env), "cwd": os.getcwd()}).encode()
            size = len(asked).to_bytes(8, "big")
            socket.send_fds(connection, [size], [out.fileno(), err.fileno()])
            connection.sendall(asked)
            pid = int(_line(connection))
            connection.settimeout(timeout_s)
            try:
                code = int(_line(connection))
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(
                    [*words], timeout_s, _read(out), _read(err)
                ) from None
            return code, _read(out).decode(), _read(err).decode()


def _line(connection: socket.socket) -> bytes:
    found = b""
    while not found.endswith(b"\n"):
        block = connection.recv(1)
        if not block:
            raise AssertionError("the server of commands has ended")
        found += block
    return found


def _read(file: tempfile._TemporaryFileWrapper[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _serve(listening: socket.socket) -> Mapping[str, object] | None:
    """Fork a keeper for each command; return in the command's own process what was asked."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for keepers
    while True:
        connection, _ = listening.accept()
        if os.fork():
            connection.close()
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        listening.close()
        size, fds, _, _ = socket.recv_fds(connection, 8, 2)
        asked = b""
        while len(asked) < int.from_bytes(size, "big"):
            asked += connection.recv(65536)
        pid = os.fork()
        if not pid:
            connection.close()
            for own, given in zip((1, 2), fds, strict=True):
                os.dup2(given, own)
                os.close(given)
            with open(os.devnull, "rb") as nothing:
                os.dup2(nothing.fileno(), 0)
            found: Mapping[str, object] = json.loads(asked)
            return found
        with contextlib.suppress(OSError):  # who asked may be gone
            connection.sendall(b"%d\n" % pid)
            _, status = os.waitpid(pid, 0)
            connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
        os._exit(0)


def _spawn_by_fork(_path: bytes, args: Sequence[str], kept: Sequence[int]) -> int:
    """Do what `multiprocessing.util.spawnv_passfds` does, by a fork that need not import anything.

    It starts the process that workers are forked from, and the tracker of what must not be left.
    """
    pid = os.fork()
    if pid:
        return pid
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    for fd in {int(name) for name in os.listdir("/dev/fd")} - {0, 1, 2, *kept}:
        with contextlib.suppress(OSError):
            os.close(fd)
    sys.argv[:] = ["-c"]
    try:
        exec(args[-1], {"__name__": "__main__"})  # noqa: S102  (the code that Python would be given)
    finally:
        os._exit(0)  # what is still to be ended is its parent's


def _main() -> NoReturn:
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as the command does
    modules: list[ModuleType] = [
        importlib.import_module(name) for name in [*_MODULES, *sys.argv[2:]]
    ]
    gc.collect()
    gc.freeze()  # else each fork's collector writes to, and so copies, all that is imported
    listening = socket.socket(fileno=int(sys.argv[1]))
    ending = os.fork()
    if not ending:
        # The pipe's end is the end of whom the commands are for.
        sys.stdin.buffer.read()
        os.kill(os.getppid(), signal.SIGKILL)
        os._exit(0)
    asked = _serve(listening)
    assert asked is not None
    env, words, cwd = asked["env"], asked["words"], asked["cwd"]
    assert isinstance(env, dict)
    assert isinstance(words, list)
    os.chdir(str(cwd))
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    sys.argv[:] = [str(modules[0].__file__), *words]
    # Worker processes import the main module of their parent.
    sys.modules["__main__"] = modules[0]
    modules[0].__name__ = "__main__"
    if sys.platform == "linux":  # elsewhere workers are started another way
        util.spawnv_passfds = _spawn_by_fork
    modules[0].main()
    raise SystemExit


if __name__ == "__main__":
    _main()
