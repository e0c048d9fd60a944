"""Keep the files that are fetched once (records, manifests, the index) in one folder."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

from pico_banana.errors import ReleaseError, bare_url

from .lock import hold

__all__ = [
    "Fetching",
    "Progress",
    "cache_errors",
    "cache_folder",
    "kept",
    "local_name",
    "made_once",
    "replacing",
]

Fetching = Callable[[int, "int | None"], None]
"""Told the bytes so far and the bytes in all (None where unknown).

The first call says what an earlier try or process has left already; the bytes go back where a fetch
must begin anew.
"""

Progress = Callable[[str], AbstractContextManager[Fetching]]
"""Shows how a file that is fetched or made once comes along, by its name in words."""


def cache_folder() -> str:
    """Return `PICO_BANANA_CACHE`, or `pico_banana_400k` beside the caches below `HF_HOME`."""
    own = os.environ.get("PICO_BANANA_CACHE")
    if own:
        return own if os.path.lexists(own) else os.path.expanduser(own)
    base = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME", os.path.join(base, "huggingface"))
    return os.path.join(os.path.expanduser(home), "pico_banana_400k")


@contextmanager
def replacing(path: str) -> Iterator[str]:
    """Give a temporary name beside `path` to write to; it becomes `path` when all went well.

    Nobody ever sees a half-written file under the final name; on an error nothing is left.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    # Not mkstemp's: its files can be read by their owner alone, and a cache may be shared.
    name = f".{os.path.basename(path)}.{secrets.token_hex(8)}"
    temporary = os.path.join(os.path.dirname(path), name)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def kept(name: str, make: Callable[[str], None]) -> str:
    """Return the path of a cached file, made by `make(temporary path)` where it is not there.

    Safe for processes that start at once: one makes the file, the others wait for it.
    """
    with cache_errors():
        return made_once(os.path.join(cache_folder(), name), make, os.path.exists)


@contextmanager
def cache_errors() -> Iterator[None]:
    """Name the cache folder, and the way out, where something cannot be written there."""
    try:
        yield
    except OSError as error:
        raise ReleaseError(
            f"the cache folder {cache_folder()} cannot be written: {error}; set "
            "PICO_BANANA_CACHE to another folder",
            cache_folder(),
        ) from None


def made_once(path: str, make: Callable[[str], None], is_there: Callable[[str], bool]) -> str:
    """Return `path`, made by `make(temporary path)` where `is_there(path)` does not hold.

    Safe for processes that start at once, as `kept`; `OSError` where it cannot be written.
    """
    if not is_there(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with hold(path + ".lock"):
            if not is_there(path):
                _sweep(path)
                with replacing(path) as temporary:
                    make(temporary)
    return path


def _sweep(path: str) -> None:
    """Delete what killed processes have left beside a file; its lock must be held."""
    folder, base = os.path.split(path)
    left = re.compile(rf"\.{re.escape(base)}\.[0-9a-f]{{16}}(?:\..*)?")
    for name in os.listdir(folder):
        if left.fullmatch(name):
            with suppress(OSError):
                os.unlink(os.path.join(folder, name))


def local_name(url: str, identity: str) -> str:
    """Return a file name that tells this version of this URL from every other."""
    digest = hashlib.sha256(os.fsencode(f"{url}\n{identity}")).hexdigest()[:24]
    return f"{digest}-{os.path.basename(bare_url(url))[-80:]}"
