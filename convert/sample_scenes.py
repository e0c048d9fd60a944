"""Draw the sample release's pictures: one small scene from parameters, and its 35 kinds of edits.

An edit changes parameters of the scene, so that what it changes is known, can be seen, and adds up
over turns; only looks of the whole picture (grain, paint strokes, …) are filters.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

Color = tuple[int, int, int]
Box = tuple[float, float, float, float]
Point = tuple[float, float]

_PAINTS: dict[str, Color] = {
    "red": (202, 54, 48),
    "blue": (54, 100, 188),
    "yellow": (238, 190, 60),
    "green": (58, 140, 84),
    "white": (240, 238, 230),
    "orange": (232, 128, 50),
    "purple": (130, 80, 164),
    "teal": (40, 142, 148),
}
_SKIES: dict[str, tuple[Color, Color]] = {
    "clear": ((88, 156, 222), (208, 230, 242)),
    "morning": ((132, 180, 218), (252, 234, 208)),
    "evening": ((92, 98, 164), (250, 190, 136)),
    "golden": ((206, 112, 62), (255, 220, 140)),
    "grey": ((104, 112, 124), (172, 178, 184)),
}
_GROUNDS: dict[str, tuple[Color, Color]] = {
    "summer": ((134, 176, 84), (74, 124, 56)),
    "autumn": ((190, 160, 84), (136, 104, 52)),
    "winter": ((244, 247, 252), (206, 217, 232)),
}
_LEAVES: dict[str, Color] = {"summer": (62, 124, 60), "autumn": (208, 122, 42)}
_HAIRS: tuple[Color, ...] = (
    (58, 40, 30),
    (122, 76, 40),
    (206, 164, 84),
    (30, 28, 34),
    (150, 62, 36),
)
_SKINS: tuple[Color, ...] = ((246, 208, 176), (224, 172, 132), (176, 120, 82), (118, 78, 54))
_TRANSLATED = {
    "BAKERY": "BOULANGERIE",
    "MARKET": "MERCADO",
    "FLOWERS": "BLUMEN",
    "CINEMA": "KINO",
    "BOOKS": "LIBROS",
    "WELCOME": "BIENVENUE",
}
# Where house, tree, sign, car and person stand, as shares of the width; half are mirrored.
_LAYOUTS: tuple[tuple[float, float, float, float, float], ...] = (
    (0.18, 0.40, 0.59, 0.30, 0.84),
    (0.86, 0.64, 0.185, 0.79, 0.43),
    (0.42, 0.13, 0.61, 0.27, 0.85),
)
_INK: Color = (26, 24, 30)
_OLD_HAIR: Color = (226, 226, 228)
_WHITE: Color = (255, 255, 255)


@dataclass(frozen=True)
class Look:
    """How the person is drawn; sizes are shares of the figure, `ink` is the outline's width."""

    head: float = 1.0
    chin: float = 1.0
    eyes: str = "dots"
    nose: float = 0.14
    spikes: bool = False
    skin: Color | None = None
    ink: float = 0.0
    shade: str = ""
    backdrop: str = ""


_LOOKS: dict[str, Look] = {
    "": Look(),
    "anime": Look(head=1.15, eyes="anime", nose=0.04, spikes=True, skin=(255, 226, 206), ink=0.006),
    "3d": Look(head=1.4, eyes="round", nose=0.2, shade="soft"),
    "comic": Look(ink=0.016, shade="hard", backdrop="dots"),
    "ink": Look(ink=0.009, backdrop="paper"),
    "sticker": Look(head=1.15, ink=0.008, backdrop="flat"),
    "caricature": Look(head=1.75, chin=1.25, nose=0.46),
    "toy": Look(head=1.9, chin=0.82, eyes="discs", nose=0.06, shade="soft"),
    "bricks": Look(head=1.15, skin=(248, 206, 52), nose=0.0, ink=0.004),
    "yellow": Look(
        head=1.2, eyes="goggles", nose=0.24, spikes=True, skin=(254, 216, 46), ink=0.009
    ),
}


@dataclass(frozen=True)
class Person:
    """The person in front; `look` is a way of drawing, such as anime, toy or sticker."""

    skin: Color
    hair: Color
    shirt: str
    long_hair: bool = False
    mouth: str = "neutral"
    waving: bool = False
    dressed_up: bool = False
    old: bool = False
    look: str = ""


