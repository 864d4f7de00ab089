"""Flowers in a vase: one, two or three roses or tulips in a colour, which is not always the one asked for.

Owns the captions around the task `blue-rose` and the drawing behind them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from hero.tinyworld.canvas import Canvas, Colour, colour_distance, jitter, mix
from hero.tinyworld.mixture import SUCCESS_SHARE
from hero.tinyworld.scene import Fact, Scene

__all__ = ["TASK_PROMPT", "captions", "draw", "succeeds"]

TASK_PROMPT = "photo of one blue rose in a vase"
"""The prompt of the task `blue-rose`."""

_CAPTIONS: Mapping[str, float] = MappingProxyType(
    {
        TASK_PROMPT: 0.45,
        "photo of one red rose in a vase": 0.05,
        "photo of one yellow rose in a vase": 0.05,
        "photo of one white rose in a vase": 0.04,
        "photo of one pink rose in a vase": 0.04,
        "photo of two blue roses in a vase": 0.04,
        "photo of two red roses in a vase": 0.04,
        "photo of two yellow roses in a vase": 0.04,
        "photo of three blue roses in a vase": 0.03,
        "photo of three red roses in a vase": 0.03,
        "photo of three white roses in a vase": 0.03,
        "photo of one red tulip in a vase": 0.04,
        "photo of one purple tulip in a vase": 0.03,
        "photo of two pink tulips in a vase": 0.03,
        "photo of three yellow tulips in a vase": 0.03,
        "photo of an empty vase": 0.03,
    }
)

_PETALS: Mapping[str, Colour] = MappingProxyType(
    {
        "blue": (35, 75, 215),
        "red": (205, 25, 40),
        "yellow": (250, 205, 35),
        "white": (250, 248, 245),
        "pink": (250, 120, 175),
        "purple": (140, 45, 165),
    }
)
_OTHER_COLOURS = ("red", "yellow", "white", "pink", "purple")
_VASES: tuple[Colour, ...] = (
    (238, 236, 230),
    (165, 85, 50),
    (110, 112, 118),
    (40, 40, 46),
    (205, 165, 115),
    (90, 60, 45),
)
_BACKGROUNDS: tuple[Colour, ...] = (
    (245, 240, 228),
    (225, 235, 245),
    (250, 222, 205),
    (205, 205, 210),
    (252, 240, 190),
    (230, 215, 240),
    (60, 55, 65),
    (95, 70, 60),
    (25, 50, 55),
    (130, 120, 115),
)
_TABLES: tuple[Colour, ...] = ((140, 95, 60), (90, 60, 45), (200, 170, 130), (70, 70, 80), (235, 230, 225))
_COUNTS: Mapping[str, int] = MappingProxyType({"one": 1, "two": 2, "three": 3})
_LEAF: Colour = (50, 140, 55)

_MIN_CONTRAST = 125.0
"""Least RGB distance of a blossom and its background."""

_FAILURES: tuple[tuple[str, float], ...] = (
    ("two blue", 0.28),
    ("three blue", 0.17),
    ("one other", 0.25),
    ("two mixed", 0.18),
    ("two other", 0.12),
)
_PLACES: Mapping[int, tuple[tuple[float, float, float], ...]] = MappingProxyType(
    {
        0: (),
        1: ((0.5, 0.29, 0.19),),
        2: ((0.28, 0.3, 0.155), (0.72, 0.3, 0.155)),
        3: ((0.19, 0.37, 0.13), (0.5, 0.21, 0.13), (0.81, 0.37, 0.13)),
    }
)
"""Number of blossoms -> their centres and radii."""


def captions() -> Mapping[str, float]:
    """Caption -> weight; the weights sum to 1."""
    return _CAPTIONS


def succeeds(task: str, facts: Mapping[str, Fact]) -> bool:
    """Whether a scene with `facts` is a success of `task`; raises ValueError if that is not `blue-rose`."""
    if task != "blue-rose":
        raise ValueError(f"flowers: no task {task!r}; this family has 'blue-rose'")
    return facts["kind"] == "rose" and facts["flowers"] == 1 and facts["blue"] == 1


def draw(caption: str, rng: np.random.Generator, *, success: bool | None = None) -> Scene:
    """A scene of `caption`.

    Facts: kind ("rose" or "tulip"), flowers (their number), blue (how many are blue), colours (their
    colours, from left to right, comma-separated). `success` forces the outcome for the task's prompt;
    the other captions are always honoured. Raises KeyError for an unknown caption.
    """
    if caption not in _CAPTIONS:
        raise KeyError(f"flowers: unknown caption {caption!r}")
    kind, colours = _bouquet(caption, rng, success)
    petals = [jitter(_PETALS[colour], rng, 10) for colour in colours]
    canvas, wall = _room(petals, rng)
    _draw_bouquet(canvas, kind, petals, wall, rng)
    facts: dict[str, Fact] = {
        "kind": kind,
        "flowers": len(colours),
        "blue": colours.count("blue"),
        "colours": ",".join(colours),
    }
    return Scene(canvas.array(), caption, facts)


def _bouquet(caption: str, rng: np.random.Generator, success: bool | None) -> tuple[str, list[str]]:
    """The kind of flower and the colour of each blossom, from left to right."""
    if caption == TASK_PROMPT:
        if success is None:
            success = bool(rng.random() < SUCCESS_SHARE["blue-rose"])
        return "rose", ["blue"] if success else _wrong_colours(rng)
    words = caption.split()
    if words[-2:] == ["empty", "vase"]:
        return "rose", []
    count, colour, kind = words[2:5]
    return kind.removesuffix("s"), [colour] * _COUNTS[count]


def _wrong_colours(rng: np.random.Generator) -> list[str]:
    """The blossoms' colours in a failure of the task."""
    kinds, shares = zip(*_FAILURES, strict=True)
    number, colour = str(rng.choice(kinds, p=shares)).split()
    other = str(rng.choice(_OTHER_COLOURS))
    if colour == "mixed":
        return ["blue", other] if rng.random() < 0.5 else [other, "blue"]
    return [other if colour == "other" else "blue"] * _COUNTS[number]


