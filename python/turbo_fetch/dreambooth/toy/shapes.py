"""Captioned images of shapes: what the toy base is trained on, and subjects that it never sees."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Colour = tuple[int, int, int]

SIDE: Final = 16
"""Width and height of the images in pixels."""

COLOURS: Final[Mapping[str, Colour]] = {
    "red": (214, 40, 40),
    "yellow": (250, 205, 30),
    "green": (56, 142, 60),
    "blue": (29, 78, 216),
    "purple": (123, 44, 191),
    "pink": (236, 98, 163),
}
BACKGROUNDS: Final[Mapping[str, Colour]] = {
    "white": (245, 245, 245),
    "grey": (150, 152, 158),
    "black": (24, 24, 28),
    "beige": (222, 203, 164),
}
PATTERNS: Final = ("plain", "target", "checks", "halves", "stripes")


@dataclass(frozen=True, slots=True)
class Figure:
    """One shape before one background. Lengths are shares of the image's side; y points down."""

    shape: str
    colours: tuple[str, str]
    """Of the shape; the second one shows only in patterns."""
    pattern: str = "plain"
    background: str = "white"
    x: float = 0.5
    y: float = 0.5
    radius: float = 0.35
    turn: float = 0.0
    """Radians."""


SUBJECTS: Final[Mapping[str, Figure]] = {
    "target circle": Figure("circle", ("yellow", "blue"), "target"),
    "checked square": Figure("square", ("purple", "yellow"), "checks"),
    "halved triangle": Figure("triangle", ("green", "red"), "halves"),
}
"""Individuals of a class, as a dog of one's own is of the dogs. The base is trained on plain shapes only."""


def draw(figure: Figure, side: int = SIDE) -> Array:
    """Return the image, float32 in 0…1, height by width by 3, with soft edges."""
    at = (np.arange(side, dtype=np.float32) + 0.5) / side
    x, y = np.meshgrid(at - figure.x, at - figure.y)
    cos, sin = math.cos(figure.turn), math.sin(figure.turn)
    # In the shape's own coordinates its radius is 1.
    u = (cos * x + sin * y) / figure.radius
    v = (cos * y - sin * x) / figure.radius
    pixel = 1 / (side * figure.radius)
    inside = _soft(-SHAPES[figure.shape](u, v), pixel)[..., None]
    second = _second_colour(figure.pattern, u, v, pixel)[..., None]
    first_rgb, second_rgb = (_rgb(COLOURS[name]) for name in figure.colours)
    surface = (1 - second) * first_rgb + second * second_rgb
    light = (1 + 0.12 * (0.5 - at))[:, None, None]
    background = np.clip(_rgb(BACKGROUNDS[figure.background]) * light, 0, 1)
    return np.asarray((1 - inside) * background + inside * surface, np.float32)


def random_figure(random: np.random.Generator, patterns: tuple[str, ...] = ("plain",)) -> Figure:
    """Return any shape in any colours, place and size."""
    first, second = random.choice(list(COLOURS), size=2, replace=False)
    figure = Figure(str(random.choice(list(SHAPES))), (str(first), str(second)), str(random.choice(patterns)))
    return placed(figure, random)


def placed(figure: Figure, random: np.random.Generator) -> Figure:
    """Return the same shape in another place, size and background."""
    return replace(
        figure,
        background=str(random.choice(list(BACKGROUNDS))),
        x=float(random.uniform(0.44, 0.56)),
        y=float(random.uniform(0.44, 0.56)),
        radius=float(random.uniform(0.3, 0.4)),
        turn=float(random.uniform(-0.2, 0.2)),
    )


def caption(figure: Figure, random: np.random.Generator) -> str:
    """Return one of the ways to say what a plain figure shows."""
    colour = f"{figure.colours[0]} " if random.random() < 0.6 else ""
    photo = "a photo of " if random.random() < 0.5 else ""
    place = f" on a {figure.background} background" if random.random() < 0.4 else ""
    return f"{photo}a {colour}{figure.shape}{place}"


def _circle(u: Array, v: Array) -> Array:
    return np.asarray(np.hypot(u, v) - 1)


def _square(u: Array, v: Array) -> Array:
    return np.maximum(abs(u), abs(v)) - np.float32(0.85)


def _triangle(u: Array, v: Array) -> Array:
    slope = math.sqrt(3) / 2
    return np.asarray(np.maximum(slope * abs(u) - 0.5 * v, v) - 0.55)


def _cross(u: Array, v: Array) -> Array:
    x, y = abs(u), abs(v)
    return np.asarray(np.minimum(np.maximum(x - 1, y - 0.34), np.maximum(y - 1, x - 0.34)))


SHAPES: Final[Mapping[str, Callable[[Array, Array], Array]]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
}
"""About how far a point is outside of each shape, in its own coordinates; negative inside."""


def _second_colour(pattern: str, u: Array, v: Array, pixel: float) -> Array:
    """Return how much of the second colour each point of a pattern has, 0…1."""
    if pattern == "target":
        return _soft(np.float32(0.55) - np.hypot(u, v), pixel)
    if pattern == "halves":
        return _soft(u, pixel)
    if pattern == "checks":
        return _soft(u * v * 2, pixel)
    if pattern == "stripes":
        return _soft(np.sin(u * np.float32(2.5 * math.pi)) / 4, pixel)
    return np.zeros_like(u)


def _soft(inside: Array, pixel: float) -> Array:
    return np.asarray(np.clip(0.5 + inside / pixel, 0, 1), np.float32)


def _rgb(colour: Colour) -> Array:
    return np.asarray(colour, np.float32) / 255
