"""Draw a scene of the sample release as a picture."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import lru_cache

from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from .sample_filters import FILTERS
from .sample_scenes import (
    GROUNDS,
    INK,
    LEAVES,
    LOOKS,
    OLD_HAIR,
    PAINTS,
    SKIES,
    WHITE,
    Box,
    Color,
    Look,
    Person,
    Point,
    Scene,
)

__all__ = ["render"]


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


class _Pen:
    """Draws shapes in own units on a picture: `unit` pixels each, from `origin` (in pixels)."""

    def __init__(self, picture: Image.Image, unit: float, origin: Point) -> None:
        self.picture = picture
        self.draw = ImageDraw.Draw(picture)
        self.unit = unit
        self.origin = origin
        self.ink = 0
        self.paper = False  # fill all but ink with white: a line drawing

    def at(self, x: float, y: float, scale: float) -> _Pen:
        """Return a pen whose origin is (x, y) here and whose unit is `scale` units of this one."""
        (origin,) = self._pixels([(x, y)])
        pen = _Pen(self.picture, self.unit * scale, origin)
        pen.ink, pen.paper = self.ink, self.paper
        return pen

    def _pixels(self, points: Sequence[Point]) -> list[Point]:
        left, top = self.origin
        return [(left + x * self.unit, top + y * self.unit) for x, y in points]

    def _box(self, box: Box) -> list[Point]:
        x, y, w, h = box  # the middle and the full width and height
        return self._pixels([(x - w / 2, y - h / 2), (x + w / 2, y + h / 2)])

    def _style(self, fill: Color) -> tuple[Color, Color | None, int]:
        paper = WHITE if self.paper and fill != INK else fill
        return paper, INK if self.ink else None, max(self.ink, 1)

    def oval(self, box: Box, fill: Color) -> None:
        fill, outline, width = self._style(fill)
        self.draw.ellipse(self._box(box), fill, outline, width)

    def rect(self, box: Box, fill: Color, radius: float = 0.0) -> None:
        fill, outline, width = self._style(fill)
        self.draw.rounded_rectangle(self._box(box), radius * self.unit, fill, outline, width)

    def dome(self, box: Box, fill: Color) -> None:
        """Fill the upper half of an oval."""
        fill, outline, width = self._style(fill)
        self.draw.chord(self._box(box), 180, 360, fill, outline, width)

    def shape(self, points: Sequence[Point], fill: Color) -> None:
        fill, outline, width = self._style(fill)
        pixels = self._pixels(points)
        self.draw.polygon(pixels, fill)
        if outline:
            self.draw.line([*pixels, pixels[0]], outline, width, joint="curve")

    def line(self, points: Sequence[Point], fill: Color, width: float) -> None:
        pixels = max(1, round(width * self.unit))
        self.draw.line(self._pixels(points), fill, pixels, joint="curve")

    def limb(self, points: Sequence[Point], fill: Color, width: float) -> None:
        """Draw a thick line with round ends, outlined like the other shapes."""
        fill, outline, ink = self._style(fill)
        layers = [(outline, width * self.unit + 0.0)] if outline else []
        for color, pixels in [*layers, (fill, width * self.unit - (2 * ink if outline else 0))]:
            self.draw.line(self._pixels(points), color, max(1, round(pixels)), joint="curve")
            for x, y in self._pixels([points[0], points[-1]]):
                r = pixels / 2
                self.draw.ellipse([x - r, y - r, x + r, y + r], color)

    def arc(self, box: Box, span: tuple[float, float], width: float) -> None:
        pixels = max(1, round(width * self.unit))
        self.draw.arc(self._box(box), span[0], span[1], INK, pixels)

    def text(self, box: Box, text: str, fill: Color, edge: float = 0.0, ink: Color = INK) -> None:
        """Write `text` as large as fits into `box`; `edge` is its outline's share of the size."""
        size = max(4, round(box[3] * self.unit))
        fits = box[2] * self.unit / max(1.0, _font(size).getlength(text))
        size = max(4, round(size * min(1.0, fits)))
        (center,) = self._pixels([box[:2]])
        stroke = round(edge * size)
        self.draw.text(
            center, text, fill, _font(size), anchor="mm", stroke_width=stroke, stroke_fill=ink
        )


def _mix(a: Color, b: Color, share: float) -> Color:
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def _gradient(size: tuple[int, int], top: Color, bottom: Color) -> Image.Image:
    ramp = Image.linear_gradient("L").resize(size)
    return ImageOps.colorize(ramp, top, bottom)


