"""Turn an image reference into the ordered places where its bytes may be had."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from pico_banana.input_sources import SOURCES, Place
from pico_banana.missing import MissingReason
from pico_banana.open_images.index import Photo, is_image_id
from pico_banana.release.records import Record
from pico_banana.settings import Settings
from pico_banana.urls import PUBLISHED_BASE, Host, join, mirrored, published_url

__all__ = ["ImageRef", "Sources"]


class ImageRef(NamedTuple):
    """One image: its published address, and the places where it may be had, in order.

    `absent` is why the image is missing where no place has it or none can be tried.
    """

    url: str
    name: str
    places: tuple[Place, ...]
    absent: MissingReason = MissingReason.NOT_LISTED


class Sources:
    """Where each image of a release may be had, by the user's settings; pure, no I/O."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._cdn = mirrored(settings.cdn, settings.mirrors)
        # What may be read is the same for all places of a kind: they share one tuple.
        self._within_cdn = (self._cdn, f"{self._cdn}/images")
        self._finders = {
            name: SOURCES[name].finder(settings.open_images, settings.mirrors)
            for name in {*settings.sources, *(SOURCES[name].link for name in settings.sources)}
        }

    def edited(self, path: str) -> ImageRef:
        """Return the reference of an edited, chosen, rejected or turn image."""
        name = path.rpartition("/")[2]
        if not path.startswith("images/"):
            # Neither below images/ nor in the manifest: nobody knows where it lies.
            return ImageRef(published_url(path), name, (), MissingReason.UNRESOLVED)
        place = Place("cdn", join(self._cdn, path), self._within_cdn)
        return ImageRef(published_url(path), name, (place,))

    def input(self, record: Record, photo: Photo | None) -> ImageRef:
        """Return the reference of a record's input image."""
        places: list[Place] = []
        absent = MissingReason.NOT_LISTED
        image_id = photo.image_id if photo is not None and is_image_id(photo.image_id) else None
        for name in self._settings.sources:
            found = self._finders[name](record.input_url, image_id)
            if not found and not SOURCES[name].needs_image_id:
                absent = MissingReason.FORBIDDEN_ADDRESS
            places += found
        return ImageRef(record.input_url, record.photo, tuple(places), absent)

    def places(self, source: str, url: str, image_id: str | None) -> Sequence[Place]:
        """Return the places of a photo in one of the sources, or in that of its link."""
        return self._finders[source](url, image_id)

    def allowed_hosts(self) -> tuple[str, ...]:
        """Return globs of the names of published hosts, which may be reached without being named.

        Also after redirects; by http and https, at their usual ports.
        """
        hosts = [source.hosts for source in SOURCES.values() if source.hosts]
        return (urlsplit(PUBLISHED_BASE).hostname or "", *hosts)

    def named_hosts(self) -> tuple[Host, ...]:
        """Return the hosts that the user named; only they may have private addresses."""
        mirrors = self._settings.mirrors.items()
        # Not with the glob's own brackets and stars in the URL: those may be no host's name.
        named = [(base.replace("{host}", "host.invalid"), glob) for glob, base in mirrors]
        named.append((self._cdn, ""))
        hosts = [
            (Host.of(base), glob.lower())
            for base, glob in named
            if base.startswith(("http://", "https://"))
        ]
        return tuple(
            [host._replace(name=host.name.replace("host.invalid", glob)) for host, glob in hosts]
        )