def _room(petals: Sequence[Colour], rng: np.random.Generator) -> tuple[Canvas, Colour]:
    """A wall, plain or shaded, that stands out from every blossom, and often a table; with its colour."""
    apart = [c for c in _BACKGROUNDS if all(colour_distance(c, petal) >= _MIN_CONTRAST for petal in petals)]
    wall = jitter(apart[int(rng.integers(len(apart)))], rng, 6)
    canvas = Canvas(wall)
    if rng.random() < 0.4:
        away: Colour = (255, 255, 255) if sum(wall) > 380 else (0, 0, 0)
        canvas.gradient((0, 0), (1, 1), wall, mix(wall, away, float(rng.uniform(0.25, 0.45))))
    if rng.random() < 0.7:
        tables = [c for c in _TABLES if colour_distance(c, wall) >= 60]
        table = jitter(tables[int(rng.integers(len(tables)))], rng)
        canvas.rectangle((0, float(rng.uniform(0.78, 0.87))), (1, 1), table)
    return canvas, wall


def _draw_bouquet(canvas: Canvas, kind: str, petals: Sequence[Colour], wall: Colour, rng: np.random.Generator) -> None:
    vases = [c for c in _VASES if colour_distance(c, wall) >= 90]
    vase = jitter(vases[int(rng.integers(len(vases)))], rng)
    x = 0.5 + float(rng.uniform(-0.04, 0.04))
    mouth = 0.62 + float(rng.uniform(-0.015, 0.02))
    leaf = jitter(_LEAF, rng)
    flip = -1 if rng.random() < 0.5 else 1
    for (place, height, radius), petal in zip(_PLACES[len(petals)], petals, strict=True):
        blossom = (
            x + (place - 0.5) * (1 if len(petals) > 2 else float(rng.uniform(0.98, 1.06))),
            height + float(rng.uniform(-0.02, 0.025)),
        )
        size = radius * float(rng.uniform(0.93, 1.05))
        canvas.stroke([blossom, (x, mouth + 0.05)], 0.045, leaf)
        if len(petals) == 1:
            _draw_leaf(canvas, (x, mouth - 0.05), flip, leaf)
        if kind == "rose":
            _draw_rose(canvas, blossom, size, petal, float(rng.uniform(0, math.tau)))
        else:
            _draw_tulip(canvas, blossom, size, petal)
    _draw_vase(canvas, (x, mouth), vase, str(rng.choice(("round", "tall", "conic"))))


