"""Run functions and scripts in processes forked from one that has imported what they use.

A process is one of its own, with its own folder, environment and end; only the seconds of the
imports are saved. Not for tests of an import, or of an interpreter's end.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
# Not pico_banana_400k: scripts import it in an order of their own.
CONTEXT.set_forkserver_preload(
    [
        *("datasets.load", "datasets.inspect", "datasets.distributed", "pytest", "hypothesis"),
        *("pico_banana.reading.reader", "pico_banana.fetching.fetcher", "pico_banana.hosts.leases"),
        *("pico_banana.open_images.tars", "pyarrow.parquet", "pyarrow.dataset", "PIL.Image"),
        *("tests.fake_cdn", "tests.forked"),
    ]
)
_TIMEOUT_S = 120


def process(
    function: Callable[..., object], *given: Any, cwd: str | os.PathLike[str] = ""
) -> BaseProcess:
    """A process, not yet started, that calls a function, in the environment of now."""
    where = os.path.abspath(cwd)
    return CONTEXT.Process(target=_call, args=(dict(os.environ), where, function, given))


def _call(
    env: Mapping[str, str], cwd: str, function: Callable[..., object], given: Sequence[Any]
) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    # Read when it was imported, before there was this environment.
    config = sys.modules["datasets"].config
    config.HF_DATASETS_CACHE = Path(env["HF_HOME"]) / "datasets"
    function(*given)


@dataclass(frozen=True)
class Ended:
    """How a script ended."""

    code: int
    out: str
    err: str


class Script:
    """A script that runs, as `python -W ignore FILE WORDS...` would.

    Args:
        script: its code, or the path of its file.
    """

    def __init__(
        self,
        script: str | Path,
        *words: str | os.PathLike[str],
        cwd: str | os.PathLike[str] = "",
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._out, self._err, path = (
            Path(self._folder.name, name) for name in ("out", "err", "script.py")
        )
        if isinstance(script, str):
            path.write_text(script, encoding="utf-8")
        else:
            path = script
        argv = [os.fspath(path), *map(os.fspath, words)]
        self.process = process(_run_script, argv, self._out, self._err, cwd=cwd)
        self.process.start()

    def ended(self) -> Ended:
        """Wait for its end."""
        self.process.join(_TIMEOUT_S)
        code = self.process.exitcode
        self.process.kill()
        out, err = (path.read_text(encoding="utf-8") for path in (self._out, self._err))
        self._folder.cleanup()
        assert code is not None, f"it did not end: {err}"
        return Ended(code, out, err)


def _run_script(argv: Sequence[str], out: Path, err: Path) -> None:
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    warnings.simplefilter("ignore")
    sys.argv[:] = argv
    sys.path.insert(0, os.path.dirname(argv[0]))
    runpy.run_path(argv[0], run_name="__main__")


def run_script(
    script: str | Path, *words: str | os.PathLike[str], cwd: str | os.PathLike[str] = ""
) -> Ended:
    """Run a script to its end."""
    return Script(script, *words, cwd=cwd).ended()
