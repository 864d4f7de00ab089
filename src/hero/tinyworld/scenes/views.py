"""Scenes of landscapes, with or without a window before them, for the tasks `mountain` and `green-view`.

Two independent facts: `view` says how window and landscape relate, `ground` which colour the landscape has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from hero.tinyworld.canvas import Canvas, Colour, colour_distance, jitter, mix
from hero.tinyworld.mixture import SUCCESS_SHARE
from hero.tinyworld.scene import Fact, Scene

__all__ = ["captions", "draw", "succeeds"]

_PROMPT = "beautiful mountains viewed from a train window"

_GROUNDS: dict[str, tuple[Colour, ...]] = {
    "green": ((52, 146, 62), (76, 160, 50), (40, 128, 78)),
    "brown": ((150, 92, 52), (168, 104, 66), (134, 84, 58)),
    "grey": ((112, 112, 120), (98, 102, 112), (124, 120, 124)),
    "snow": ((240, 244, 250), (232, 240, 250)),
    "sand": ((226, 178, 92), (222, 168, 104)),
}
_SKIES: dict[str, tuple[Colour, ...]] = {
    "green": ((150, 206, 246), (250, 206, 160), (232, 214, 240), (252, 226, 190)),
    "brown": ((150, 206, 246), (250, 222, 190), (226, 220, 244)),
    "grey": ((160, 212, 250), (252, 214, 170), (248, 206, 214)),
    "snow": ((70, 132, 214), (96, 104, 190), (60, 150, 200), (130, 100, 180)),
    "sand": ((80, 160, 226), (110, 130, 210)),
}
_WALLS: tuple[Colour, ...] = (
    (232, 216, 184), (186, 192, 206), (96, 110, 148), (140, 62, 70), (206, 150, 110), (84, 62, 96),
    (62, 82, 110), (224, 190, 200),
)  # fmt: skip
_CAR_WALLS: tuple[Colour, ...] = ((44, 46, 54), (58, 50, 50), (38, 48, 70))
_SEATS: tuple[Colour, ...] = ((206, 44, 52), (44, 82, 190), (236, 130, 36), (128, 56, 160))
_WATER: Colour = (26, 80, 140)

_FAILURES: dict[str, float] = {"none": 0.4, "overlapping": 0.36, "seat outside": 0.24}
_NOT_GREEN = ("brown", "grey", "snow")

# caption -> (weight, place, ground, view, vehicle); ground "" is drawn as for the tasks' own prompt.
_CAPTIONS: dict[str, tuple[float, str, str, str, str]] = {
    _PROMPT: (9.0, "mountains", "", "framed", "train"),
    "mountains viewed from a car window": (0.9, "mountains", "", "framed", "car"),
    "hills viewed from a train window": (0.9, "hills", "", "framed", "train"),
    "green hills viewed from a train window": (0.6, "hills", "green", "framed", "train"),
    "snowy mountains viewed from a train window": (0.6, "mountains", "snow", "framed", "train"),
    "a lake viewed from a train window": (0.9, "lake", "", "framed", "train"),
    "a desert viewed from a car window": (0.8, "desert", "sand", "framed", "car"),
    "a desert": (0.7, "desert", "sand", "none", "none"),
    "green hills": (0.8, "hills", "green", "none", "none"),
    "green mountains": (0.8, "mountains", "green", "none", "none"),
    "brown mountains": (0.8, "mountains", "brown", "none", "none"),
    "grey mountains": (0.7, "mountains", "grey", "none", "none"),
    "mountains in winter": (0.9, "mountains", "snow", "none", "none"),
    "a quiet lake": (0.7, "lake", "", "none", "none"),
    "a train seat in a green meadow": (0.5, "hills", "green", "seat outside", "none"),
    "beautiful mountains": (0.4, "mountains", "", "none", "none"),
}


def captions() -> Mapping[str, float]:
    """Caption -> weight in pretraining."""
    return {caption: entry[0] for caption, entry in _CAPTIONS.items()}


def succeeds(task: str, facts: Mapping[str, Fact]) -> bool:
    """Whether a scene with `facts` is a framed view of mountains (`mountain`), or green (`green-view`).

    The lake counts as such a view: it lies before mountains.
    """
    if task == "mountain":
        return facts["place"] in ("mountains", "lake") and facts["view"] == "framed"
    if task == "green-view":
        return facts["ground"] == "green"
    raise ValueError(f"the views family has no task {task!r}; it has 'mountain' and 'green-view'")


def draw(caption: str, rng: np.random.Generator, *, success: bool | None = None, green: bool | None = None) -> Scene:
    """A scene of `caption`.

    Args:
        success: forces the outcome of `mountain`, for the tasks' own prompt only.
        green: forces the outcome of `green-view`, for captions that leave the ground open.

    Raises:
        KeyError: `caption` is not one of `captions()`.
    """
    _, place, ground, view, vehicle = _CAPTIONS[caption]
    if caption == _PROMPT:
        wanted = rng.random() < SUCCESS_SHARE["mountain"] if success is None else success
        if not wanted:
            view = str(rng.choice(list(_FAILURES), p=list(_FAILURES.values())))
    if not ground:
        is_green = rng.random() < SUCCESS_SHARE["green-view"] if green is None else green
        ground = "green" if is_green else _NOT_GREEN[int(rng.integers(len(_NOT_GREEN)))]
    canvas = _render(rng, place, ground, view, vehicle)
    facts: dict[str, Fact] = {"place": place, "ground": ground, "view": view, "vehicle": vehicle}
    return Scene(canvas.array(), caption, facts)


def _render(rng: np.random.Generator, place: str, ground: str, view: str, vehicle: str) -> Canvas:
    sky = jitter(_pick(_SKIES[ground], rng), rng, 8)
    earth = jitter(_pick(_GROUNDS[ground], rng), rng, 8)
    canvas = Canvas(sky)
    zenith: Colour = (20, 30, 90) if ground == "snow" else (255, 255, 255)
    canvas.gradient((0, 0), (1, 0.6), mix(sky, zenith, 0.15), sky)
    if rng.random() < 0.4:
        sun: Colour = (255, 240, 170) if ground == "snow" else (255, 250, 225)
        canvas.ellipse((float(rng.uniform(0.28, 0.72)), float(rng.uniform(0.22, 0.3))), 0.07, 0.07, sun)
    if view == "overlapping":
        _landscape(canvas, rng, "hills", earth, ground)
    else:
        _landscape(canvas, rng, place, earth, ground)
    if view == "seat outside":
        _seat(canvas, rng, float(rng.uniform(0.32, 0.68)), float(rng.uniform(0.86, 0.94)), 0.46, earth)
    elif view != "none" and vehicle == "car":
        _car(canvas, rng)
    elif view != "none":
        _train(canvas, rng, (sky, earth, _shadow(earth, ground)), seated=view == "framed")
    if view == "overlapping":
        _mountains(canvas, rng, earth, ground, base=1.0, spread=0.62)
    return canvas


def _pick(choices: tuple[Colour, ...], rng: np.random.Generator) -> Colour:
    return choices[int(rng.integers(len(choices)))]


def _shadow(earth: Colour, ground: str) -> Colour:
    """The shaded side of a slope."""
    return mix(earth, (92, 128, 190), 0.45) if ground == "snow" else mix(earth, (20, 20, 40), 0.3)


def _landscape(canvas: Canvas, rng: np.random.Generator, place: str, earth: Colour, ground: str) -> None:
    if place == "mountains":
        _mountains(canvas, rng, earth, ground, base=0.72, spread=0.34)
        _meadow(canvas, earth, ground, 0.68)
        return
    if place == "lake":
        _mountains(canvas, rng, earth, ground, base=0.6, spread=0.34, height=0.32)
        water = jitter(_WATER, rng)
        canvas.gradient((0, 0.56), (1, 0.72), mix(water, (255, 255, 255), 0.1), water)
        _meadow(canvas, earth, ground, 0.68)
        return
    swell = 0.03 if place == "desert" else 0.048
    for level, tone in ((0.54, _shadow(earth, ground)), (0.66, earth)):
        phase = float(rng.uniform(0, 2 * math.pi))
        waves = [(t / 16, level + swell * math.sin(phase + 7 * t / 16)) for t in range(17)]
        canvas.polygon([*waves, (1.0, 1.0), (0.0, 1.0)], tone)


def _meadow(canvas: Canvas, earth: Colour, ground: str, level: float) -> None:
    near = mix(earth, (255, 250, 200), 0.2) if ground != "snow" else mix(earth, (150, 180, 225), 0.2)
    canvas.gradient((0, level), (1, 1), near, earth)


def _mountains(
    canvas: Canvas, rng: np.random.Generator, earth: Colour, ground: str, *, base: float, spread: float,
    height: float = 0.36,
) -> None:  # fmt: skip
    """Two or three peaks, shaded on the right, that stand on the row `base`; 2 x `spread` wide at most."""
    count = int(rng.integers(2, 4))
    shadow = _shadow(earth, ground)
    slots = np.linspace(0.22, 0.78, count) + rng.uniform(-0.05, 0.05, count)
    tall = height + 0.14 if base > 0.9 else height
    for x in rng.permutation(slots):
        peak = (float(x), base - tall * float(rng.uniform(0.8, 1.1)))
        half = spread * float(rng.uniform(0.8, 1.0))
        canvas.polygon([(peak[0] - half, base), peak, (peak[0] + half, base)], earth)
        fold = peak[0] + 0.1 * half
        canvas.polygon([peak, (fold + 0.06, base - 0.45 * (base - peak[1])), (fold - 0.02, base),
                        (peak[0] + half, base)], shadow)  # fmt: skip


def _seat(canvas: Canvas, rng: np.random.Generator, x: float, base: float, size: float, behind: Colour) -> None:
    """A train seat seen from the front, `size` high, standing on the row `base`."""
    seat = jitter(_pick(tuple(c for c in _SEATS if colour_distance(c, behind) > 110), rng), rng, 8)
    dark, half = mix(seat, (0, 0, 0), 0.35), 0.36 * size
    canvas.rectangle((x - 0.75 * half, base - 0.2 * size), (x + 0.75 * half, base), (50, 50, 58))
    canvas.ellipse((x, base - 0.88 * size), 0.6 * half, 0.14 * size, seat)
    canvas.rectangle((x - 0.85 * half, base - 0.82 * size), (x + 0.85 * half, base - 0.3 * size), seat)
    canvas.rectangle((x - half, base - 0.36 * size), (x + half, base - 0.14 * size), dark)


def _frame(canvas: Canvas, box: tuple[float, float, float, float], corner: float, colour: Colour) -> None:
    """Covers everything outside `box` (left, top, right, bottom), whose corners are rounded."""
    left, top, right, bottom = box
    canvas.rectangle((0, 0), (1, top), colour)
    canvas.rectangle((0, bottom), (1, 1), colour)
    canvas.rectangle((0, 0), (left, 1), colour)
    canvas.rectangle((right, 0), (1, 1), colour)
    for x, side in ((left, 1), (right, -1)):
        for y, way in ((top, 1), (bottom, -1)):
            arc = [
                (x + side * corner * (1 - math.cos(a)), y + way * corner * (1 - math.sin(a)))
                for a in np.linspace(0, math.pi / 2, 7)
            ]
            canvas.polygon([(x, y), *arc], colour)


def _train(canvas: Canvas, rng: np.random.Generator, outside: tuple[Colour, ...], *, seated: bool) -> None:
    """The wall of a train, unlike the colours `outside`, with its window, and perhaps a seat before it."""
    far = [c for c in _WALLS if min(colour_distance(c, colour) for colour in outside) > 75]
    wall = jitter(_pick(tuple(far), rng), rng, 8)
    left, right = float(rng.uniform(0.11, 0.16)), float(rng.uniform(0.84, 0.89))
    top, bottom = float(rng.uniform(0.11, 0.16)), float(rng.uniform(0.76, 0.84))
    rim = mix(wall, (255, 255, 255), 0.6) if sum(wall) < 420 else mix(wall, (40, 40, 60), 0.6)
    _frame(canvas, (left, top, right, bottom), 0.1, rim)
    edge = 0.045
    _frame(canvas, (left - edge, top - edge, right + edge, bottom + edge), 0.12, wall)
    if seated and rng.random() < 0.65:
        _seat(canvas, rng, float(rng.choice([0.2, 0.8])), 1.12, 0.44, wall)


def _car(canvas: Canvas, rng: np.random.Generator) -> None:
    """The dark door of a car, whose window has one slanted side."""
    door = jitter(_pick(_CAR_WALLS, rng), rng, 6)
    slant, top, bottom = float(rng.uniform(0.2, 0.3)), 0.13, 0.74
    canvas.rectangle((0, 0), (1, top), door)
    canvas.rectangle((0, bottom), (1, 1), door)
    if rng.random() < 0.5:
        canvas.polygon([(0, 0), (0.1 + slant, top), (0.1, bottom), (0, 1)], door)
        canvas.rectangle((0.9, 0), (1, 1), door)
    else:
        canvas.polygon([(1, 0), (0.9 - slant, top), (0.9, bottom), (1, 1)], door)
        canvas.rectangle((0, 0), (0.1, 1), door)
    canvas.rectangle((0.38, 0.84), (0.62, 0.9), mix(door, (255, 255, 255), 0.6))
