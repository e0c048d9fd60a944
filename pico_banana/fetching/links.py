"""Say which address each image of a row has where no bytes are fetched."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pico_banana.fetching.sources import Sources
from pico_banana.hosts.guard import AddressGuard
from pico_banana.missing import AskError
from pico_banana.open_images.index import IMAGE_ID
from pico_banana.release.columns import below
from pico_banana.settings import Settings
from pico_banana.urls import BUCKET, mirrored

__all__ = ["Links"]


class Links:
    """The addresses that a row's images have where no bytes are fetched; pure, no I/O.

    With `images="none"` there are none. An address is an http(s) URL of a host that may be asked,
    never a path: whoever reads it would else open a file of his own.

    Attributes:
        images: url or none.
    """

    def __init__(self, settings: Settings) -> None:
        self.images, self._settings = settings.images, settings
        self._kinds = tuple(
            dict.fromkeys(
                "flickr" if source == "flickr" else "bucket" for source in settings.sources
            )
        )
        self._sources = Sources(settings)
        self._guard = AddressGuard(self._sources.allowed_hosts(), self._sources.named_hosts())
        self._cdn = mirrored(settings.cdn, settings.mirrors)
        self._bucket = mirrored(BUCKET, settings.mirrors).rstrip("/")

    def addresses(self) -> dict[str, Any]:
        """Return what, besides records and photos, decides the addresses; no secret is in it."""
        if self.images != "url":
            return {}
        found: dict[str, Any] = {"cdn": self._cdn, "input_sources": list(self._kinds)}
        if "bucket" in self._kinds:
            found["bucket"] = mirrored(BUCKET, self._settings.mirrors)
        if "flickr" in self._kinds:
            found["mirrors"] = [list(pair) for pair in self._settings.mirrors.items()]
        return found

    def inputs(
        self, urls: pa.StringArray, image_ids: pa.StringArray
    ) -> tuple[pa.StringArray, pa.StringArray]:
        """Return the address of each record's input image and its `input_source`, or two nulls.

        Args:
            urls: the records' `input_url`.
            image_ids: their photos' ImageIDs, null where one is not listed.
        """
        addresses = sources = pa.nulls(len(urls), pa.string())
        for kind in self._kinds if self.images == "url" else ():
            if kind == "flickr":
                distinct = urls.dictionary_encode()
                known = [self._flickr(url) for url in distinct.dictionary.to_pylist()]
                found = pa.array(known, pa.string()).take(distinct.indices)
            else:
                is_usable = pc.match_substring_regex(image_ids, IMAGE_ID)
                usable = pc.if_else(is_usable, image_ids, None)
                found = below(f"{self._bucket}/", usable, ".jpg")
            source = "flickr" if kind == "flickr" else "open_images"
            is_new = pc.and_(addresses.is_null(), found.is_valid())
            addresses = pc.if_else(is_new, found, addresses)
            sources = pc.if_else(is_new, source, sources)
        return addresses, sources

    def edited(self, paths: pa.StringArray, names: pa.StringArray) -> pa.StringArray:
        """Return the addresses of edited images, null where nobody knows where one lies.

        Args:
            paths: below the release's base.
            names: the same, quoted as in URLs.
        """
        if self.images != "url":
            return pa.nulls(len(paths), pa.string())
        is_known = pc.starts_with(paths, "images/")
        return pc.if_else(is_known, below(f"{self._cdn}/", names), None)

    def _flickr(self, url: str) -> str | None:
        place = self._sources.flickr(url)
        return place.address if place is not None and self._may_ask(place.address) else None

    def _may_ask(self, address: str) -> bool:
        """Whether a photo's own address may be passed on to readers of links."""
        if "::" in address:  # they take it for one file system behind another
            return False
        try:
            self._guard.check(address)
        except AskError:
            return False
        return True