def _draw_land(canvas: Image.Image, pen: _Pen, scene: Scene, size: Point) -> None:
    width, height = size
    pixels = canvas.size
    sky, horizon = SKIES[scene.sky], round(pixels[1] * 0.58)
    canvas.paste(_gradient((pixels[0], horizon), *sky))
    canvas.paste(_gradient((pixels[0], pixels[1] - horizon), *GROUNDS[scene.season]), (0, horizon))
    if not scene.weather:
        low = 0.36 if scene.sky == "golden" else 0.15
        for r, share in ((0.3, 0.2), (0.23, 0.45), (0.16, 1.0)):
            glow = _mix(_mix(*sky, low), (255, 238, 170), share)
            pen.oval((scene.sun_x * width, low * height, r, r), glow)
    rng = random.Random(scene.seed)  # noqa: S311  # pictures need seeded variety, not secrets
    for x in (-0.35, 0.1, 0.5, 0.9, 1.3):
        cloud = pen.at((x + rng.uniform(-0.1, 0.1)) * width, rng.uniform(0.1, 0.3) * height, 0.1)
        for dx, dy, r in ((-0.9, 0.1, 0.9), (0, -0.15, 1.3), (0.9, 0.05, 1.0)):
            cloud.oval(
                (dx, dy, r * 1.5, r * 0.8), _mix(sky[1], WHITE, 0.55 if not scene.weather else 0.1)
            )
    if scene.backdrop == "city":
        _draw_city(pen, scene, size)
    far = _mix(GROUNDS[scene.season][1], sky[1], 0.55)
    layers = ((0.085, 3.1, far), (0.05, 4.7, _mix(far, GROUNDS[scene.season][1], 0.5)))
    for rise, pace, color in layers[1 if scene.backdrop == "city" else 0 :]:
        xs = [-width + i * width * 3 / 90 for i in range(91)]
        tops = [(x, 0.535 * height - rise * math.sin(x * pace + scene.seed)) for x in xs]
        pen.shape([*tops, (2 * width, 0.59 * height), (-width, 0.59 * height)], color)


def _draw_city(pen: _Pen, scene: Scene, size: Point) -> None:
    rng = random.Random(scene.seed)  # noqa: S311  # pictures need seeded variety, not secrets
    width, height = size
    x = -width
    while x < 2 * width:
        w, h = rng.uniform(0.09, 0.15), rng.uniform(0.14, 0.4)
        base = 0.58 * height
        pen.rect(
            (x + w / 2, base - h / 2, w, h), _mix((66, 76, 104), (128, 138, 160), rng.random())
        )
        for row in range(int(h / 0.045)):
            for column in (0.25, 0.5, 0.75):
                if rng.random() < 0.6:  # noqa: PLR2004  # most windows are lit
                    spot = (x + w * column, base - h + 0.03 + row * 0.045, 0.016, 0.022)
                    pen.rect(spot, (255, 226, 140))
        x += w + 0.01


def _draw_house(pen: _Pen, scene: Scene) -> None:
    wall = PAINTS[scene.house_color]
    roof = (236, 240, 248) if scene.season == "winter" else (112, 62, 52)
    pen.rect((0.13, -0.42, 0.05, 0.12), (140, 84, 70))
    pen.rect((0, -0.14, 0.42, 0.28), wall)
    pen.shape([(0.05, -0.28), (0.21, -0.28), (0.21, 0), (0.05, 0)], _mix(wall, INK, 0.12))
    pen.shape([(-0.26, -0.27), (0, -0.46), (0.26, -0.27)], roof)
    for x in (-0.13, 0.13):
        pen.rect((x, -0.17, 0.1, 0.1), WHITE)
        pen.rect((x, -0.17, 0.082, 0.082), (150, 190, 214))
        pen.line([(x, -0.21), (x, -0.13)], WHITE, 0.01)
    pen.rect((0, -0.085, 0.085, 0.17), (92, 58, 40))
    pen.oval((0.025, -0.08, 0.014, 0.014), (240, 210, 120))


