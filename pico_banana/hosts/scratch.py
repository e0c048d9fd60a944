"""Give a process a folder for its sockets, and sweep those of processes that were killed."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import tempfile
import zlib

__all__ = ["make_scratch"]

_LONGEST_FOLDER = 32
"""Of a socket's path systems take some 104 bytes, the names below the folder need up to 70."""


def make_scratch() -> str:
    """Return a new folder, readable by its owner alone, of a short path; its maker deletes it.

    Those of this machine's processes that are gone are deleted: a kill leaves them.
    """
    where = tempfile.gettempdir()
    where = where if len(where) < _LONGEST_FOLDER else "/tmp"  # noqa: S108
    _sweep(where)
    return tempfile.mkdtemp(prefix=f"{_mine()}{os.getpid()}-", dir=where)


def _mine() -> str:
    """What the names of this machine's folders begin with: others may share the folder above."""
    return f"pico-banana-{zlib.crc32(platform.node().encode()):08x}-"


def _sweep(where: str) -> None:
    """Delete the folders of this machine's processes that are gone: a kill leaves them."""
    folder = re.compile(re.escape(_mine()) + r"(\d+)-\w+")
    with contextlib.suppress(OSError):
        for name in os.listdir(where):
            found = folder.fullmatch(name)
            if found and not _is_running(int(found[1])):
                shutil.rmtree(os.path.join(where, name), ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True
