"""List the sources of input images: all that differs from source to source stands in one table.

To add one, add a row to `SOURCES`: settings, fetching, links, estimates, budgets and the card read
it there.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from pico_banana.urls import BUCKET, FLICKR_HOSTS, mirrored, where_asked

__all__ = [
    "SOURCES",
    "TRAIN_FOLDERS",
    "Finder",
    "Place",
    "Source",
    "banning",
    "below_base",
    "input_sources_of",
]


class Place(NamedTuple):
    """One place to try: the way by which it is reached, and the address that is contacted.

    `way` is cdn or the name of a source; `address` a URL or a local path, for a tar that of the
    folder that the tars lie in and the photo's file name. `within` says what may be read there: a
    local file must really lie in one of these folders, links followed; of an fsspec URL it is the
    beginning that the user gave.
    """

    way: str
    address: str
    within: tuple[str, ...] = ()

    @property
    def is_local(self) -> bool:
        """Whether the address is a local path; that may hold "://" too, from a record's URL."""
        return os.path.isabs(self.address)


TRAIN_FOLDERS = (*[f"train_{digit}" for digit in "0123456789abcdef"], "train")
"""Where photos lie in the folder `open_images`, if not in itself: as the tars name it, or all."""

Finder = Callable[[str, str | None], Sequence[Place]]
"""Returns the places of a photo, by its published URL and its ImageID, None where it has none."""


@dataclass(frozen=True)
class Source:
    """A source of input images.

    Attributes:
        title: what a person calls it.
        input_source: what the column `input_source` says of its images.
        bytes_are: what these images are, in words.
        finder: makes a `Finder`, of the folder `open_images` (None where there is none) and of the
            user's mirrors.
        link: the source whose addresses its images have in the link edition.
        bases: published addresses that photos' own begin with, of hosts that are spelled in several
            ways one of each; none where photos are not asked for over the network.
        hosts: a glob of the names of its published hosts, which may be asked without being named.
        needs_folder: whether it lies in the folder `open_images`.
        needs_image_id: whether it finds photos by their ImageID alone, not by their URL.
        is_usual: whether it is tried where `input_sources` is not given.
        is_original: whether its images are the originals whose sizes and MD5s Open Images lists.
        bans: whether it bans who asks much.
    """

    title: str
    input_source: str
    bytes_are: str
    finder: Callable[[str | None, Mapping[str, str]], Finder]
    link: str
    bases: tuple[str, ...] = ()
    hosts: str = ""
    needs_folder: bool = False
    needs_image_id: bool = True
    is_usual: bool = True
    is_original: bool = False
    bans: bool = False

    @property
    def is_remote(self) -> bool:
        """Whether its photos are asked for over the network."""
        return bool(self.bases)

    def bans_at(self, url: str) -> bool:
        """Whether a URL is of a host of this source's that bans who asks much."""
        return self.bans and fnmatch.fnmatchcase(urlsplit(url).hostname or "", self.hosts)

    def asked(self, mirrors: Mapping[str, str]) -> list[str]:
        """Return where its photos are really asked for, after mirrors: URLs, or local folders."""
        return list(dict.fromkeys(mirrored(base, mirrors) for base in self.bases))


def _in_folder(open_images: str | None, _mirrors: Mapping[str, str]) -> Finder:
    """Photos as files: train_0/<ImageID>.jpg, train/<ImageID>.jpg or <ImageID>.jpg."""
    root = open_images or ""
    folders = {name: os.path.join(root, name) for name in TRAIN_FOLDERS}
    # A file's own folder comes first: mostly it lies there, and no other must be looked at. What
    # may be read is the same for all places of a folder: they share one tuple.
    within = {name: (folder, root, *folders.values()) for name, folder in folders.items()}
    within[""] = (root, *folders.values())

    def find(_url: str, image_id: str | None) -> Sequence[Place]:
        names = () if image_id is None else (f"train_{image_id[0]}", "train", "")
        return [
            Place("folder", os.path.join(root, name, f"{image_id}.jpg"), within[name])
            for name in names
        ]

    return find


def _in_tars(open_images: str | None, _mirrors: Mapping[str, str]) -> Finder:
    root = open_images or ""
    return lambda _url, image_id: (
        [] if image_id is None else [Place("tar", os.path.join(root, f"{image_id}.jpg"))]
    )


def below_base(way: str, published: str) -> Callable[[str | None, Mapping[str, str]], Finder]:
    """Return the `finder` of a source that has all photos below one address, by their ImageID."""

    def finder(_open_images: str | None, mirrors: Mapping[str, str]) -> Finder:
        base = mirrored(published, mirrors).rstrip("/")
        within = (base,)
        return lambda _url, image_id: (
            [] if image_id is None else [Place(way, f"{base}/{image_id}.jpg", within)]
        )

    return finder


def _at_flickr(_open_images: str | None, mirrors: Mapping[str, str]) -> Finder:
    """The photo's own address; none where its host may not be asked."""

    def find(url: str, _image_id: str | None) -> Sequence[Place]:
        scheme, mark, rest = url.partition("://")
        url = f"{scheme.lower()}{mark}{rest}"
        address, own = where_asked(url, mirrors)
        if address != url:
            return [Place("flickr", address, (own,))]
        is_flickr = fnmatch.fnmatchcase(urlsplit(url).hostname or "", FLICKR_HOSTS)
        return [Place("flickr", address)] if is_flickr else []

    return find


_WHAT_THE_EDITOR_SAW = "the file that the editor saw"

SOURCES: dict[str, Source] = {
    "folder": Source(
        title="the folder open_images",
        input_source="open_images",
        bytes_are=_WHAT_THE_EDITOR_SAW,
        finder=_in_folder,
        link="bucket",
        needs_folder=True,
    ),
    "tar": Source(
        title="the tars in open_images",
        input_source="open_images",
        bytes_are=_WHAT_THE_EDITOR_SAW,
        finder=_in_tars,
        link="bucket",
        needs_folder=True,
    ),
    "bucket": Source(
        title="Open Images' bucket",
        input_source="open_images",
        bytes_are=_WHAT_THE_EDITOR_SAW,
        finder=below_base("bucket", BUCKET),
        link="bucket",
        bases=(BUCKET,),
        hosts=urlsplit(BUCKET).hostname or "",
    ),
    # Only where it is named: its bytes are not those that the editor saw, and it bans.
    "flickr": Source(
        title="Flickr",
        input_source="flickr",
        bytes_are="the original",
        finder=_at_flickr,
        link="flickr",
        bases=tuple(
            f"https://{FLICKR_HOSTS.replace('*', name)}/"
            for name in ("farm1", "farm5", "c1", "c5", "live")
        ),
        hosts=FLICKR_HOSTS,
        needs_image_id=False,
        is_usual=False,
        is_original=True,
        bans=True,
    ),
}
"""The sources by the names that `input_sources` takes, in the order in which they are tried where
it is not given; an image's way is the name of its source."""


def banning(names: Iterable[str], mirrors: Mapping[str, str]) -> list[str]:
    """Return who bans of those that are contacted for these sources, by their titles."""
    places = [place for name in names for place in SOURCES[name].asked(mirrors)]
    asked = [place for place in places if not os.path.isabs(place)]
    return [source.title for source in SOURCES.values() if any(map(source.bans_at, asked))]


def input_sources_of(names: Iterable[str]) -> list[str]:
    """Return what the column `input_source` may say of images of these sources, each once."""
    return list(dict.fromkeys(SOURCES[name].input_source for name in names))
