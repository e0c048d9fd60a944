"""Turn an image reference into the ordered places where its bytes may be had."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from pico_banana.missing import MissingReason
from pico_banana.open_images import Photo, is_image_id
from pico_banana.records import PUBLISHED_BASE, Record, published_url
from pico_banana.settings import BUCKET, Settings

__all__ = ["FLICKR_HOSTS", "ImageRef", "Place", "Sources", "join", "mirrored"]

FLICKR_HOSTS = "*.staticflickr.com"
"""The hosts that a record's input URL may reach by itself."""


class Place(NamedTuple):
    """One place to try: the way by which it is reached, and the address that is contacted.

    `way` is cdn, folder, bucket or flickr; `address` a URL or a local path.
    """

    way: str
    address: str


class ImageRef(NamedTuple):
    """One image: its published address, and the places where it may be had, in order.

    `absent` is why the image is missing where no place has it or none can be tried.
    """

    url: str
    name: str
    places: tuple[Place, ...]
    absent: MissingReason = MissingReason.NOT_LISTED


def mirrored(url: str, mirrors: Mapping[str, str]) -> str:
    """Return where a URL is really asked: the first mirror whose host glob matches, or itself."""
    if not mirrors or not url.startswith(("http://", "https://")):
        return url
    parts = urlsplit(url)
    host = parts.hostname or ""
    for glob, base in mirrors.items():
        if fnmatch.fnmatchcase(host, glob.lower()):
            query = f"?{parts.query}" if parts.query else ""
            return base.replace("{host}", host).rstrip("/") + parts.path + query
    return url


def join(base: str, path: str) -> str:
    """Join a release's base with a path below it: quoted for http(s), as it is elsewhere."""
    return f"{base}/{quote(path) if base.startswith(('http://', 'https://')) else path}"


class Sources:
    """Where each image of a release may be had, by the user's settings; pure, no I/O."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._cdn = mirrored(settings.cdn, settings.mirrors)

    def edited(self, path: str) -> ImageRef:
        """Return the reference of an edited, chosen, rejected or turn image."""
        name = path.rpartition("/")[2]
        if not path.startswith("images/"):
            # Neither below images/ nor in the manifest: nobody knows where it lies.
            return ImageRef(published_url(path), name, (), MissingReason.UNRESOLVED)
        return ImageRef(published_url(path), name, (Place("cdn", join(self._cdn, path)),))

    def input(self, record: Record, photo: Photo | None) -> ImageRef:
        """Return the reference of a record's input image."""
        places: list[Place] = []
        absent = MissingReason.NOT_LISTED
        for source in self._settings.sources:
            if source == "flickr":
                address = self._flickr(record.input_url)
                absent = MissingReason.FORBIDDEN_ADDRESS if address is None else absent
                places += [Place("flickr", address)] if address else []
            elif photo is not None and is_image_id(photo.image_id):
                places += self._open_images(source, photo.image_id)
        return ImageRef(record.input_url, record.photo, tuple(places), absent)

    def _open_images(self, source: str, image_id: str) -> list[Place]:
        if source == "bucket":
            return [Place("bucket", mirrored(f"{BUCKET}{image_id}.jpg", self._settings.mirrors))]
        root = self._settings.open_images or ""
        folders = (f"train_{image_id[0]}", "train", "")
        return [Place("folder", os.path.join(root, name, f"{image_id}.jpg")) for name in folders]

    def _flickr(self, url: str) -> str | None:
        """The address of a Flickr original, None where its host may not be asked."""
        address = mirrored(url, self._settings.mirrors)
        if address != url:
            return address
        return url if fnmatch.fnmatchcase(urlsplit(url).hostname or "", FLICKR_HOSTS) else None

    def allowed_hosts(self) -> tuple[str, ...]:
        """Return the globs of hosts that may be reached, also after redirects."""
        named = [urlsplit(url).hostname or "" for url in (PUBLISHED_BASE, BUCKET)]
        return (FLICKR_HOSTS, *named, *self.named_hosts())

    def named_hosts(self) -> tuple[str, ...]:
        """Return globs of the hosts that the user named; only they may have private addresses."""
        mirrors = self._settings.mirrors.items()
        # Not with the glob's own brackets and stars in the URL: those may be no host's name.
        bases = [base.replace("{host}", "host.invalid") for _, base in mirrors]
        hosts = [
            (urlsplit(base).hostname or "").replace("host.invalid", glob)
            for base, (glob, _) in zip(bases, mirrors, strict=True)
        ]
        hosts.append(urlsplit(self._cdn).hostname or "")
        return tuple(host for host in hosts if host)
