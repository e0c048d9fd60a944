"""Look into an image's bytes: a known format, whole, its size as `datasets` decodes it."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import re
import struct
import sys
import threading
import warnings
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import PIL
from PIL import ExifTags, Image, ImageFile, ImageOps

from pico_banana.missing import MissingReason

__all__ = ["FlawError", "ImageFormat", "inspect", "is_quick"]

# What photos and edits come as. Pillow knows more formats, some of which run other programs, and
# `Image.init` takes long to import them all. Its JPEG plugin opens MPO too.
_FORMATS = ("Png", "Jpeg", "WebP", "Gif", "Bmp", "Tiff", "Avif", "Ppm")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNK_EXTRA = 12  # length, type and CRC around a chunk's data
_PNG_TEXTS = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")  # where EXIF or XMP may stand
_PNG_NO_PIXELS = b"\0\0\0\0IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xff])")  # FF 00 is a byte of the picture, FF FF is padding
_JPEG_BARE = {0x01, *range(0xD0, 0xD9)}  # markers without a segment: TEM, RST0 to RST7, SOI
_QUICK_BYTES = 256 * 1024
_TURNED = range(2, 9)  # EXIF orientations of pictures that lie on a side, or are mirrored


# What Pillow's decoders raise on broken bytes is not one class.
_BROKEN = (
    OSError, EOFError, ValueError, TypeError, SyntaxError, LookupError, ArithmeticError,
    AttributeError, AssertionError, RuntimeError, struct.error, zlib.error,
)  # fmt: skip


_silencing = threading.Lock()
_OWN_PILLOW = "_pico_banana_pillow"


@functools.cache
def _formats(pillow: _Pillow) -> tuple[str, ...]:
    package = pillow.image.__name__.rpartition(".")[0]
    for kind in _FORMATS:
        with contextlib.suppress(ImportError):  # an older Pillow has no AVIF
            importlib.import_module(f"{package}.{kind}ImagePlugin")
    # A format that a build of Pillow lacks must not be asked for.
    return tuple(kind.upper() for kind in _FORMATS if kind.upper() in pillow.image.OPEN)


class FlawError(Exception):
    """The bytes are no whole image; `reason` says in which way."""

    def __init__(self, reason: MissingReason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class ImageFormat(NamedTuple):
    """What a whole image is.

    Attributes:
        format: Pillow's name of its format.
        width: in pixels, after its EXIF orientation, as `datasets` decodes it.
        height: likewise.
        mark: what is unusual of a JPEG though it decodes ("no_end_marker", "bytes_after_end"), or
            None.
    """

    format: str
    width: int
    height: int
    mark: str | None = None

    def measures(self) -> dict[str, Any]:
        """Return by name what columns may tell of it."""
        return {"format": self.format, "width": self.width, "height": self.height}


class Fetched(NamedTuple):
    """An image that was had.

    Attributes:
        url: its published address.
        name: its published file's base name.
        data: the published bytes.
        measures: by name, what `pico_banana.schema.MEASURES` tells of it, but for its address.
        mark: what is unusual of it, see `ImageFormat`.
        way: by which way it came: cdn, or the name of a source.
        tries: requests made for it in all.
    """

    url: str
    name: str
    data: bytes
    measures: Mapping[str, Any]
    mark: str | None
    way: str
    tries: int


def is_quick(data: bytes) -> bool:
    """Whether `inspect` without decoding takes less than to hand bytes to another thread.

    Other formats than these are decoded, and a large picture packs small.
    """
    return len(data) <= _QUICK_BYTES and data.startswith((_PNG_SIGNATURE, _JPEG_START))


def inspect(data: bytes, *, decode: bool, max_pixels: int, is_whole: bool = True) -> ImageFormat:
    """Return format and size of a whole image.

    A PNG is whole up to its IEND with right CRCs in all chunks, a JPEG up to its end marker. A
    JPEG that lacks the marker, or has bytes after it, is kept, and marked, where it decodes and
    its bytes are known to be all. Other formats are decoded, and so is what its EXIF turns, for it
    must decode as `datasets` decodes it: turned.

    Args:
        data: the published bytes.
        decode: decode the picture in full, whatever its format.
        max_pixels: a larger picture is refused before anything is decoded.
        is_whole: whether these are known to be all the bytes: as many as were announced.

    Raises:
        FlawError: not_an_image, corrupt, truncated or too_many_pixels.
    """
    pillow = _pillow()
    look = functools.partial(
        _inspect, pillow, data, decode=decode, max_pixels=max_pixels, is_whole=is_whole
    )
    try:
        try:
            return look()
        except Warning:
            # Where the user makes warnings errors: odd EXIF, or many pixels, are no flaw. Not
            # done always, since it is no matter of threads: it changes filters for all of them.
            with _silencing, warnings.catch_warnings():
                warnings.filterwarnings("ignore", module=rf"(?:PIL|{_OWN_PILLOW})\.")
                return look()
    except pillow.image.UnidentifiedImageError:
        said = f"{len(data)} bytes that are no image, starting {data[:16]!r}"
        reason = MissingReason.TRUNCATED if _is_cut(data) else MissingReason.NOT_AN_IMAGE
        raise FlawError(reason, said) from None
    except pillow.image.DecompressionBombError as error:
        raise FlawError(MissingReason.TOO_MANY_PIXELS, str(error)) from None
    except _BROKEN as error:
        is_cut = "truncated" in str(error).lower() or _is_cut(data)
        reason = MissingReason.TRUNCATED if is_cut else MissingReason.CORRUPT
        raise FlawError(reason, str(error)) from None


def _inspect(
    pillow: _Pillow, data: bytes, *, decode: bool, max_pixels: int, is_whole: bool
) -> ImageFormat:
    mark = None
    # Before Pillow looks: its own header parsing reports a cut PNG in many ways.
    png = _check_png(data) if data.startswith(_PNG_SIGNATURE) else None
    with pillow.image.open(io.BytesIO(data), formats=_formats(pillow)) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise FlawError(
                MissingReason.TOO_MANY_PIXELS, f"{width} x {height} pixels, at most {max_pixels}"
            )
        kind = image.format or ""
        if kind in ("JPEG", "MPO"):
            mark = _jpeg_mark(data)
            if mark and not is_whole:
                raise FlawError(
                    MissingReason.TRUNCATED, f"a JPEG with {mark}, and its length was not announced"
                )
            decode = decode or mark is not None
        elif kind != "PNG":
            decode = True
        if decode:
            image.load()
        exif = image.getexif() if png is None else _png_exif(pillow, image, data, png)
        orientation = exif.get(ExifTags.Base.Orientation)
        # As `datasets` decodes it: a tag that cannot be written again breaks what is turned.
        upright = pillow.operations.exif_transpose(image) if orientation in _TURNED else image
        width, height = upright.size  # a TIFF has been turned by now
    return ImageFormat(kind, width, height, mark)


class _Pillow(NamedTuple):
    """Its modules `Image` and `ImageOps`."""

    image: Any
    operations: Any


def _pillow() -> _Pillow:
    """Pillow, whose leave to pass over holes is not taken, whoever has given it.

    Trainers set `ImageFile.LOAD_TRUNCATED_IMAGES = True`, which bends opening and decoding in a
    dozen places. It is theirs, and they may be decoding in other threads: it must stay as it is.
    """
    return _own_pillow() if ImageFile.LOAD_TRUNCATED_IMAGES else _Pillow(Image, ImageOps)


@functools.cache
def _own_pillow() -> _Pillow:
    """A copy of Pillow of our own, in which nobody sets anything."""
    assert PIL.__file__ is not None
    spec = importlib.util.spec_from_file_location(
        _OWN_PILLOW, PIL.__file__, submodule_search_locations=[*PIL.__path__]
    )
    assert spec is not None
    assert spec.loader is not None
    package = sys.modules[_OWN_PILLOW] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    image, operations = (
        importlib.import_module(f"{_OWN_PILLOW}.{name}") for name in ("Image", "ImageOps")
    )
    return _Pillow(image, operations)


class _Png(NamedTuple):
    """Where a PNG holds what.

    Attributes:
        pixels: the offset of its first IDAT chunk, 0 until there is one.
        texts: the chunks behind its pixels that may hold EXIF.
        is_animated: whether it says that it has several pictures.
    """

    pixels: int
    texts: list[memoryview]
    is_animated: bool


def _png_exif(pillow: _Pillow, image: Any, data: bytes, png: _Png) -> Any:
    """The EXIF of an open PNG, which Pillow itself looks for by decoding all pixels.

    It may stand behind them. So what stands there is put before them, where opening reads it.
    """
    if png.is_animated:  # each picture may have texts behind it
        return image.getexif()
    if png.texts:
        head = b"".join([data[: png.pixels], *png.texts, _PNG_NO_PIXELS])
        try:
            image = pillow.image.open(io.BytesIO(head), formats=("PNG",))
        except _BROKEN:  # texts in which opening is stricter than decoding
            return image.getexif()
    return pillow.image.Image.getexif(image)  # its PNG class would decode


def _check_png(data: bytes) -> _Png:
    """Walk a PNG's chunks to IEND, checking their CRCs; return where it holds what."""
    position = len(_PNG_SIGNATURE)
    pixels, texts, is_animated = 0, list[memoryview](), False
    view = memoryview(data)
    while True:
        if position + _PNG_CHUNK_EXTRA > len(data):
            raise FlawError(MissingReason.TRUNCATED, "the PNG ends before its IEND chunk")
        (length,) = struct.unpack_from(">I", data, position)
        kind = data[position + 4 : position + 8]
        end = position + _PNG_CHUNK_EXTRA + length
        if not kind.isalpha():
            raise FlawError(MissingReason.CORRUPT, f"the PNG has a chunk named {kind!r}")
        if end > len(data):
            raise FlawError(MissingReason.TRUNCATED, f"the PNG ends inside its {kind!r} chunk")
        (stated,) = struct.unpack_from(">I", data, end - 4)
        if zlib.crc32(view[position + 4 : end - 4]) != stated:
            raise FlawError(MissingReason.CORRUPT, f"the PNG's {kind!r} chunk has a wrong CRC")
        if kind == b"IEND":
            if not pixels:
                raise FlawError(MissingReason.CORRUPT, "the PNG has no IDAT chunk")
            return _Png(pixels, texts, is_animated)
        if kind == b"IDAT":
            pixels = pixels or position
        elif pixels and kind in _PNG_TEXTS:
            texts.append(view[position:end])
        is_animated = is_animated or kind == b"acTL"
        position = end


def _is_cut(data: bytes) -> bool:
    """Whether bytes that cannot be read begin like a JPEG or WebP that has not come whole."""
    if data.startswith(_JPEG_START + b"\xff"):
        return _jpeg_end(data) is None
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    return False


def _jpeg_mark(data: bytes) -> str | None:
    if data.endswith(_JPEG_END):
        return None
    return "no_end_marker" if _jpeg_end(data) is None else "bytes_after_end"


def _jpeg_end(data: bytes) -> int | None:
    """The offset behind a JPEG's own end marker, None where the bytes end before it.

    Walks from marker to marker: a thumbnail has an end marker too, inside of a segment.
    """
    position = len(_JPEG_START)
    while found := _JPEG_MARKER.search(data, position):
        position = found.end()
        marker = found[1][0]
        if marker == _JPEG_END[1]:
            return position
        if marker not in _JPEG_BARE:
            position += int.from_bytes(data[position : position + 2], "big")
    return None