@dataclass(frozen=True)
class Scene:
    """What one picture shows; x positions are shares of the photo's width.

    `zoom` is how many times nearer the camera is, `margin` the share of the width that is seen
    besides on either side, `filters` are looks of the whole picture in the order of their making.
    """

    seed: int
    person: Person
    sky: str
    season: str
    house_color: str
    car_color: str
    sign: str
    house_x: float
    tree_x: float
    sign_x: float
    car_x: float
    person_x: float
    sun_x: float
    sign_ink: str = "white"
    sign_bold: bool = False
    vehicle: str = "car"
    balloon: bool = False
    tree: float = 1.0
    backdrop: str = "hills"
    weather: str = ""
    caption: str = ""
    zoom: float = 1.0
    margin: float = 0.0
    filters: tuple[str, ...] = ()


def make_scene(seed: int) -> Scene:
    """Return the scene of `seed`, always the same."""
    rng = random.Random(seed)  # noqa: S311  # pictures need seeded variety, not secrets
    xs = _LAYOUTS[seed % len(_LAYOUTS)]
    if rng.random() < 0.5:  # noqa: PLR2004  # a fair coin
        xs = (1 - xs[0], 1 - xs[1], 1 - xs[2], 1 - xs[3], 1 - xs[4])
    house, car, shirt = rng.sample([name for name in _PAINTS if name != "white"], 3)
    person = Person(
        skin=_SKINS[seed % len(_SKINS)],
        hair=rng.choice(_HAIRS),
        shirt=shirt,
        long_hair=rng.random() < 0.5,  # noqa: PLR2004  # a fair coin
    )
    return Scene(
        seed,
        person,
        rng.choice(["clear", "clear", "morning", "evening"]),
        rng.choice(["summer", "summer", "autumn"]),
        house,
        car,
        rng.choice(sorted(_TRANSLATED)),
        *xs,
        sun_x=rng.uniform(0.12, 0.88),
    )


@dataclass(frozen=True)
class Edit:
    """One kind of edit: its short instruction, what a long one adds, and what it changes."""

    short: str
    detail: str
    apply: Callable[[Scene], Scene]


def _filtered(name: str) -> Callable[[Scene], Scene]:
    return lambda scene: replace(scene, filters=(*scene.filters, name))


def _changed(**changes: Any) -> Callable[[Scene], Scene]:
    return lambda scene: replace(scene, **changes)


def _person(**changes: Any) -> Callable[[Scene], Scene]:
    return lambda scene: replace(scene, person=replace(scene.person, **changes))


def _next_paint(name: str) -> str:
    names = sorted(_PAINTS)
    return names[(names.index(name) + 3) % len(names)]


