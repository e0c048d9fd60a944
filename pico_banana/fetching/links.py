"""Say which address each image of a row has where no bytes are fetched."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pico_banana.fetching.sources import Sources
from pico_banana.hosts.guard import AddressGuard
from pico_banana.input_sources import SOURCES
from pico_banana.missing import AskError
from pico_banana.open_images.index import IMAGE_ID
from pico_banana.release.columns import below
from pico_banana.settings import Settings
from pico_banana.urls import mirrored

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
        self._links = tuple(dict.fromkeys(SOURCES[name].link for name in settings.sources))
        self._sources = Sources(settings)
        self._guard = AddressGuard(self._sources.allowed_hosts(), self._sources.named_hosts())
        self._cdn = mirrored(settings.cdn, settings.mirrors)

    def addresses(self) -> dict[str, Any]:
        """Return what, besides records and photos, decides the addresses; no secret is in it."""
        if self.images != "url":
            return {}
        found: dict[str, Any] = {"cdn": self._cdn, "input_sources": list(self._links)}
        mirrors = self._settings.mirrors
        for name in self._links:
            if SOURCES[name].needs_image_id:
                found[name] = mirrored(SOURCES[name].bases[0], mirrors)
            else:
                found["mirrors"] = [list(pair) for pair in mirrors.items()]
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
        for name in self._links if self.images == "url" else ():
            source = SOURCES[name]
            if source.needs_image_id:
                is_usable = pc.match_substring_regex(image_ids, IMAGE_ID)
                usable = pc.if_else(is_usable, image_ids, None)
                base = mirrored(source.bases[0], self._settings.mirrors).rstrip("/")
                found = below(f"{base}/", usable, ".jpg")
            else:
                distinct = urls.dictionary_encode()
                known = [self._address(name, url) for url in distinct.dictionary.to_pylist()]
                found = pa.array(known, pa.string()).take(distinct.indices)
            is_new = pc.and_(addresses.is_null(), found.is_valid())
            addresses = pc.if_else(is_new, found, addresses)
            sources = pc.if_else(is_new, source.input_source, sources)
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

    def _address(self, source: str, url: str) -> str | None:
        places = self._sources.places(source, url, None)
        return places[0].address if places and self._may_ask(places[0].address) else None

    def _may_ask(self, address: str) -> bool:
        """Whether a photo's own address may be passed on to readers of links."""
        if "::" in address:  # they take it for one file system behind another
            return False
        try:
            self._guard.check(address)
        except AskError:
            return False
        return True
