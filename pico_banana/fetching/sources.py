"""Turn an image reference into the ordered places where its bytes may be had."""

from __future__ import annotations

import fnmatch
import os
from typing import NamedTuple
from urllib.parse import urlsplit

from pico_banana.missing import MissingReason
from pico_banana.open_images.index import Photo, is_image_id
from pico_banana.release.records import Record
from pico_banana.settings import Settings
from pico_banana.urls import (
    BUCKET,
    FLICKR_HOSTS,
    PUBLISHED_BASE,
    Host,
    join,
    mirrored,
    published_url,
    where_asked,
)

__all__ = ["FLICKR_HOSTS", "ImageRef", "Place", "Sources"]


class Place(NamedTuple):
    """One place to try: the way by which it is reached, and the address that is contacted.

    `way` is cdn, folder, tar, bucket or flickr; `address` a URL or a local path, for a tar that of
    the folder that the tars lie in and the photo's file name. `within` says what may be read there:
    a local file must really lie in one of these folders, links followed; of an fsspec URL it is the
    beginning that the user gave.
    """

    way: str
    address: str
    within: tuple[str, ...] = ()

    @property
    def is_local(self) -> bool:
        """Whether the address is a local path; that may hold "://" too, from a record's URL."""
        return os.path.isabs(self.address)


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
        self._bucket = mirrored(BUCKET, settings.mirrors).rstrip("/")
        # What may be read is the same for all places of a kind: they share one tuple.
        self._within_cdn = (self._cdn, f"{self._cdn}/images")
        self._within_bucket = (self._bucket,)
        root = settings.open_images or ""
        digits = [f"train_{digit}" for digit in "0123456789abcdef"]
        folders = {name: os.path.join(root, name) for name in (*digits, "train")}
        # A file's own folder comes first: mostly it lies there, and no other must be looked at.
        self._within_folder = {
            name: (folder, root, *folders.values()) for name, folder in folders.items()
        }
        self._within_folder[""] = (root, *folders.values())

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
        for source in self._settings.sources:
            if source == "flickr":
                place = self.flickr(record.input_url)
                absent = MissingReason.FORBIDDEN_ADDRESS if place is None else absent
                places += [place] if place else []
            elif photo is not None and is_image_id(photo.image_id):
                places += self.photo(source, photo.image_id)
        return ImageRef(record.input_url, record.photo, tuple(places), absent)

    def photo(self, source: str, image_id: str) -> list[Place]:
        """Return the places of an Open Images photo in one source: folder, tar or bucket."""
        if source == "bucket":
            return [Place("bucket", f"{self._bucket}/{image_id}.jpg", self._within_bucket)]
        root = self._settings.open_images or ""
        if source == "tar":
            return [Place("tar", os.path.join(root, f"{image_id}.jpg"))]
        return [
            Place("folder", os.path.join(root, name, f"{image_id}.jpg"), self._within_folder[name])
            for name in (f"train_{image_id[0]}", "train", "")
        ]

    def flickr(self, url: str) -> Place | None:
        """Return the place of a Flickr original, None where its host may not be asked."""
        scheme, mark, rest = url.partition("://")
        url = f"{scheme.lower()}{mark}{rest}"
        address, own = where_asked(url, self._settings.mirrors)
        is_mirror = address != url
        if is_mirror or fnmatch.fnmatchcase(urlsplit(url).hostname or "", FLICKR_HOSTS):
            return Place("flickr", address, (own,) if is_mirror else ())
        return None

    def allowed_hosts(self) -> tuple[str, ...]:
        """Return globs of the names of published hosts, which may be reached without being named.

        Also after redirects; by http and https, at their usual ports.
        """
        return (FLICKR_HOSTS, *[urlsplit(url).hostname or "" for url in (PUBLISHED_BASE, BUCKET)])

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