# By slug of the edit type. {scene.…} is filled in from the scene before the edit.
EDITS: dict[str, Edit] = {
    "change-overall-color-tone": Edit(
        "Shift the whole picture to a warm tone.",
        "pushing highlights towards amber and shadows towards brown as if shot through a warm lens",
        _filtered("warm"),
    ),
    "add-film-grain-or-vintage-filter": Edit(
        "Add strong film grain and a faded vintage look.",
        "with muted colours, lifted blacks and darkened corners like an old snapshot",
        _filtered("grain"),
    ),
    "add-a-new-object-to-the-scene": Edit(
        "Add a striped hot-air balloon to the sky.",
        "floating well above the horizon, lit from the same side as the house",
        _changed(balloon=True),
    ),
    "remove-an-existing-object": Edit(
        "Remove the {scene.car_color} car from the road.",
        "continuing the asphalt and the grass where it stood, without any trace or shadow",
        _changed(vehicle=""),
    ),
    "replace-one-object-category-with-another": Edit(
        "Replace the {scene.car_color} car with a spotted cow.",
        "standing at the same place and at a similar size, with a soft shadow under it",
        _changed(vehicle="cow"),
    ),
    "change-an-objects-attribute": Edit(
        "Repaint the {scene.house_color} house in another colour.",
        "keeping its windows, its door and its roof as they are",
        lambda scene: replace(scene, house_color=_next_paint(scene.house_color)),
    ),
    "relocate-an-object": Edit(
        "Move the {scene.car_color} car to the other side of the road.",
        "leaving nothing behind where it stood, and keeping its size and colour",
        lambda scene: replace(scene, car_x=1 - scene.car_x),
    ),
    "change-the-size-shape-orientation-of-an-object": Edit(
        "Make the tree much larger.",
        "so that it towers over the house, growing from the same spot",
        lambda scene: replace(scene, tree=scene.tree * 1.65),
    ),
    "add-new-scene-context-background": Edit(
        "Put a city skyline behind the meadow.",
        "with high towers and lit windows in place of the hills, hazy with distance",
        _changed(backdrop="city"),
    ),
    "apply-seasonal-transformation": Edit(
        "Turn the scene into winter.",
        "with snow on the ground, the hills and the roof, and no leaves on the tree",
        _changed(season="winter"),
    ),
    "change-weather-conditions": Edit(
        "Make it rain heavily.",
        "under a dark, overcast sky with slanting streaks of rain and no sun",
        _changed(weather="rain", sky="grey"),
    ),
    "adjust-global-lighting": Edit(
        "Relight the scene as at golden hour.",
        "with a low sun, an amber sky and warm light on every surface",
        lambda scene: replace(scene, sky="golden", filters=(*scene.filters, "golden")),
    ),
    "strong-artistic-style-transfer": Edit(
        "Repaint the picture in the manner of Van Gogh.",
        "with thick, swirling strokes of strong colour all over the canvas",
        _filtered("paint"),
    ),
    "photo-to-cartoon-sketch-comic": Edit(
        "Turn the photo into a cartoon.",
        "with few flat colours and dark outlines around every shape",
        _filtered("cartoon"),
    ),
    "modern-historical-style-look": Edit(
        "Make it look like a photograph from 1900.",
        "in sepia, with a pale worn border, scratches and soft contrast",
        _filtered("sepia"),
    ),
    "replace-text-in-signs-posters-billboards": Edit(
        "Change the sign's text from {scene.sign} to PIZZA.",
        "in the same lettering, centred on the board",
        _changed(sign="PIZZA"),
    ),
    "add-new-text": Edit(
        "Write 'Hello, summer!' across the sky.",
        "in large white letters with a dark edge so that it can be read from afar",
        _changed(caption="Hello, summer!"),
    ),
    "change-font-style-or-color-of-visible-text-if-there-is-text": Edit(
        "Make the sign's letters bold and yellow.",
        "keeping the word {scene.sign} and the board as they are",
        _changed(sign_ink="yellow", sign_bold=True),
    ),
    "translate-written-text-into-other-languages": Edit(
        "Translate the word {scene.sign} on the sign.",
        "keeping the lettering's colour, and fitting the new word into the board",
        lambda scene: replace(scene, sign=_TRANSLATED.get(scene.sign, "PIZZERIA")),
    ),
    "add-remove-replace-accessories": Edit(
        "Give the person sunglasses and a straw hat.",
        "that sit naturally on the head and cast a slight shadow",
        _person(dressed_up=True),
    ),
    "clothing-edit": Edit(
        "Change the person's {scene.person.shirt} shirt to another colour.",
        "keeping its cut and the person's pose",
        lambda scene: _person(shirt=_next_paint(scene.person.shirt))(scene),
    ),
    "pose-tweak": Edit(
        "Let the person raise one arm and wave.",
        "with the hand open above the shoulder and the body otherwise unchanged",
        _person(waving=True),
    ),
    "modify-expressions": Edit(
        "Give the person a broad smile.",
        "with teeth showing and slightly raised cheeks, keeping the identity",
        _person(mouth="smile"),
    ),
    "change-age-gender": Edit(
        "Make the person look forty years older.",
        "with white hair, a beard and wrinkles on the forehead",
        _person(old=True),
    ),
    "convert-person-to-2d-anime-manga-style": Edit(
        "Draw the person in anime style.",
        "with large glossy eyes, spiky hair and clean lines",
        _person(look="anime"),
    ),
    "convert-person-to-pixar-disney-like-3d-cartoon-look": Edit(
        "Turn the person into a 3D cartoon character.",
        "with a larger head, big round eyes and soft studio shading",
        _person(look="3d"),
    ),
    "convert-person-to-western-comic-cel-shaded-style": Edit(
        "Draw the person as in a western comic.",
        "with heavy ink outlines, hard cel shading and printed dots behind",
        _person(look="comic"),
    ),
    "line-art-ink-sketch-of-the-person": Edit(
        "Make an ink line drawing of the person.",
        "black lines on white paper, the surroundings faded away",
        _person(look="ink"),
    ),
    "sticker-ify-the-person-with-bold-outline-and-white-border": Edit(
        "Turn the person into a sticker.",
        "with a bold outline and a wide white border on a plain background",
        _person(look="sticker"),
    ),
    "caricature-with-mild-feature-exaggeration": Edit(
        "Draw a friendly caricature of the person.",
        "with an oversized head, a longer chin and a bigger nose",
        _person(look="caricature", mouth="smile"),
    ),
    "funko-pop-style-toy-figure-of-the-person": Edit(
        "Turn the person into a Funko-Pop-style toy.",
        "with a huge head, round black eyes, no mouth and a small body",
        _person(look="toy", mouth=""),
    ),
    "lego-minifigure-rendition-of-the-person": Edit(
        "Turn the person into a LEGO minifigure.",
        "with a yellow head and stud, a blocky torso and claw hands",
        _person(look="bricks", mouth="smile"),
    ),
    "simpsonize-the-person": Edit(
        "Simpsonize the person.",
        "with yellow skin, large round eyes, spiky hair and bold outlines",
        _person(look="yellow"),
    ),
    "zoom-in": Edit(
        "Zoom in on the person.",
        "so that head and shoulders fill most of the frame, sharp and without distortion",
        lambda scene: replace(scene, zoom=scene.zoom * 2.1),
    ),
    "outpainting": Edit(
        "Extend the picture to the left and to the right.",
        "continuing road, meadow, hills and sky, with more trees coming into view",
        lambda scene: replace(scene, margin=scene.margin + 0.28),
    ),
}


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
        paper = _WHITE if self.paper and fill != _INK else fill
        return paper, _INK if self.ink else None, max(self.ink, 1)

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
        self.draw.arc(self._box(box), span[0], span[1], _INK, pixels)

    def text(self, box: Box, text: str, fill: Color, edge: float = 0.0, ink: Color = _INK) -> None:
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
    sky, horizon = _SKIES[scene.sky], round(pixels[1] * 0.58)
    canvas.paste(_gradient((pixels[0], horizon), *sky))
    canvas.paste(_gradient((pixels[0], pixels[1] - horizon), *_GROUNDS[scene.season]), (0, horizon))
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
                (dx, dy, r * 1.5, r * 0.8), _mix(sky[1], _WHITE, 0.55 if not scene.weather else 0.1)
            )
    if scene.backdrop == "city":
        _draw_city(pen, scene, size)
    far = _mix(_GROUNDS[scene.season][1], sky[1], 0.55)
    layers = ((0.085, 3.1, far), (0.05, 4.7, _mix(far, _GROUNDS[scene.season][1], 0.5)))
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
    wall = _PAINTS[scene.house_color]
    roof = (236, 240, 248) if scene.season == "winter" else (112, 62, 52)
    pen.rect((0.13, -0.42, 0.05, 0.12), (140, 84, 70))
    pen.rect((0, -0.14, 0.42, 0.28), wall)
    pen.shape([(0.05, -0.28), (0.21, -0.28), (0.21, 0), (0.05, 0)], _mix(wall, _INK, 0.12))
    pen.shape([(-0.26, -0.27), (0, -0.46), (0.26, -0.27)], roof)
    for x in (-0.13, 0.13):
        pen.rect((x, -0.17, 0.1, 0.1), _WHITE)
        pen.rect((x, -0.17, 0.082, 0.082), (150, 190, 214))
        pen.line([(x, -0.21), (x, -0.13)], _WHITE, 0.01)
    pen.rect((0, -0.085, 0.085, 0.17), (92, 58, 40))
    pen.oval((0.025, -0.08, 0.014, 0.014), (240, 210, 120))


