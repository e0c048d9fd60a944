"""Describe the sample release's pictures: scenes as parameters, and 35 kinds of edits of them.

An edit changes parameters of the scene, so that what it changes is known, can be seen, and adds up
over turns; only looks of the whole picture (grain, paint strokes, …) are filters.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

Color = tuple[int, int, int]
Box = tuple[float, float, float, float]
Point = tuple[float, float]

PAINTS: dict[str, Color] = {
    "red": (202, 54, 48),
    "blue": (54, 100, 188),
    "yellow": (238, 190, 60),
    "green": (58, 140, 84),
    "white": (240, 238, 230),
    "orange": (232, 128, 50),
    "purple": (130, 80, 164),
    "teal": (40, 142, 148),
}
SKIES: dict[str, tuple[Color, Color]] = {
    "clear": ((88, 156, 222), (208, 230, 242)),
    "morning": ((132, 180, 218), (252, 234, 208)),
    "evening": ((92, 98, 164), (250, 190, 136)),
    "golden": ((206, 112, 62), (255, 220, 140)),
    "grey": ((104, 112, 124), (172, 178, 184)),
}
GROUNDS: dict[str, tuple[Color, Color]] = {
    "summer": ((134, 176, 84), (74, 124, 56)),
    "autumn": ((190, 160, 84), (136, 104, 52)),
    "winter": ((244, 247, 252), (206, 217, 232)),
}
LEAVES: dict[str, Color] = {"summer": (62, 124, 60), "autumn": (208, 122, 42)}
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
INK: Color = (26, 24, 30)
OLD_HAIR: Color = (226, 226, 228)
WHITE: Color = (255, 255, 255)


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


LOOKS: dict[str, Look] = {
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
    house, car, shirt = rng.sample([name for name in PAINTS if name != "white"], 3)
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
    names = sorted(PAINTS)
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
