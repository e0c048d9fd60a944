"""Look into an image's bytes: a known format, whole, its size as `datasets` decodes it."""

from __future__ import annotations

import functools
import io
import struct
import threading
import warnings
import zlib
from typing import NamedTuple

from PIL import ExifTags, Image, UnidentifiedImageError

from pico_banana.missing import MissingReason

__all__ = ["FlawError", "ImageFacts", "inspect"]

# What photos and edits come as. Pillow knows more formats, some of which run other programs.
# Its JPEG plugin opens MPO too. A format that a build of Pillow lacks must not be asked for.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNK_EXTRA = 12  # length, type and CRC around a chunk's data
_SIDEWAYS = range(5, 9)  # EXIF orientations that swap width and height


# What Pillow's decoders raise on broken bytes is not one class.
_BROKEN = (
    OSError, EOFError, ValueError, TypeError, SyntaxError, LookupError, ArithmeticError,
    RuntimeError, struct.error, zlib.error,
)  # fmt: skip


_silencing = threading.Lock()


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(kind for kind in _FORMATS if kind in Image.OPEN)


class FlawError(Exception):
    """The bytes are no whole image; `reason` says in which way."""

    def __init__(self, reason: MissingReason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class ImageFacts(NamedTuple):
    """What a whole image is.

    Attributes:
        format: Pillow's name of its format.
        width: in pixels, after its EXIF orientation, as `datasets` decodes it.
        height: likewise.
        mark: what is unusual though the image decodes ("no_end_marker", "bytes_after_end"), or
            None.
    """

    format: str
    width: int
    height: int
    mark: str | None = None


def inspect(data: bytes, *, decode: bool, max_pixels: int) -> ImageFacts:
    """Return the facts of a whole image.

    A PNG is whole up to its IEND with right CRCs, a JPEG up to its end marker; a JPEG that lacks
    the marker is kept, and marked, where it decodes. Other formats are decoded.

    Args:
        data: the published bytes.
        decode: decode the picture in full, whatever its format.
        max_pixels: a larger picture is refused before anything is decoded.

    Raises:
        FlawError: not_an_image, corrupt, truncated or too_many_pixels.
    """
    try:
        try:
            return _inspect(data, decode=decode, max_pixels=max_pixels)
        except Warning:
            # Where the user makes warnings errors: odd EXIF, or many pixels, are no flaw. Not
            # done always, since it is no matter of threads: it changes filters for all of them.
            with _silencing, warnings.catch_warnings():
                warnings.filterwarnings("ignore", module=r"PIL\.")
                return _inspect(data, decode=decode, max_pixels=max_pixels)
    except UnidentifiedImageError:
        said = f"{len(data)} bytes that are no image, starting {data[:16]!r}"
        reason = MissingReason.TRUNCATED if _is_cut(data) else MissingReason.NOT_AN_IMAGE
        raise FlawError(reason, said) from None
    except Image.DecompressionBombError as error:
        raise FlawError(MissingReason.TOO_MANY_PIXELS, str(error)) from None
    except _BROKEN as error:
        is_cut = "truncated" in str(error).lower() or _is_cut(data)
        reason = MissingReason.TRUNCATED if is_cut else MissingReason.CORRUPT
        raise FlawError(reason, str(error)) from None


def _inspect(data: bytes, *, decode: bool, max_pixels: int) -> ImageFacts:
    mark = None
    has_exif = True
    if data.startswith(_PNG_SIGNATURE):
        # Before Pillow looks: its own header parsing reports a cut PNG in many ways.
        has_exif = _check_png(data)
    with Image.open(io.BytesIO(data), formats=_formats()) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise FlawError(
                MissingReason.TOO_MANY_PIXELS, f"{width} x {height} pixels, at most {max_pixels}"
            )
        kind = image.format or ""
        if kind in ("JPEG", "MPO"):
            mark = _jpeg_mark(data)
            decode = decode or mark is not None
        elif kind != "PNG":
            decode = True
        if decode:
            image.load()
            width, height = image.size  # a TIFF has been turned upright by now
        # Pillow reads a PNG's pixels to find EXIF behind them: ask only where there is some.
        if has_exif and image.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS:
            width, height = height, width
    return ImageFacts(kind, width, height, mark)


def _check_png(data: bytes) -> bool:
    """Walk a PNG's chunks to IEND, checking their CRCs; return whether it may hold EXIF."""
    position = len(_PNG_SIGNATURE)
    has_exif = False
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
            return has_exif
        has_exif = has_exif or kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
        position = end


def _is_cut(data: bytes) -> bool:
    """Whether bytes that cannot be read begin like a JPEG or WebP that has not come whole."""
    if data.startswith(b"\xff\xd8\xff"):
        return b"\xff\xd9" not in data[-65536:]
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    return False


def _jpeg_mark(data: bytes) -> str | None:
    if data.endswith(b"\xff\xd9"):
        return None
    return "bytes_after_end" if b"\xff\xd9" in data[-65536:] else "no_end_marker"