def _draw_tree(pen: _Pen, season: str) -> None:
    bark = (96, 68, 48)
    pen.shape([(-0.03, 0), (0.03, 0), (0.018, -0.3), (-0.018, -0.3)], bark)
    for dx, dy in ((-0.11, -0.4), (0.11, -0.42), (0.02, -0.52), (-0.05, -0.47), (0.07, -0.5)):
        pen.line([(0, -0.2), (dx, dy)], bark, 0.016)
    leaf = _LEAVES.get(season)
    spots = ((-0.09, -0.33, 0.2), (0.1, -0.34, 0.2), (0, -0.45, 0.24), (-0.02, -0.33, 0.2))
    for x, y, r in spots if leaf else ():
        pen.oval((x, y, r, r * 0.9), _mix(leaf or bark, _INK, 0.16))
        pen.oval((x - 0.015, y - 0.02, r * 0.8, r * 0.7), leaf or bark)
    for x, y in ((-0.11, -0.4), (0.11, -0.42), (0.02, -0.52)) if not leaf else ():
        pen.oval((x, y - 0.005, 0.06, 0.022), _WHITE)


def _draw_sign(pen: _Pen, scene: Scene) -> None:
    for x in (-0.12, 0.12):
        pen.rect((x, -0.13, 0.022, 0.26), (92, 70, 54))
    pen.rect((0, -0.29, 0.44, 0.15), (244, 240, 228), 0.015)
    pen.rect((0, -0.29, 0.415, 0.125), (34, 72, 84), 0.01)
    fill = _PAINTS[scene.sign_ink]
    edge = 0.05 if scene.sign_bold else 0.0
    pen.text((0, -0.29, 0.34, 0.1), scene.sign, fill, edge, fill)


