"""Know the folders that were there in a run, so that one which goes away makes no holes for good.

A folder may lawfully be absent: a mirror need not be whole. But a disk that is unmounted takes
folders away that were there.
"""

from __future__ import annotations

import os

from pico_banana.errors import WorkError
from pico_banana.input_sources import TRAIN_FOLDERS
from pico_banana.settings import Settings
from pico_banana.storage.disk import is_folder, tried
from pico_banana.urls import mirrored

__all__ = ["Folders"]


class Folders:
    """The folders that images were read from, or might be, as a run began in this process."""

    def __init__(self, settings: Settings) -> None:
        cdn = mirrored(settings.cdn, settings.mirrors)
        photos = settings.open_images or ""
        below = [os.path.join(photos, name) for name in TRAIN_FOLDERS] if photos else []
        roots = filter(os.path.isabs, [cdn, photos, *below, *settings.mirrors.values()])
        self._known = {root for root in roots if _is_there(root)}
        if cdn in self._known:
            self._known |= _with_folders(f"{cdn}/images")

    def note(self, path: str) -> None:
        """Note that a file was read."""
        self._known.add(os.path.dirname(path))

    def check(self, path: str) -> None:
        """Look whether all folders above an absent file are still there.

        Raises:
            WorkError: one that was there is gone.
            OSError: the disk does not say.
        """
        while path != (path := os.path.dirname(path)):
            if path in self._known and not is_folder(path):
                raise WorkError(
                    f"the folder {path} was there in this run and is no folder any more; finished "
                    "shards are kept, run the same command again when it is back"
                )


def _is_there(folder: str) -> bool:
    try:
        return is_folder(folder)
    except OSError:  # who asks for a file in it will hear of that
        return False


def _with_folders(root: str) -> set[str]:
    """A folder and those in it; nothing where it cannot be read."""
    try:
        with tried(os.scandir, root) as entries:
            return {root, *[entry.path for entry in entries if entry.is_dir()]}
    except OSError:
        return set()