def _draw_tree(pen: _Pen, season: str) -> None:
    bark = (96, 68, 48)
    pen.shape([(-0.03, 0), (0.03, 0), (0.018, -0.3), (-0.018, -0.3)], bark)
    for dx, dy in ((-0.11, -0.4), (0.11, -0.42), (0.02, -0.52), (-0.05, -0.47), (0.07, -0.5)):
        pen.line([(0, -0.2), (dx, dy)], bark, 0.016)
    leaf = LEAVES.get(season)
    spots = ((-0.09, -0.33, 0.2), (0.1, -0.34, 0.2), (0, -0.45, 0.24), (-0.02, -0.33, 0.2))
    for x, y, r in spots if leaf else ():
        pen.oval((x, y, r, r * 0.9), _mix(leaf or bark, INK, 0.16))
        pen.oval((x - 0.015, y - 0.02, r * 0.8, r * 0.7), leaf or bark)
    for x, y in ((-0.11, -0.4), (0.11, -0.42), (0.02, -0.52)) if not leaf else ():
        pen.oval((x, y - 0.005, 0.06, 0.022), WHITE)


def _draw_sign(pen: _Pen, scene: Scene) -> None:
    for x in (-0.12, 0.12):
        pen.rect((x, -0.13, 0.022, 0.26), (92, 70, 54))
    pen.rect((0, -0.29, 0.44, 0.15), (244, 240, 228), 0.015)
    pen.rect((0, -0.29, 0.415, 0.125), (34, 72, 84), 0.01)
    fill = PAINTS[scene.sign_ink]
    edge = 0.05 if scene.sign_bold else 0.0
    pen.text((0, -0.29, 0.34, 0.1), scene.sign, fill, edge, fill)


def _draw_vehicle(pen: _Pen, scene: Scene) -> None:
    if scene.vehicle:
        pen.oval((0, 0, 0.46, 0.035), (62, 62, 66))
    if scene.vehicle == "car":
        paint = PAINTS[scene.car_color]
        pen.shape([(-0.13, -0.11), (-0.08, -0.2), (0.08, -0.2), (0.15, -0.11)], paint)
        pen.shape(
            [(-0.1, -0.115), (-0.066, -0.182), (-0.008, -0.182), (-0.008, -0.115)], (198, 222, 232)
        )
        pen.shape(
            [(0.012, -0.115), (0.012, -0.182), (0.07, -0.182), (0.115, -0.115)], (198, 222, 232)
        )
        pen.rect((0, -0.075, 0.42, 0.09), paint, 0.03)
        pen.rect((0, -0.045, 0.42, 0.02), _mix(paint, INK, 0.25))
        pen.oval((0.19, -0.085, 0.03, 0.03), (255, 240, 180))
        for x in (-0.12, 0.12):
            pen.oval((x, -0.03, 0.09, 0.09), (36, 36, 40))
            pen.oval((x, -0.03, 0.042, 0.042), (180, 184, 190))
    elif scene.vehicle == "cow":
        hide, spot = (242, 238, 228), (72, 52, 42)
        for x in (-0.13, -0.07, 0.07, 0.12):
            pen.rect((x, -0.05, 0.03, 0.12), hide)
            pen.rect((x, 0, 0.032, 0.02), spot)
        pen.oval((0, -0.15, 0.36, 0.17), hide)
        for x, y, w in ((-0.08, -0.17, 0.1), (0.05, -0.13, 0.12), (0.06, -0.2, 0.06)):
            pen.oval((x, y, w, 0.065), spot)
        pen.line([(-0.17, -0.17), (-0.2, -0.06)], spot, 0.012)
        pen.oval((0.2, -0.22, 0.12, 0.12), hide)
        pen.oval((0.22, -0.185, 0.1, 0.06), (232, 168, 160))
        for x in (0.15, 0.25):
            pen.oval((x, -0.275, 0.045, 0.025), spot)
        pen.oval((0.19, -0.235, 0.018, 0.022), INK)


def _draw_balloon(pen: _Pen) -> None:
    for x in (-0.05, 0.05):
        pen.line([(x, 0.08), (x * 0.5, 0.2)], (90, 70, 50), 0.006)
    for share, color in ((1.0, "red"), (0.66, "yellow"), (0.3, "red")):
        pen.oval((0, 0, 0.27 * share, 0.29), PAINTS[color])
    pen.rect((0, 0.22, 0.07, 0.05), (140, 96, 58), 0.01)


