"""Scenes of a flower by water, for the task `narcissus`: is it reflected, and is the reflection its own?

A flower is described in (x, height above the waterline); a reflection is the same flower in paler colours,
drawn through another map from height to picture row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from hero.tinyworld.canvas import Canvas, Colour, jitter, mix
from hero.tinyworld.mixture import SUCCESS_SHARE
from hero.tinyworld.scene import Fact, Scene

__all__ = ["captions", "draw", "succeeds"]

_TASK = "narcissus"
_PROMPT = "narcissus by a quiet spring and its reflection in the water"

_BANKS: tuple[Colour, ...] = (
    (52, 104, 84), (86, 76, 134), (64, 124, 128), (152, 90, 72), (150, 82, 112), (108, 124, 62),
    (72, 86, 108),
)  # fmt: skip
_WATERS: tuple[Colour, ...] = ((34, 72, 158), (20, 62, 112), (30, 88, 142), (48, 52, 122), (22, 84, 128))
_MIN_STEP = 62.0
"""Least colour distance between bank and water."""
_STEMS: tuple[Colour, ...] = ((104, 178, 62), (76, 166, 78), (134, 186, 58))

_PETALS: dict[str, tuple[Colour, ...]] = {
    "white narcissus": ((250, 250, 246), (250, 244, 216)),
    "yellow narcissus": ((252, 226, 84), (250, 232, 130)),
    "red tulip": ((214, 36, 44),),
    "purple tulip": ((170, 78, 206),),
    "pink daisy": ((248, 118, 178),),
    "blue daisy": ((96, 150, 250),),
    "orange tulip": ((246, 128, 36),),
}
_CORONAS: tuple[Colour, ...] = ((240, 128, 26), (232, 104, 34), (244, 144, 20))
# Not blue or orange: dimmed by the water they come near to a white or a yellow flower.
_OTHERS = ("red tulip", "purple tulip", "pink daisy")

# What goes wrong for the task's prompt, with its share among the failures.
_FAILURES: dict[str, float] = {"none": 0.38, "other": 0.28, "shifted": 0.16, "upright": 0.18}

# caption -> (weight, flower, reflection, setting); "narcissus" and "" draw the flower at random.
_CAPTIONS: dict[str, tuple[float, str, str, str]] = {
    _PROMPT: (9.0, "narcissus", "mirrored", "spring"),
    "narcissus by a quiet spring": (1.0, "narcissus", "none", "spring"),
    "a yellow narcissus by a quiet spring": (0.7, "yellow narcissus", "none", "spring"),
    "a white narcissus in a meadow": (0.8, "white narcissus", "none", "meadow"),
    "a yellow narcissus in a meadow": (0.7, "yellow narcissus", "none", "meadow"),
    "a red tulip and its reflection in the water": (1.1, "red tulip", "mirrored", "spring"),
    "a red tulip by a quiet spring": (0.8, "red tulip", "none", "spring"),
    "a purple tulip and its reflection in the water": (0.8, "purple tulip", "mirrored", "spring"),
    "a purple tulip in a meadow": (0.7, "purple tulip", "none", "meadow"),
    "a pink daisy and its reflection in the water": (0.8, "pink daisy", "mirrored", "spring"),
    "a pink daisy by a quiet spring": (0.7, "pink daisy", "none", "spring"),
    "a blue daisy in a meadow": (0.7, "blue daisy", "none", "meadow"),
    "an orange tulip by a quiet spring": (0.7, "orange tulip", "none", "spring"),
    "a quiet spring": (0.8, "none", "none", "spring"),
    "a flower in a meadow": (0.7, "", "none", "meadow"),
}


@dataclass(frozen=True)
class _Flower:
    """One flower; lengths in shares of the picture, heights above the waterline."""

    kind: str
    x: float
    lean: float
    height: float
    radius: float
    turn: float
    petal: Colour
    core: Colour
    stem: Colour

    def faded(self, towards: Colour, share: float) -> _Flower:
        """The same flower with colours moved towards another."""
        return replace(
            self,
            petal=mix(self.petal, towards, share),
            core=mix(self.core, towards, share),
            stem=mix(self.stem, towards, share),
        )


def captions() -> Mapping[str, float]:
    """Caption -> weight in pretraining."""
    return {caption: entry[0] for caption, entry in _CAPTIONS.items()}


def succeeds(task: str, facts: Mapping[str, Fact]) -> bool:
    """Whether a scene with `facts` shows a narcissus and its own mirrored reflection."""
    if task != _TASK:
        raise ValueError(f"the narcissus family has no task {task!r}; it has {_TASK!r}")
    return str(facts["flower"]).endswith("narcissus") and facts["reflection"] == "mirrored"


def draw(caption: str, rng: np.random.Generator, *, success: bool | None = None) -> Scene:
    """A scene of `caption`; `success` forces the outcome for the task's prompt only.

    Raises:
        KeyError: `caption` is not one of `captions()`.
    """
    _, kind, reflection, setting = _CAPTIONS[caption]
    if caption == _PROMPT:
        wanted = rng.random() < SUCCESS_SHARE[_TASK] if success is None else success
        if not wanted:
            reflection = str(rng.choice(list(_FAILURES), p=list(_FAILURES.values())))
    if kind == "narcissus":
        kind = str(rng.choice(["white narcissus", "yellow narcissus"]))
    elif not kind:
        kind = str(rng.choice(list(_PETALS)))
    if setting == "meadow":
        canvas = _meadow(rng, kind)
    else:
        canvas = _spring(rng, kind, reflection)
    return Scene(canvas.array(), caption, {"flower": kind, "reflection": reflection, "setting": setting})


def _flower(rng: np.random.Generator, kind: str) -> _Flower:
    petals = _PETALS[kind]
    core = _CORONAS[int(rng.integers(len(_CORONAS)))] if kind.endswith("narcissus") else (250, 214, 70)
    return _Flower(
        kind=kind,
        x=float(rng.uniform(0.36, 0.64)),
        lean=float(rng.uniform(-0.14, 0.14)),
        height=float(rng.uniform(0.3, 0.33)),
        radius=float(rng.uniform(0.14, 0.162)),
        turn=float(rng.uniform(0, 2 * math.pi)),
        petal=jitter(petals[int(rng.integers(len(petals)))], rng, 6),
        core=jitter(core, rng, 6),
        stem=jitter(_STEMS[int(rng.integers(len(_STEMS)))], rng),
    )


def _spring(rng: np.random.Generator, kind: str, reflection: str) -> Canvas:
    """Bank above, water below, and perhaps a flower with what the water shows of it."""
    line = float(rng.uniform(0.49, 0.51))
    bank, water = _backdrop(rng, kind)
    canvas = Canvas(bank)
    canvas.gradient((0, 0), (1, line), mix(bank, (255, 255, 255), float(rng.uniform(0, 0.1))), bank)
    canvas.gradient((0, line), (1, 1), water, mix(water, (0, 0, 20), float(rng.uniform(0, 0.25))))
    _ripples(canvas, rng, line, mix(water, (255, 255, 255), 0.13))
    if kind == "none":
        return canvas
    flower = _flower(rng, kind)
    if reflection != "none":
        _reflect(canvas, rng, flower, reflection, line, water)
    _paint(canvas, flower, lambda height: line - height)
    return canvas


def _backdrop(rng: np.random.Generator, kind: str) -> tuple[Colour, Colour]:
    """Colours of bank and water, far enough from each other and from the flower."""
    petal = np.asarray(_PETALS[kind][0] if kind != "none" else (255, 255, 255))
    pairs = [
        (bank, water)
        for bank in _BANKS
        for water in _WATERS
        if np.linalg.norm(np.subtract(bank, water)) >= _MIN_STEP
        and min(np.linalg.norm(petal - np.asarray(colour)) for colour in (bank, water)) >= 115
    ]
    bank, water = pairs[int(rng.integers(len(pairs)))]
    return jitter(bank, rng, 8), jitter(water, rng, 8)


def _ripples(canvas: Canvas, rng: np.random.Generator, line: float, colour: Colour) -> None:
    for _ in range(int(rng.integers(2, 5))):
        x, y = float(rng.uniform(0.05, 0.8)), float(rng.uniform(line + 0.08, 0.95))
        canvas.stroke([(x, y), (x + float(rng.uniform(0.1, 0.22)), y)], 0.035, colour)


def _reflect(
    canvas: Canvas, rng: np.random.Generator, flower: _Flower, reflection: str, line: float, water: Colour
) -> None:
    """What the water shows: the flower's mirror image, or one of the things that go wrong."""
    image = flower
    if reflection == "other":
        kind = str(rng.choice(_OTHERS))
        other = _flower(rng, kind)
        image = replace(flower, kind=kind, petal=other.petal, core=other.core)
    elif reflection == "shifted":
        # Away from the nearer edge, so that the head stays in the picture.
        head = flower.x + flower.lean
        side = 1.0 if head < 0.5 else -1.0
        image = replace(flower, x=flower.x + side * float(rng.uniform(0.26, 0.32)))
    image = image.faded(water, float(rng.uniform(0.22, 0.34)))
    if reflection == "upright":
        top = flower.height + flower.radius + 0.02
        _paint(canvas, image, lambda height: line + top - height)
    else:
        _paint(canvas, image, lambda height: line + height)