def _draw_vehicle(pen: _Pen, scene: Scene) -> None:
    if scene.vehicle:
        pen.oval((0, 0, 0.46, 0.035), (62, 62, 66))
    if scene.vehicle == "car":
        paint = _PAINTS[scene.car_color]
        pen.shape([(-0.13, -0.11), (-0.08, -0.2), (0.08, -0.2), (0.15, -0.11)], paint)
        pen.shape(
            [(-0.1, -0.115), (-0.066, -0.182), (-0.008, -0.182), (-0.008, -0.115)], (198, 222, 232)
        )
        pen.shape(
            [(0.012, -0.115), (0.012, -0.182), (0.07, -0.182), (0.115, -0.115)], (198, 222, 232)
        )
        pen.rect((0, -0.075, 0.42, 0.09), paint, 0.03)
        pen.rect((0, -0.045, 0.42, 0.02), _mix(paint, _INK, 0.25))
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
        pen.oval((0.19, -0.235, 0.018, 0.022), _INK)


def _draw_balloon(pen: _Pen) -> None:
    for x in (-0.05, 0.05):
        pen.line([(x, 0.08), (x * 0.5, 0.2)], (90, 70, 50), 0.006)
    for share, color in ((1.0, "red"), (0.66, "yellow"), (0.3, "red")):
        pen.oval((0, 0, 0.27 * share, 0.29), _PAINTS[color])
    pen.rect((0, 0.22, 0.07, 0.05), (140, 96, 58), 0.01)


def _draw_body(pen: _Pen, person: Person, skin: Color) -> None:
    shirt, trousers = _PAINTS[person.shirt], (58, 64, 88)
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
    shirt, trousers = _PAINTS[person.shirt], (58, 64, 88)
    for x in (-0.072, 0.072):
        pen.rect((x, -0.16, 0.135, 0.32), trousers, 0.01)
        pen.rect((x, -0.03, 0.14, 0.06), _mix(trousers, _INK, 0.35), 0.01)
    pen.rect((0, -0.34, 0.29, 0.06), _mix(trousers, _INK, 0.3))
    for side in (-1, 1):
        pen.limb([(side * 0.15, -0.58), (side * 0.205, -0.42)], _mix(shirt, _INK, 0.12), 0.075)
        pen.oval((side * 0.215, -0.355, 0.085, 0.085), skin)
        pen.oval((side * 0.22, -0.345, 0.035, 0.05), _mix(skin, _INK, 0.5))
    pen.shape([(-0.11, -0.65), (0.11, -0.65), (0.165, -0.37), (-0.165, -0.37)], shirt)
    pen.rect((0, -0.67, 0.09, 0.05), skin)


def _draw_head(pen: _Pen, person: Person, look: Look, skin: Color) -> None:
    """Draw the head; the pen's origin is its middle, and its unit half of its width."""
    hair = _OLD_HAIR if person.old else person.hair
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
                pen.line([(-0.4, y), (0.4, y)], _mix(skin, _INK, 0.35), 0.05)
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
        pen.rect((0, -0.55, 2.06, 0.22), _PAINTS["red"])
        pen.oval((0, -0.42, 3.3, 0.42), (222, 184, 104))
        pen.line([(-0.9, 0.0), (0.9, 0.0)], _INK, 0.09)
        for x in (-0.42, 0.42):
            pen.oval((x, 0.06, 0.68, 0.56), _INK)
            pen.oval((x - 0.1, -0.02, 0.2, 0.12), (110, 120, 140))