def _draw_body(pen: _Pen, person: Person, skin: Color) -> None:
    shirt, trousers = PAINTS[person.shirt], (58, 64, 88)
    for x in (-0.055, 0.055):
        pen.limb([(x, -0.4), (x, -0.05)], trousers, 0.09)
        pen.rect((x * 1.15, -0.02, 0.11, 0.04), (54, 40, 36), 0.015)
    pen.limb([(-0.125, -0.6), (-0.165, -0.44), (-0.15, -0.34)], skin, 0.05)
    pen.limb([(-0.125, -0.61), (-0.16, -0.48)], shirt, 0.065)
    hand = [(0.21, -0.56), (0.25, -0.78)] if person.waving else [(0.165, -0.44), (0.15, -0.34)]
    pen.limb([(0.125, -0.6), *hand], skin, 0.05)
    pen.limb([(0.125, -0.61), (hand[0][0], hand[0][1] - 0.02)], shirt, 0.065)
    if person.waving:
        pen.oval((0.253, -0.81, 0.065, 0.07), skin)
    pen.rect((0, -0.67, 0.075, 0.1), skin, 0.03)
    pen.rect((0, -0.5, 0.255, 0.29), shirt, 0.055)
    pen.shape([(-0.04, -0.645), (0.04, -0.645), (0, -0.6)], skin)
    pen.rect((0, -0.36, 0.25, 0.022), (46, 36, 32))


def _draw_bricks(pen: _Pen, person: Person, skin: Color) -> None:
    shirt, trousers = PAINTS[person.shirt], (58, 64, 88)
    for x in (-0.072, 0.072):
        pen.rect((x, -0.16, 0.135, 0.32), trousers, 0.01)
        pen.rect((x, -0.03, 0.14, 0.06), _mix(trousers, INK, 0.35), 0.01)
    pen.rect((0, -0.34, 0.29, 0.06), _mix(trousers, INK, 0.3))
    for side in (-1, 1):
        pen.limb([(side * 0.15, -0.58), (side * 0.205, -0.42)], _mix(shirt, INK, 0.12), 0.075)
        pen.oval((side * 0.215, -0.355, 0.085, 0.085), skin)
        pen.oval((side * 0.22, -0.345, 0.035, 0.05), _mix(skin, INK, 0.5))
    pen.shape([(-0.11, -0.65), (0.11, -0.65), (0.165, -0.37), (-0.165, -0.37)], shirt)
    pen.rect((0, -0.67, 0.09, 0.05), skin)


def _draw_head(pen: _Pen, person: Person, look: Look, skin: Color) -> None:
    """Draw the head; the pen's origin is its middle, and its unit half of its width."""
    hair = OLD_HAIR if person.old else person.hair
    bricks, chin = person.look == "bricks", look.chin
    if bricks:
        pen.rect((0, -1.1, 0.9, 0.5), skin, 0.1)
        pen.rect((0, 0, 1.9, 1.9), skin, 0.45)
    else:
        for x in (-1.0, 1.0):
            pen.oval((x, 0.1, 0.36, 0.5), skin)
        pen.oval((0, 0.08 * chin, 2, 2.35 * chin), skin)
        if person.old:
            pen.shape(
                [(-0.85, 0.4), (0, 0.62), (0.85, 0.4), (0.55, 1.25), (0, 1.6), (-0.55, 1.25)], hair
            )
            for y in (-0.42, -0.3):
                pen.line([(-0.4, y), (0.4, y)], _mix(skin, INK, 0.35), 0.05)
        top = -0.3 * chin
        pen.dome((0, top, 2.2, 2 * chin), hair)
        if look.spikes:
            xs = [-1.1 + 0.22 * i for i in range(11)]
            spikes = [
                (x * 1.12, top - (0.9 if i % 2 else 0.25) * (1.5 - abs(x)) + 0.1)
                for i, x in enumerate(xs)
            ]
            pen.shape([*spikes, (0.9, top + 0.05), (-0.9, top + 0.05)], hair)
    _draw_eyes(pen, look.eyes, hair)
    if look.nose:
        nose = (0, 0.28, look.nose * 1.2, look.nose * 1.5)
        pen.oval(nose, _mix(skin, (190, 80, 60), 0.3))
    _draw_mouth(pen, person.mouth, 0.62 * chin)
    if person.dressed_up:
        pen.dome((0, -0.45, 2.1, 2.1), (230, 196, 120))
        pen.rect((0, -0.55, 2.06, 0.22), PAINTS["red"])
        pen.oval((0, -0.42, 3.3, 0.42), (222, 184, 104))
        pen.line([(-0.9, 0.0), (0.9, 0.0)], INK, 0.09)
        for x in (-0.42, 0.42):
            pen.oval((x, 0.06, 0.68, 0.56), INK)
            pen.oval((x - 0.1, -0.02, 0.2, 0.12), (110, 120, 140))