def _meadow(rng: np.random.Generator, kind: str) -> Canvas:
    """A tall flower on grass before the sky, no water."""
    sky: Colour = ((96, 128, 190), (110, 100, 160), (70, 110, 140))[int(rng.integers(3))]
    if kind == "blue daisy":
        sky = (236, 206, 170)
    if kind == "purple tulip":
        sky = (226, 222, 178)
    canvas = Canvas(jitter(sky, rng))
    ground = float(rng.uniform(0.68, 0.78))
    grass = jitter((58, 118, 52), rng)
    canvas.gradient((0, ground), (1, 1), grass, mix(grass, (0, 20, 0), 0.3))
    height, radius = float(rng.uniform(0.5, 0.58)), float(rng.uniform(0.16, 0.22))
    flower = replace(_flower(rng, kind), height=height, radius=radius)
    _paint(canvas, flower, lambda height: 0.92 - height)
    return canvas


def _paint(canvas: Canvas, flower: _Flower, row: Callable[[float], float]) -> None:
    """Stem, leaves and head; `row` maps a height above the waterline to a picture row."""
    head_x, height = flower.x + flower.lean, flower.height
    stem = [(flower.x + flower.lean * t * t, row(height * t)) for t in (0.0, 0.25, 0.5, 0.75, 1.0)]
    canvas.stroke(stem, 0.045, flower.stem)
    leaf = mix(flower.stem, (20, 60, 30), 0.15)
    for side, reach in ((-1.0, 0.15), (1.0, 0.12)):
        points = [(flower.x - 0.03, 0.0), (flower.x + 0.03, 0.0), (flower.x + side * reach, 0.62 * height)]
        canvas.polygon([(x, row(h)) for x, h in points], leaf)
    _paint_head(canvas, flower, head_x, row)


