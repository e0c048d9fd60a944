"""Look at a local disk that may fail for a moment, as network disks do."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from typing import TypeVar

from pico_banana.missing import reason_of_fault

__all__ = ["is_folder", "listed", "tried"]

_TRIES, _FIRST_WAIT_S = 6, 0.02

Found = TypeVar("Found")


def tried(look: Callable[[str], Found], path: str) -> Found:
    """Return what a look at a path gives, after some tries where its faults may pass.

    Raises:
        OSError: what does not pass, or did not within a second.
    """
    for number in range(_TRIES - 1):
        try:
            return look(path)
        except OSError as error:
            if not reason_of_fault(error).is_transient:
                raise
        time.sleep(_FIRST_WAIT_S * 2**number)
    return look(path)


def is_folder(path: str) -> bool:
    """Whether a path is a folder; `OSError` where its disk does not say."""
    try:
        return stat.S_ISDIR(tried(os.stat, path).st_mode)
    except OSError as error:
        if reason_of_fault(error).is_transient:
            raise
        return False


def listed(folder: str) -> list[str]:
    """Return the names in a folder, in order; `OSError` where it cannot be read."""
    return sorted(tried(os.listdir, folder))
