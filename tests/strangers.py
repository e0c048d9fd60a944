"""Make a folder of modules that nobody asked for, and run the installed command in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.commands import Ended

SCRIPT = Path(sys.executable).parent / "pico-banana"
NAMES = (
    *("numpy", "signal", "random", "socket", "queue", "pico_banana/__init__"),
    *("pico_banana/convert/__init__", "pyarrow/__init__", "PIL/__init__", "aiohttp/__init__"),
)


def make_strangers(folder: Path) -> Path:
    """Fill a folder with modules of the names of others, which note that they were imported."""
    for name in NAMES:
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        note = f"open({os.fspath(folder / 'noted')!r}, 'a').write({name!r})"
        path.write_text(f"{note}\nraise SystemExit(3)\n")
    return folder


def noted(folder: Path) -> str:
    """Return which of them were imported."""
    path = folder / "noted"
    return path.read_text() if path.exists() else ""


def run_in(cwd: Path, *words: str | os.PathLike[str]) -> Ended:
    """Run the installed command from a folder, to its end."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        [SCRIPT, *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)
