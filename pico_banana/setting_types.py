"""Check values that a user gives: places without secrets in them, words of a list, ids."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from pico_banana.errors import bare_url, holds_password, near
from pico_banana.input_sources import SOURCES
from pico_banana.schema import EDIT_CATEGORIES, EDIT_TYPES, slug_of
from pico_banana.urls import Host, path_of

__all__ = [
    "Base",
    "EditCategories",
    "EditTypes",
    "ExcludedIds",
    "Ids",
    "MetadataPlace",
    "Mirrors",
    "PathOrUrl",
    "SourceNames",
]

# "word" errors are shown as they are, without the value that was given: it may be a secret.


def _place(value: Any) -> Any:
    """A URL without its last slash, or a local path made absolute."""
    place = os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(place, bytes):  # pydantic would make it a text, unseen by what follows
        raise PydanticCustomError("word", "must be text, a URL or a path, but is bytes")
    if not isinstance(place, str):
        return value
    if not place:
        raise PydanticCustomError("place", "must be a URL or a path")
    path = path_of(place)
    if path is not None:
        return os.path.abspath(path)
    if holds_password(place):
        raise PydanticCustomError(
            "word",
            "must hold no user name and no password, but does; give them in storage_options, and "
            "a proxy's in the environment (HTTPS_PROXY)",
        )
    scheme, mark, rest = place.partition("://")
    place = f"{scheme.lower()}{mark}{rest}"
    if place.startswith(("http://", "https://")):
        _check_host(place)
    bare = place.rstrip("/")
    return place if bare.endswith(":") else bare


def _check_host(url: str) -> None:
    try:
        Host.of(url.replace("{host}", "host.invalid"))  # a mirror may have it there
    except ValueError:
        raise PydanticCustomError(
            "word",
            "must be an http(s) URL with a host's name or address, but is none; look at host and "
            "port",
        ) from None


def _base(value: Any) -> Any:
    """A place that paths are appended to."""
    place = _place(value)
    if isinstance(place, str) and place.startswith(("http://", "https://")):
        parts = urlsplit(place)
        if parts.query or parts.fragment:
            raise PydanticCustomError(
                "word",
                "must be a URL without query and fragment, for paths are appended to it, but has "
                "one; for places that ask for keys give an fsspec URL (s3://…) and storage_options",
            )
    return place


def _metadata_place(value: Any) -> Any:
    return value if value == "none" else _place(value)


def _mirrors(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    for glob, base in value.items():
        if not isinstance(base, str) or not ("://" in base or os.path.isabs(base)):
            raise PydanticCustomError(
                "word",
                "must map host globs to URLs or absolute paths, but {glob} is none",
                {"glob": repr(bare_url(str(glob)))},
            )
    return {glob: _base(base) for glob, base in value.items()}


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, Iterable) or isinstance(value, (bytes, Mapping)):
        raise PydanticCustomError("list", "must be a list")
    return list(value)


def _one_of(names: tuple[str, ...]) -> Any:
    """A validator: each value is one of the names or of their slugs; sorted, without doubles."""
    by_word = {slug_of(name): name for name in names} | {name: name for name in names}

    def validate(value: Any) -> tuple[str, ...]:
        words = [value] if isinstance(value, str) else _listed(value)
        for word in words:
            if not isinstance(word, str) or word not in by_word:
                slugs = [slug_of(name) for name in names]
                listed = f"one of {', '.join(slugs)}" if len(slugs) < 10 else "a known edit type"  # noqa: PLR2004
                raise PydanticCustomError(
                    "word",
                    "must be {listed}, but got {word}{near} `pico-banana types` lists them",
                    {"listed": listed, "near": near(str(word), by_word) or ";", "word": repr(word)},
                )
        if not words:  # it would keep nothing, which nobody means
            raise PydanticCustomError("word", "must name at least one, but is empty")
        return tuple(sorted({by_word[word] for word in words}))

    return validate


def _source_names(value: Any) -> tuple[str, ...]:
    """Names of sources, in their order."""
    names = [value] if isinstance(value, str) else _listed(value)
    for name in names:
        if not isinstance(name, str) or name not in SOURCES:
            raise PydanticCustomError(
                "word",
                "must be one of {listed}, but got {name}{near}",
                {
                    "listed": ", ".join(SOURCES),
                    "name": repr(name),
                    "near": near(str(name), SOURCES),
                },
            )
    return tuple(names)


def _ids(value: Any) -> tuple[str, ...]:
    """A list of ids, or the path of a file with one a line (on the command line `@FILE`)."""
    if isinstance(value, (str, os.PathLike)):
        value = [f"@{os.fspath(value).removeprefix('@')}"]
    found: set[str] = set()
    for entry in map(str, _listed(value)):
        if entry.startswith("@"):
            try:
                with open(os.path.expanduser(entry[1:]), encoding="utf-8-sig") as file:
                    found.update(line.strip() for line in file if line.strip())
            except (OSError, UnicodeDecodeError) as error:
                raise PydanticCustomError(
                    "file",
                    "must be a list of ids, or a file with one a line; {error}",
                    {"error": str(error)},
                ) from None
        else:
            found.add(entry)
    return tuple(sorted(found))


def _some_ids(value: Any) -> tuple[str, ...]:
    found = _ids(value)
    if not found:
        raise PydanticCustomError("file", "must name at least one id, but is empty")
    return found


def _no_ids(value: Any) -> tuple[str, ...] | None:
    """Nothing to leave out is the same as unset."""
    return None if value is None else _ids(value) or None


PathOrUrl = Annotated[str, BeforeValidator(_place)]
Base = Annotated[str, BeforeValidator(_base)]
MetadataPlace = Annotated[str, BeforeValidator(_metadata_place)]
Mirrors = Annotated[dict[str, str], BeforeValidator(_mirrors)]
EditTypes = Annotated[
    tuple[str, ...], BeforeValidator(_one_of(tuple(kind.name for kind in EDIT_TYPES)))
]
EditCategories = Annotated[tuple[str, ...], BeforeValidator(_one_of(EDIT_CATEGORIES))]
SourceNames = Annotated[tuple[str, ...], BeforeValidator(_source_names)]
Ids = Annotated[tuple[str, ...], BeforeValidator(_some_ids)]
ExcludedIds = Annotated[tuple[str, ...] | None, BeforeValidator(_no_ids)]