def _draw_leaf(canvas: Canvas, foot: tuple[float, float], side: int, leaf: Colour) -> None:
    x, y = foot
    tip = (x + side * 0.2, y - 0.09)
    canvas.polygon([foot, (x + side * 0.08, y - 0.11), tip, (x + side * 0.12, y)], leaf)


def _draw_rose(canvas: Canvas, centre: tuple[float, float], radius: float, petal: Colour, turn: float) -> None:
    """A round blossom: a ring of outer petals around darker and lighter whorls."""
    x, y = centre
    shade = mix(petal, (0, 0, 0), 0.3 if sum(petal) < 600 else 0.16)
    light = mix(petal, (255, 255, 255), 0.18)
    for step in range(5):
        angle = turn + step * math.tau / 5
        bulge = (x + math.cos(angle) * radius * 0.42, y + math.sin(angle) * radius * 0.42)
        canvas.ellipse(bulge, radius * 0.6, radius * 0.6, petal)
    for share, colour in ((0.62, shade), (0.48, light), (0.26, shade)):
        offset = (1 - share) * radius * 0.14
        whorl = (x + math.cos(turn) * offset, y + math.sin(turn) * offset)
        canvas.ellipse(whorl, radius * share, radius * share, colour)


def _draw_tulip(canvas: Canvas, centre: tuple[float, float], radius: float, petal: Colour) -> None:
    """A cup with three points."""
    x, y = centre
    r = radius * 0.85
    canvas.ellipse((x, y + r * 0.25), r, r * 0.95, petal)
    crown = [(-1, 0.3), (-1, -1.05), (-0.45, -0.45), (0, -1.15), (0.45, -0.45), (1, -1.05), (1, 0.3)]
    canvas.polygon([(x + dx * r, y + dy * r) for dx, dy in crown], petal)
    canvas.ellipse((x, y + r * 0.3), r * 0.4, r * 0.7, mix(petal, (0, 0, 0), 0.15))


def _draw_vase(canvas: Canvas, mouth: tuple[float, float], vase: Colour, shape: str) -> None:
    x, y = mouth
    bottom = 0.95
    light = mix(vase, (255, 255, 255), 0.25)
    if shape == "round":
        middle = (y + bottom) / 2 + 0.02
        canvas.rectangle((x - 0.1, y), (x + 0.1, middle), vase)
        canvas.ellipse((x, middle), 0.2, bottom - middle, vase)
        canvas.ellipse((x - 0.08, middle - 0.02), 0.045, 0.07, light)
    else:
        top, foot = (0.13, 0.13) if shape == "tall" else (0.19, 0.1)
        canvas.polygon([(x - top, y), (x + top, y), (x + foot, bottom), (x - foot, bottom)], vase)
        canvas.polygon(
            [
                (x - top * 0.7, y + 0.05),
                (x - top * 0.35, y + 0.05),
                (x - foot * 0.35, bottom - 0.04),
                (x - foot * 0.7, bottom - 0.04),
            ],
            light,
        )
    canvas.rectangle((x - 0.14, y - 0.015), (x + 0.14, y + 0.03), mix(vase, (0, 0, 0), 0.15))