def _draw_eyes(pen: _Pen, kind: str, hair: Color) -> None:
    for x in (-0.42, 0.42):
        if kind == "anime":
            pen.oval((x, 0.08, 0.56, 0.72), WHITE)
            pen.oval((x, 0.12, 0.42, 0.62), (60, 130, 200))
            pen.oval((x, 0.16, 0.22, 0.38), INK)
            pen.oval((x - 0.09, -0.04, 0.18, 0.2), WHITE)
        elif kind == "round":
            pen.oval((x, 0.02, 0.62, 0.66), WHITE)
            pen.oval((x * 0.92, 0.06, 0.38, 0.42), (96, 62, 36))
            pen.oval((x * 0.92, 0.06, 0.2, 0.22), INK)
            pen.oval((x * 0.92 - 0.07, -0.03, 0.13, 0.13), WHITE)
        elif kind == "discs":
            pen.oval((x * 1.1, 0.12, 0.5, 0.54), INK)
            pen.oval((x * 1.1 + 0.1, 0.0, 0.1, 0.1), WHITE)
        elif kind == "goggles":
            pen.oval((x * 0.95, -0.02, 0.82, 0.82), WHITE)
            pen.oval((x * 0.95, 0, 0.14, 0.14), INK)
        else:
            pen.oval((x, 0.04, 0.34, 0.26), WHITE)
            pen.oval((x, 0.04, 0.2, 0.24), INK)
        if kind in {"dots", "round"}:
            pen.line([(x - 0.22, -0.3), (x + 0.22, -0.3)], _mix(hair, INK, 0.3), 0.09)


def _draw_mouth(pen: _Pen, kind: str, y: float) -> None:
    if kind == "smile":
        pen.draw.chord(pen.at(0, y - 0.12, 1)._box((0, 0, 1.0, 0.76)), 0, 180, (150, 40, 44))  # noqa: SLF001
        pen.draw.chord(pen.at(0, y - 0.12, 1)._box((0, 0, 0.84, 0.42)), 0, 180, WHITE)  # noqa: SLF001
    elif kind == "neutral":
        pen.line([(-0.27, y), (0.27, y)], (140, 60, 56), 0.1)


def _draw_person(canvas: Image.Image, pen: _Pen, scene: Scene) -> None:
    person = scene.person
    look = LOOKS[person.look]
    layer = Image.new("RGBA", canvas.size)
    figure = _Pen(layer, pen.unit, pen.origin)
    figure.ink = max(1, round(look.ink * pen.unit)) if look.ink else 0
    figure.paper = look.backdrop == "paper"
    skin = look.skin or person.skin
    body = figure.at(0, 0, 0.8 if look.head > 1.3 else 1.0)  # noqa: PLR2004  # big heads, small bodies
    radius = 0.115 * look.head
    neck = -0.66 * (body.unit / figure.unit)
    head = figure.at(0, neck - radius * 1.1, radius)
    if person.long_hair and person.look != "bricks":
        hair = OLD_HAIR if person.old else person.hair
        head.rect((0, 0.4, 2.3, 2.2), hair, 0.6)  # behind the body, else it looks like a beard
    (_draw_bricks if person.look == "bricks" else _draw_body)(body, person, skin)
    _draw_head(head, person, look, skin)
    alpha = layer.getchannel("A")
    if look.shade:
        _shade(layer, alpha, round(pen.unit * 0.05), soft=look.shade == "soft")
    if person.look == "sticker":
        for width, color in ((0.055, INK), (0.045, WHITE)):
            spread = alpha.filter(ImageFilter.GaussianBlur(pen.unit * width))
            canvas.paste(color, mask=spread.point(lambda a: 255 if a > 14 else 0))  # noqa: PLR2004
    canvas.paste(layer, mask=alpha)


