"""Index the tars that photos will be looked for in, before any photo is fetched."""

from __future__ import annotations

import os
from collections.abc import Iterable

from pico_banana.fetching.sources import Sources
from pico_banana.input_sources import SOURCES
from pico_banana.open_images.tars import Tars
from pico_banana.settings import Settings
from pico_banana.storage.cache import Progress

__all__ = ["prepare_tars"]


def prepare_tars(
    tars: Tars, settings: Settings, image_ids: Iterable[str], progress: Progress
) -> list[str]:
    """Index the tars that photos will be looked for in, unless another source is asked before.

    Args:
        tars: the tars that these settings name, if they are a source at all.
        settings: say which sources are asked before.
        image_ids: the photos.
        progress: shows how a tar that is read comes along.

    Returns:
        What a person should know of tars that were looked at for the first time.

    Raises:
        ReleaseError: see `Tar.indexed`.
    """
    before = settings.sources[: settings.sources.index("tar")] if tars else ()
    if not tars or any(SOURCES[name].is_remote for name in before):
        return []
    sources, known = Sources(settings), tars.opened
    for image_id in image_ids:
        if not tars.is_ready(image_id) and not any(
            os.path.exists(place.address)
            for name in before
            for place in sources.places(name, "", image_id)
        ):
            tars.find(image_id, progress)
    opened = [(path, tar) for path, tar in sorted(tars.opened.items()) if path not in known]
    return [f"{path}: {note}" for path, tar in opened for note in tar.notes]
