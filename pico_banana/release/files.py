"""Open a release: its JSONL files by ranges of bytes, its manifests by a path's tail."""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from pico_banana.errors import ReleaseError, bare_url
from pico_banana.input_sources import input_sources_of
from pico_banana.release.records import BadRecord, Record, parse_line, split_lines
from pico_banana.settings import Settings, build_settings
from pico_banana.storage.remote import RemoteFile
from pico_banana.urls import PUBLISHED_BASE, join, mirrored

__all__ = ["Manifest", "Release", "state_of"]


class Manifest:
    """The manifest of one config, looked up by a path's tail; read when first needed.

    Attributes:
        found: the paths that were looked up and found, with what they resolve to.
    """

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self.found: dict[str, str] = {}

    @functools.cached_property
    def _by_name(self) -> dict[str, list[str]]:
        by_name: dict[str, list[str]] = {}
        with open(self._file.kept("manifest"), encoding="utf-8-sig", errors="replace") as file:
            for line in file:
                # One URL a line; what stands before the release's own part differs by host only.
                _, found, rest = line.strip().partition("/images/")
                # A URL's name may be encoded; a record's never is.
                for spelling in {rest, unquote(rest)} if found else ():
                    name = spelling.rpartition("/")[2]
                    by_name.setdefault(name, []).append(f"images/{spelling}")
        return by_name

    def resolve(self, path: str) -> str | None:
        """Return the listed path that shares the longest tail with `path`; None for none or two."""
        parts = path.split("/")[::-1]
        best: list[str] = []
        longest = 0
        for listed in dict.fromkeys(self._by_name.get(parts[0], [])):
            pairs = zip(parts, listed.split("/")[::-1], strict=False)
            shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
            if shared > longest:
                best, longest = [listed], shared
            elif shared == longest:
                best.append(listed)
        if len(best) != 1:
            return None
        self.found[path] = best[0]
        return best[0]


class Release:
    """The files of a release at the place that the settings name.

    Reads over http(s), any fsspec URL, or from a folder. Raises `ReleaseError`, which names the
    URL, where the release does not answer or is none.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._manifests: dict[str, Manifest] = {}
        self.base = mirrored(settings.cdn, settings.mirrors)

    def mirror(self, place: str) -> str:
        """Return where a URL is really asked, by the user's mirrors; a path stays itself."""
        return mirrored(place, self._settings.mirrors)

    def file(self, path: str) -> RemoteFile:
        """Return a file of the release by its path below the base."""
        options = self._settings.storage_options
        return RemoteFile(join(self.base, path), options)

    def jsonl(self, config: str) -> RemoteFile:
        """Return a config's JSONL file; a local folder must hold it."""
        file = self.file(self._settings.for_config(config).jsonl)
        if file.is_local and not os.path.isfile(file.url):
            raise ReleaseError(
                f"cdn must be a folder that holds {self._settings.for_config(config).jsonl} "
                f"(as under {PUBLISHED_BASE}), but {file.url} is not there",
                file.url,
            )
        return file

    def manifest(self, config: str) -> Manifest:
        """Return a config's manifest, which is read only when a path must be looked up."""
        if config not in self._manifests:
            file = self.file(self._settings.for_config(config).manifest)
            self._manifests[config] = Manifest(file)
        return self._manifests[config]

    def identity(self, config: str) -> dict[str, Any]:
        """Return what tells the examples of these settings from those of others.

        Only what differs from the defaults, in an order that does not matter; nothing of places
        and transport, but a `cdn` that is not Apple's, and a local one's state: rows of one
        release must never be served for another.
        """
        settings = self._settings
        own = {
            "cdn": state_of(settings.cdn, self._local_jsonl(config)),
            "open_images_metadata": state_of(
                settings.open_images_metadata, settings.open_images_metadata
            ),
            "input_sources": input_sources_of(settings.sources),
            **{name: getattr(settings, name) for name in _CONTENT},
            **{name: getattr(settings.fetch, name) for name in _CONTENT_OF_FETCH},
        }
        default = build_settings(Settings, {})
        usual = {
            "cdn": default.cdn,
            "open_images_metadata": default.open_images_metadata,
            "input_sources": input_sources_of(default.sources),
            **{name: getattr(default, name) for name in _CONTENT},
            **{name: getattr(default.fetch, name) for name in _CONTENT_OF_FETCH},
        }
        return {name: own[name] for name in sorted(own) if own[name] != usual[name]}

    def _local_jsonl(self, config: str) -> str:
        return f"{self._settings.cdn}/{self._settings.for_config(config).jsonl}"

    def records(
        self,
        config: str,
        start: int = 0,
        end: int | None = None,
        *,
        file: RemoteFile | None = None,
    ) -> Iterator[Record | BadRecord]:
        """Yield the records and bad lines of a range of bytes, in the file's order.

        A line belongs to the range in which its first byte lies, so ranges that touch give every
        line once. Blank lines are left out.

        Args:
            config: sft, preference or multi_turn.
            start: the range's first byte.
            end: the byte after its last one, None for the file's end.
            file: a copy of the config's JSONL file to read instead.
        """
        resolve = self.manifest(config).resolve
        # One byte earlier: it tells whether a line begins at `start`.
        with (file or self.jsonl(config)).reading(max(start - 1, 0)) as read:
            for line in split_lines(read, start, end):
                if line.raw is None or line.raw.strip():
                    yield parse_line(config, line, resolve)


_CONTENT = (
    *("edit_types", "edit_categories", "ids", "exclude_ids", "offset", "limit", "validation"),
    *("on_missing", "images"),
)
_CONTENT_OF_FETCH = ("max_image_bytes", "max_pixels", "placeholder_sha256s")


def state_of(place: str, path: str) -> str:
    """A place, and where `path` is a local file, its size and time too; no secret stands in it."""
    try:
        found = os.stat(path)
    except OSError:  # a URL, or a file that is not there, of which its reader will speak
        shown = bare_url(place)
        # The query may be what tells two files apart, or a signature.
        return (
            place if shown == place else f"{shown} {hashlib.sha256(os.fsencode(place)).hexdigest()}"
        )
    return f"{place} {found.st_size} {found.st_mtime_ns}"