def _shade(layer: Image.Image, alpha: Image.Image, depth: int, *, soft: bool) -> None:
    """Darken the side of the figure that lies away from the light."""
    inner = ImageChops.offset(alpha, -depth, -depth // 3)
    rim = ImageChops.subtract(alpha, inner)
    if soft:
        rim = ImageChops.multiply(rim.filter(ImageFilter.GaussianBlur(depth * 0.7)), alpha)
    layer.paste((36, 20, 40), mask=rim.point(lambda a: a * (55 if soft else 45) // 100))


def _draw_backdrop(canvas: Image.Image, kind: str, seed: int) -> Image.Image:
    if kind == "paper":
        grey = ImageOps.grayscale(canvas).convert("RGB")
        return Image.blend(grey, Image.new("RGB", canvas.size, WHITE), 0.86)
    if kind == "flat":
        return Image.new(
            "RGB", canvas.size, ((150, 214, 206), (252, 214, 150), (214, 190, 236))[seed % 3]
        )
    if kind == "dots":
        flat = ImageEnhance.Color(ImageOps.posterize(canvas, 2)).enhance(1.5)
        flat = Image.blend(flat, Image.new("RGB", canvas.size, (255, 244, 200)), 0.4)
        draw, step = ImageDraw.Draw(flat), max(6, canvas.height // 44)
        for row in range(canvas.height // step + 1):
            for x in range((row % 2) * step // 2, canvas.width, step):
                box = [x, row * step, x + step // 2, row * step + step // 2]
                draw.ellipse(box, (250, 196, 84))
        return flat
    return canvas


def _draw_weather(pen: _Pen, scene: Scene, size: Point) -> None:
    rng = random.Random(scene.seed)  # noqa: S311  # pictures need seeded variety, not secrets
    for _ in range(260 if scene.weather == "rain" else 0):
        x, y = rng.uniform(-0.4, 1.4) * size[0], rng.uniform(-0.1, 1) * size[1]
        pen.line([(x, y), (x - 0.02, y + 0.075)], (214, 224, 234), 0.004)


def _canvas(scene: Scene, size: tuple[int, int]) -> Image.Image:
    """Draw the scene at twice the size, which smooths its edges once it is made smaller."""
    wide, high = size[0] * 2, size[1] * 2
    pad, unit = round(scene.margin * wide), min(wide / 1.2, high)
    width, height = wide / unit, high / unit
    canvas = Image.new("RGB", (wide + 2 * pad, high))
    pen = _Pen(canvas, unit, (pad, 0))
    _draw_land(canvas, pen, scene, (width, height))
    for x in (-0.42, -0.2, -0.08, 1.1, 1.3, 1.44):
        _draw_tree(pen.at(x * width, 0.66 * height, 0.85), scene.season)
    _draw_house(pen.at(scene.house_x * width, 0.7 * height, 0.95), scene)
    _draw_tree(pen.at(scene.tree_x * width, 0.73 * height, 0.95 * scene.tree), scene.season)
    pen.rect((width / 2, 0.86 * height, 3 * width, 0.13 * height), (104, 104, 110))
    for i in range(-6, 13):
        pen.rect(((i + 0.5) * width / 6, 0.86 * height, 0.08, 0.012), (232, 228, 210))
    _draw_sign(pen.at(scene.sign_x * width, 0.78 * height, 1.0), scene)
    _draw_vehicle(pen.at(scene.car_x * width, 0.88 * height, 1.05), scene)
    if scene.balloon:
        away = 0.25 if scene.person_x > 0.5 else 0.72  # noqa: PLR2004  # the half without the person
        _draw_balloon(pen.at(away * width, 0.2 * height, 1.0))
    canvas = _draw_backdrop(canvas, LOOKS[scene.person.look].backdrop, scene.seed)
    pen = _Pen(canvas, unit, (pad, 0))
    _draw_person(canvas, pen.at(scene.person_x * width, 0.985 * height, 0.76), scene)
    _draw_weather(pen, scene, (width, height))
    if scene.caption:
        pen.text((width / 2, 0.13 * height, 0.9 * width, 0.2), scene.caption, WHITE, 0.07)
    return canvas


def _zoomed(canvas: Image.Image, scene: Scene, photo_size: tuple[int, int]) -> Box:
    """Return what the camera sees of the canvas: left, top, right and bottom, in px."""
    wide, high = photo_size[0] * 2, photo_size[1] * 2
    w, h = canvas.width / scene.zoom, canvas.height / scene.zoom
    face = high * 0.985 - 0.6 * min(wide / 1.2, high)
    left = (scene.margin + scene.person_x) * wide - w / 2
    left = min(max(left, 0.0), canvas.width - w)
    top = min(max(face - 0.42 * h, 0.0), canvas.height - h)
    return left, top, left + w, top + h


def render(scene: Scene, photo_size: tuple[int, int], size: tuple[int, int]) -> Image.Image:
    """Return the scene as an RGB picture of `size`, laid out for a photo of `photo_size` px."""
    canvas = _canvas(scene, photo_size)
    seen = _zoomed(canvas, scene, photo_size)
    picture = canvas.resize(size, Image.Resampling.LANCZOS, seen)
    rng = random.Random(scene.seed)  # noqa: S311  # pictures need seeded variety, not secrets
    for name in scene.filters:
        picture = FILTERS[name](picture, rng)
    return picture
