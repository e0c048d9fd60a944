"""Give whole pictures of the sample release another look: warm, grainy, painted, old."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from .sample_scenes import INK, WHITE

__all__ = ["FILTERS"]


def _toned(picture: Image.Image, gains: tuple[float, float, float]) -> Image.Image:
    bands = zip(picture.split(), gains, strict=True)
    return Image.merge(
        "RGB", [band.point([min(255, round(v * g)) for v in range(256)]) for band, g in bands]
    )


def _warm(picture: Image.Image, _rng: random.Random) -> Image.Image:
    return _toned(picture, (1.18, 0.98, 0.62))


def _golden(picture: Image.Image, _rng: random.Random) -> Image.Image:
    lit = Image.blend(picture, Image.new("RGB", picture.size, (255, 176, 84)), 0.12)
    return ImageEnhance.Color(_toned(lit, (1.05, 0.95, 0.82))).enhance(1.1)


def _vignette(picture: Image.Image, strength: float) -> Image.Image:
    mask = Image.radial_gradient("L").point([round(max(0, v - 90) * strength) for v in range(256)])
    return Image.composite(Image.new("RGB", picture.size), picture, mask.resize(picture.size))


def _grain(picture: Image.Image, rng: random.Random) -> Image.Image:
    faded = ImageEnhance.Color(picture).enhance(0.45)
    faded = Image.blend(faded, Image.new("RGB", picture.size, (214, 188, 150)), 0.34)
    noise = Image.frombytes("L", picture.size, rng.randbytes(picture.width * picture.height))
    return _vignette(Image.blend(faded, noise.convert("RGB"), 0.22), 0.55)


def _paint(picture: Image.Image, rng: random.Random) -> Image.Image:
    bold = ImageEnhance.Color(picture).enhance(1.6)
    out = bold.filter(ImageFilter.GaussianBlur(2))
    draw, (w, h) = ImageDraw.Draw(out), picture.size
    for share, count in ((26, 900), (48, 3000)):
        length = min(w, h) / share
        for _ in range(count):
            x, y = rng.randrange(w), rng.randrange(h)
            pixel = bold.getpixel((x, y))
            tone = rng.randint(-24, 24)
            red, green, blue = (c + tone for c in pixel) if isinstance(pixel, tuple) else (0, 0, 0)
            turn = math.sin(x / w * 6) + math.cos(y / h * 8)  # neighbours flow the same way
            dx, dy = math.cos(turn) * length, math.sin(turn) * length
            width = max(1, round(length / 2.2))
            draw.line([x - dx, y - dy, x + dx, y + dy], (red, green, blue), width)
    return out


def _cartoon(picture: Image.Image, _rng: random.Random) -> Image.Image:
    flat = ImageOps.posterize(ImageEnhance.Color(picture).enhance(1.7), 2)
    flat = Image.blend(flat, Image.new("RGB", picture.size, WHITE), 0.18)
    smooth = ImageOps.grayscale(picture).filter(ImageFilter.GaussianBlur(0.8))
    edges = smooth.filter(ImageFilter.FIND_EDGES).point([0 if v < 14 else 255 for v in range(256)])  # noqa: PLR2004
    edges.paste(0, (0, 0, edges.width, 1))
    return Image.composite(Image.new("RGB", picture.size, INK), flat, edges)


def _sepia(picture: Image.Image, rng: random.Random) -> Image.Image:
    toned = ImageOps.colorize(ImageOps.grayscale(picture), (50, 32, 20), (244, 226, 190))
    toned = _vignette(toned.filter(ImageFilter.GaussianBlur(0.6)), 0.8)
    draw, (w, h) = ImageDraw.Draw(toned), toned.size
    for _ in range(12):
        x, y = rng.randrange(w), rng.randrange(h)
        draw.line([x, y, x + rng.randint(-4, 4), y + rng.randint(h // 10, h // 4)], (232, 216, 184))
    draw.rectangle([0, 0, w - 1, h - 1], outline=(240, 230, 206), width=max(2, min(w, h) // 28))
    return toned


FILTERS: dict[str, Callable[[Image.Image, random.Random], Image.Image]] = {
    "warm": _warm,
    "golden": _golden,
    "grain": _grain,
    "paint": _paint,
    "cartoon": _cartoon,
    "sepia": _sepia,
}