def _paint_head(canvas: Canvas, flower: _Flower, x: float, row: Callable[[float], float]) -> None:
    r, height = flower.radius, flower.height
    if flower.kind.endswith("tulip"):
        cup = [(-0.8, 0.9), (-0.4, 0.3), (0.0, 1.0), (0.4, 0.3), (0.8, 0.9), (0.85, -0.1), (0.5, -0.75),
               (0.0, -0.95), (-0.5, -0.75), (-0.85, -0.1)]  # fmt: skip
        canvas.polygon([(x + r * u, row(height + r * v)) for u, v in cup], flower.petal)
        return
    count = 6 if flower.kind.endswith("narcissus") else 9
    width = 0.3 if count == 6 else 0.2
    for index in range(count):
        angle = flower.turn + 2 * math.pi * index / count
        points = [(x + u, row(height + v)) for u, v in _petal(angle, r, width * r)]
        canvas.polygon(points, flower.petal)
    canvas.ellipse((x, row(height)), 0.36 * r, 0.36 * r, flower.core)


def _petal(angle: float, length: float, width: float) -> list[tuple[float, float]]:
    """Outline of an elliptic petal that starts at the origin and points towards `angle`."""
    cos, sin = math.cos(angle), math.sin(angle)
    outline = []
    for step in range(14):
        phase = 2 * math.pi * step / 14
        along, across = 0.5 * length * (1 + math.cos(phase)), width * math.sin(phase)
        outline.append((along * cos - across * sin, along * sin + across * cos))
    return outline
