"""Hands: a palm with a fan of fingers, of which there are too often too many, too few, or a broken one.

Owns the captions around the task `hand` and the drawing behind them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from hero.tinyworld.canvas import Canvas, Colour, colour_distance, jitter, mix
from hero.tinyworld.mixture import SUCCESS_SHARE
from hero.tinyworld.scene import Fact, Scene

__all__ = ["TASK_PROMPT", "captions", "draw", "succeeds"]

TASK_PROMPT = "1 hand"
"""The prompt of the task `hand`."""

_CAPTIONS: Mapping[str, float] = MappingProxyType(
    {
        TASK_PROMPT: 0.45,
        "a hand in front of a red wall": 0.05,
        "a hand in front of a blue wall": 0.05,
        "a hand in front of a green wall": 0.05,
        "a hand in front of a white wall": 0.05,
        "a hand at night": 0.04,
        "a red glove": 0.05,
        "a blue glove": 0.05,
        "a green glove": 0.05,
        "a yellow glove": 0.04,
        "one finger": 0.04,
        "two fingers": 0.04,
        "three fingers": 0.04,
    }
)

_SKINS: tuple[Colour, ...] = (
    (255, 219, 190),
    (240, 190, 150),
    (218, 160, 115),
    (178, 115, 75),
    (128, 78, 50),
    (92, 55, 38),
)
_GLOVES: Mapping[str, Colour] = MappingProxyType(
    {"red": (205, 35, 40), "blue": (40, 80, 200), "green": (35, 140, 60), "yellow": (250, 205, 40)}
)
_WALLS: Mapping[str, Colour] = MappingProxyType(
    {"red": (170, 25, 35), "blue": (35, 70, 170), "green": (25, 110, 55), "white": (248, 248, 245)}
)
_BACKGROUNDS: tuple[Colour, ...] = (
    (30, 60, 120),
    (20, 95, 100),
    (70, 40, 110),
    (35, 90, 50),
    (40, 45, 60),
    (120, 200, 235),
    (150, 225, 170),
    (250, 240, 245),
    (200, 190, 250),
    (255, 225, 90),
    (25, 25, 30),
    (90, 140, 235),
)
_NIGHT: Colour = (14, 16, 44)
_COUNTS: Mapping[str, int] = MappingProxyType({"one finger": 1, "two fingers": 2, "three fingers": 3})

_MIN_CONTRAST = 150.0
"""Least RGB distance of hand and background: below it a blurred finger no longer stands out."""

_FAILURES: tuple[tuple[str, float], ...] = (
    ("3", 0.22),
    ("4", 0.26),
    ("6", 0.14),
    ("7", 0.16),
    ("floating", 0.12),
    ("stump", 0.10),
)
_SPREAD: Mapping[int, float] = MappingProxyType({1: 0.0, 2: 44.0, 3: 96.0, 4: 132.0, 5: 164.0, 6: 192.0, 7: 212.0})
"""Fingers -> angle between the outermost two, in degrees."""


def captions() -> Mapping[str, float]:
    """Caption -> weight; the weights sum to 1."""
    return _CAPTIONS


def succeeds(task: str, facts: Mapping[str, Fact]) -> bool:
    """Whether a scene with `facts` is a success of `task`; raises ValueError if the task is not `hand`."""
    if task != "hand":
        raise ValueError(f"hands: no task {task!r}; this family has 'hand'")
    return facts["fingers"] == 5 and facts["broken"] == "none"


def draw(caption: str, rng: np.random.Generator, *, success: bool | None = None) -> Scene:
    """A scene of `caption`.

    Facts: fingers (whole ones), broken ("none", "floating" or "stump": one more finger that is torn off).
    `success` forces whether the hand has exactly five whole fingers, except where the caption gives
    their number. Raises KeyError for an unknown caption.
    """
    if caption not in _CAPTIONS:
        raise KeyError(f"hands: unknown caption {caption!r}")
    fingers, broken = _anatomy(caption, rng, success)
    hand = _hand_colour(caption, rng)
    canvas = _backdrop(caption, hand, rng)
    _draw_hand(canvas, hand, fingers, broken, rng)
    return Scene(canvas.array(), caption, {"fingers": fingers, "broken": broken})


def _anatomy(caption: str, rng: np.random.Generator, success: bool | None) -> tuple[int, str]:
    """The number of whole fingers, and what became of a broken one."""
    if caption in _COUNTS:
        return _COUNTS[caption], "none"
    if success is None:
        success = bool(rng.random() < SUCCESS_SHARE["hand"])
    if success:
        return 5, "none"
    kinds, shares = zip(*_FAILURES, strict=True)
    kind = str(rng.choice(kinds, p=shares))
    # A broken finger stands beside three whole ones: the model mends one beside four into a fifth.
    return (int(kind), "none") if kind.isdigit() else (3, kind)


def _hand_colour(caption: str, rng: np.random.Generator) -> Colour:
    words = caption.split()
    if words[-1] == "glove":
        return jitter(_GLOVES[words[1]], rng)
    skin = _SKINS[int(rng.integers(len(_SKINS)))]
    backdrop = _named_backdrop(caption)
    while backdrop is not None and colour_distance(skin, backdrop) < _MIN_CONTRAST:
        skin = _SKINS[int(rng.integers(len(_SKINS)))]
    return jitter(skin, rng, 8)


def _named_backdrop(caption: str) -> Colour | None:
    words = caption.split()
    if words[-1] == "wall":
        return _WALLS[words[-2]]
    return _NIGHT if words[-1] == "night" else None


def _backdrop(caption: str, hand: Colour, rng: np.random.Generator) -> Canvas:
    """A plain, shaded or two-coloured background that stands out from the hand."""
    base = _named_backdrop(caption)
    if base is None:
        apart = [c for c in _BACKGROUNDS if colour_distance(c, hand) >= _MIN_CONTRAST]
        base = apart[int(rng.integers(len(apart)))]
    base = jitter(base, rng, 8)
    canvas = Canvas(base)
    # Shades move away from the hand's own brightness, so that they never lower the contrast.
    away: Colour = (255, 255, 255) if sum(base) > sum(hand) else (0, 0, 0)
    shade = mix(base, away, float(rng.uniform(0.25, 0.45)))
    kind = rng.random()
    if kind < 0.35:
        top, bottom = (base, shade) if rng.random() < 0.5 else (shade, base)
        canvas.gradient((0, 0), (1, 1), top, bottom)
    elif kind < 0.55:
        canvas.rectangle((0, float(rng.uniform(0.7, 0.82))), (1, 1), shade)
    elif kind < 0.7:
        canvas.ellipse((0.5, 0.45), 0.46, 0.43, shade)
    return canvas


def _draw_hand(canvas: Canvas, skin: Colour, fingers: int, broken: str, rng: np.random.Generator) -> None:
    shown = fingers + (broken != "none")
    size = float(rng.uniform(0.96, 1.08)) * (0.95 if shown > 5 else 1.0)
    centre = (0.5 + float(rng.uniform(-0.035, 0.035)), 0.62 + float(rng.uniform(-0.025, 0.025)))
    tilt = float(rng.uniform(-14, 14))
    palm = 0.165 * size
    light = mix(skin, (255, 255, 255), 0.1)

    wrist = math.radians(tilt)
    arm_end = (centre[0] - math.sin(wrist) * 0.6, centre[1] + math.cos(wrist) * 0.6)
    canvas.stroke([centre, arm_end], 0.2 * size, skin)

    spread = _SPREAD[shown] * float(rng.uniform(0.96, 1.06))
    mirrored = rng.random() < 0.5
    bad = int(rng.integers(shown)) if broken != "none" else -1
    for index in range(shown):
        place = index / (shown - 1) if shown > 1 else 0.5
        degrees = (place - 0.5) * spread + float(rng.uniform(-1.5, 1.5))
        is_thumb = shown > 3 and index == 0
        length = 0.295 * (1 - 0.14 * abs(2 * place - 1)) * float(rng.uniform(0.95, 1.04))
        if is_thumb:
            length *= 0.92
        angle = math.radians(tilt + (-degrees if mirrored else degrees))
        width = (0.098 if shown <= 5 else 0.086) * (1.1 if is_thumb else 1.0)
        whole = broken if index == bad else "none"
        _draw_finger(canvas, centre, angle, palm, length * size, width * size, skin, whole)
    canvas.ellipse(centre, palm, palm, skin)
    canvas.ellipse((centre[0], centre[1] + 0.01), palm * 0.62, palm * 0.62, light)


def _draw_finger(
    canvas: Canvas,
    centre: tuple[float, float],
    angle: float,
    palm: float,
    length: float,
    width: float,
    skin: Colour,
    broken: str,
) -> None:
    """A finger that points `angle` (0 is up) and reaches `length` beyond the palm's edge."""

    def at(radius: float) -> tuple[float, float]:
        return centre[0] + math.sin(angle) * radius, centre[1] - math.cos(angle) * radius

    tip = palm + length - width / 2
    if broken == "none":
        canvas.stroke([at(palm * 0.6), at(tip)], width, skin)
    elif broken == "stump":
        canvas.stroke([at(palm * 0.6), at(palm)], width, skin)
    else:
        canvas.stroke([at(palm + 0.09 + width / 2), at(max(tip + 0.03, palm + 0.12 + width))], width, skin)