def _draw_eyes(pen: _Pen, kind: str, hair: Color) -> None:
    for x in (-0.42, 0.42):
        if kind == "anime":
            pen.oval((x, 0.08, 0.56, 0.72), _WHITE)
            pen.oval((x, 0.12, 0.42, 0.62), (60, 130, 200))
            pen.oval((x, 0.16, 0.22, 0.38), _INK)
            pen.oval((x - 0.09, -0.04, 0.18, 0.2), _WHITE)
        elif kind == "round":
            pen.oval((x, 0.02, 0.62, 0.66), _WHITE)
            pen.oval((x * 0.92, 0.06, 0.38, 0.42), (96, 62, 36))
            pen.oval((x * 0.92, 0.06, 0.2, 0.22), _INK)
            pen.oval((x * 0.92 - 0.07, -0.03, 0.13, 0.13), _WHITE)
        elif kind == "discs":
            pen.oval((x * 1.1, 0.12, 0.5, 0.54), _INK)
            pen.oval((x * 1.1 + 0.1, 0.0, 0.1, 0.1), _WHITE)
        elif kind == "goggles":
            pen.oval((x * 0.95, -0.02, 0.82, 0.82), _WHITE)
            pen.oval((x * 0.95, 0, 0.14, 0.14), _INK)
        else:
            pen.oval((x, 0.04, 0.34, 0.26), _WHITE)
            pen.oval((x, 0.04, 0.2, 0.24), _INK)
        if kind in {"dots", "round"}:
            pen.line([(x - 0.22, -0.3), (x + 0.22, -0.3)], _mix(hair, _INK, 0.3), 0.09)


def _draw_mouth(pen: _Pen, kind: str, y: float) -> None:
    if kind == "smile":
        pen.draw.chord(pen.at(0, y - 0.12, 1)._box((0, 0, 1.0, 0.76)), 0, 180, (150, 40, 44))  # noqa: SLF001
        pen.draw.chord(pen.at(0, y - 0.12, 1)._box((0, 0, 0.84, 0.42)), 0, 180, _WHITE)  # noqa: SLF001
    elif kind == "neutral":
        pen.line([(-0.27, y), (0.27, y)], (140, 60, 56), 0.1)


def _draw_person(canvas: Image.Image, pen: _Pen, scene: Scene) -> None:
    person = scene.person
    look = _LOOKS[person.look]
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
        hair = _OLD_HAIR if person.old else person.hair
        head.rect((0, 0.4, 2.3, 2.2), hair, 0.6)  # behind the body, else it looks like a beard
    (_draw_bricks if person.look == "bricks" else _draw_body)(body, person, skin)
    _draw_head(head, person, look, skin)
    alpha = layer.getchannel("A")
    if look.shade:
        _shade(layer, alpha, round(pen.unit * 0.05), soft=look.shade == "soft")
    if person.look == "sticker":
        for width, color in ((0.055, _INK), (0.045, _WHITE)):
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
        return Image.blend(grey, Image.new("RGB", canvas.size, _WHITE), 0.86)
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
    canvas = _draw_backdrop(canvas, _LOOKS[scene.person.look].backdrop, scene.seed)
    pen = _Pen(canvas, unit, (pad, 0))
    _draw_person(canvas, pen.at(scene.person_x * width, 0.985 * height, 0.76), scene)
    _draw_weather(pen, scene, (width, height))
    if scene.caption:
        pen.text((width / 2, 0.13 * height, 0.9 * width, 0.2), scene.caption, _WHITE, 0.07)
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
    flat = Image.blend(flat, Image.new("RGB", picture.size, _WHITE), 0.18)
    smooth = ImageOps.grayscale(picture).filter(ImageFilter.GaussianBlur(0.8))
    edges = smooth.filter(ImageFilter.FIND_EDGES).point([0 if v < 14 else 255 for v in range(256)])  # noqa: PLR2004
    edges.paste(0, (0, 0, edges.width, 1))
    return Image.composite(Image.new("RGB", picture.size, _INK), flat, edges)


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
