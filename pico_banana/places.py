"""Check the places that a user names: URLs and paths, without secrets in them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from pico_banana.errors import bare_url, holds_password
from pico_banana.hosts import Host

__all__ = ["Base", "MetadataPlace", "Mirrors", "Place"]

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
    if holds_password(place):
        raise PydanticCustomError(
            "word",
            "must hold no user name and no password, but does; give them in storage_options, and "
            "a proxy's in the environment (HTTPS_PROXY)",
        )
    scheme, mark, rest = place.partition("://")
    scheme = scheme.lower()
    if not mark:
        place = os.path.abspath(os.path.expanduser(place.removeprefix("file:")))
    elif scheme in ("file", "local"):
        place = os.path.abspath(rest)
    else:
        place = f"{scheme}{mark}{rest}"
    if scheme in ("http", "https"):
        _check_host(place)
    bare = place.rstrip("/")
    return place if bare.endswith(":") else bare or "/"


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


Place = Annotated[str, BeforeValidator(_place)]
Base = Annotated[str, BeforeValidator(_base)]
MetadataPlace = Annotated[str, BeforeValidator(_metadata_place)]
Mirrors = Annotated[dict[str, str], BeforeValidator(_mirrors)]
