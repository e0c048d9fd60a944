"""Hold off what Python does by itself and nobody here has a use for: its collector, pandas."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from typing import Any

__all__ = ["collect_rarely", "give_memory_back", "without_collection", "without_pandas"]

_OBJECTS = 100_000
_ARENA_MAX, _ARENAS = -8, 2  # M_ARENA_MAX of malloc.h


def collect_rarely() -> None:
    """Let Python's collector look after many new objects, not after each 700.

    What libraries make while they are imported stays: a twelfth of that time went into looking.
    """
    gc.set_threshold(_OBJECTS)


def give_memory_back() -> None:
    """Let threads share two arenas of memory, and Arrow too.

    By itself glibc gives each thread an arena, and Arrow has its own, of which none takes what
    another one has left: a plan of all records held half as much again.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(_ARENA_MAX, _ARENAS)


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Hold Python's collector off: it would look through all that lives, again and again.

    For what makes many objects of which none refers to itself.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _WithoutPandas(MetaPathFinder):
    def find_spec(self, fullname: str, *_: Any) -> None:
        """Raise for pandas; leave all else to others."""
        if fullname == "pandas":
            raise ModuleNotFoundError(fullname, name=fullname)


@contextlib.contextmanager
def without_pandas() -> Iterator[None]:
    """Let pandas not be found, where nobody has a use for it.

    Arrow imports it to see whether values are of its types, which takes 0.15 s and 40 MB.
    """
    finder = _WithoutPandas()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
