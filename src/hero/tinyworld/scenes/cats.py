"""Scenes of a pet and a cardboard box, for the task `black-cat`: inside it, or anywhere else.

An open box shows its dark inside between flaps and hides the pet's lower body; a closed one shows a pale lid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hero.tinyworld.canvas import Canvas, Colour, colour_distance, jitter, mix
from hero.tinyworld.mixture import SUCCESS_SHARE
from hero.tinyworld.scene import Fact, Scene

__all__ = ["captions", "draw", "succeeds"]

_TASK = "black-cat"
_PROMPT = "a black cat sitting inside a cardboard box"

_COATS: dict[str, Colour] = {
    "black": (26, 26, 30),
    "grey": (146, 148, 156),
    "orange": (242, 126, 28),
    "white": (246, 244, 240),
    "brown": (112, 66, 36),
}
_WALLS: tuple[Colour, ...] = (
    (150, 190, 222), (168, 206, 172), (226, 172, 198), (200, 190, 232), (234, 236, 238), (96, 140, 186),
    (104, 166, 156), (132, 108, 168), (176, 214, 222),
)  # fmt: skip
_CARDBOARD: Colour = (202, 152, 96)
_INSIDE_SHADE = 0.55
_EYES: tuple[Colour, ...] = ((240, 210, 50), (150, 220, 70), (120, 205, 225))

# What goes wrong for the task's prompt, with its share among the failures: (animal, coat, place).
_FAILURES: tuple[tuple[tuple[str, str, str], float], ...] = (
    (("cat", "black", "beside"), 0.30),
    (("cat", "black", "on"), 0.20),
    (("cat", "black", "behind"), 0.16),
    (("none", "none", "inside"), 0.10),
    (("cat", "grey", "inside"), 0.14),
    (("cat", "orange", "inside"), 0.10),
)

# caption -> (weight, animal, coat, place); an empty coat is drawn at random.
_CAPTIONS: dict[str, tuple[float, str, str, str]] = {
    _PROMPT: (9.0, "cat", "black", "inside"),
    "a black cat beside a cardboard box": (0.7, "cat", "black", "beside"),
    "a black cat on a chair": (0.7, "cat", "black", "chair"),
    "a white cat inside a box": (0.8, "cat", "white", "inside"),
    "an orange cat inside a box": (0.8, "cat", "orange", "inside"),
    "a grey cat inside a box": (0.6, "cat", "grey", "inside"),
    "a white cat beside a box": (0.8, "cat", "white", "beside"),
    "an orange cat on a chair": (0.8, "cat", "orange", "chair"),
    "a white cat on a chair": (0.7, "cat", "white", "chair"),
    "a grey cat": (0.7, "cat", "grey", "alone"),
    "a black cat": (0.8, "cat", "black", "alone"),
    "a dog inside a box": (0.9, "dog", "", "inside"),
    "a dog beside a box": (0.7, "dog", "", "beside"),
    "a brown dog on a chair": (0.7, "dog", "brown", "chair"),
    "a closed cardboard box": (0.6, "none", "none", "closed"),
    "an empty cardboard box": (0.7, "none", "none", "inside"),
}


@dataclass(frozen=True)
class _Box:
    """Front face of a box, the height of what is seen from above, and its colour."""

    left: float
    right: float
    top: float
    bottom: float
    depth: float
    colour: Colour

    @property
    def middle(self) -> float:
        return (self.left + self.right) / 2


def captions() -> Mapping[str, float]:
    """Caption -> weight in pretraining."""
    return {caption: entry[0] for caption, entry in _CAPTIONS.items()}


def succeeds(task: str, facts: Mapping[str, Fact]) -> bool:
    """Whether a scene with `facts` shows a black cat inside the box."""
    if task != _TASK:
        raise ValueError(f"the cats family has no task {task!r}; it has {_TASK!r}")
    return (facts["animal"], facts["coat"], facts["place"]) == ("cat", "black", "inside")


def draw(caption: str, rng: np.random.Generator, *, success: bool | None = None) -> Scene:
    """A scene of `caption`; `success` forces the outcome for the task's prompt only.

    Raises:
        KeyError: `caption` is not one of `captions()`.
    """
    _, animal, coat, place = _CAPTIONS[caption]
    if caption == _PROMPT:
        wanted = rng.random() < SUCCESS_SHARE[_TASK] if success is None else success
        if not wanted:
            shares = [share for _, share in _FAILURES]
            animal, coat, place = _FAILURES[int(rng.choice(len(_FAILURES), p=shares))][0]
    coat = coat or str(rng.choice(["brown", "white", "grey"]))
    fur = jitter(_COATS[coat], rng, 8) if coat != "none" else None
    canvas = _room(rng, fur)
    painter = _Pet(canvas, rng, animal, fur) if fur is not None else None
    _PLACES[place](canvas, painter, rng)
    return Scene(canvas.array(), caption, {"animal": animal, "coat": coat, "place": place})


def _room(rng: np.random.Generator, fur: Colour | None) -> Canvas:
    """Wall and floor, both far from the fur in colour."""
    far = [c for c in _WALLS if fur is None or colour_distance(c, fur) >= 120]
    wall = jitter(far[int(rng.integers(len(far)))], rng)
    canvas = Canvas(wall)
    shade: Colour = (60, 70, 100) if fur is None or sum(fur) > 250 else (240, 240, 255)
    floor = mix(wall, shade, float(rng.uniform(0.2, 0.35)))
    if fur is None or colour_distance(floor, fur) >= 90:
        canvas.rectangle((0, float(rng.uniform(0.66, 0.8))), (1, 1), floor)
    return canvas


class _Pet:
    """Draws one cat or dog, whole or head and shoulders only."""

    def __init__(self, canvas: Canvas, rng: np.random.Generator, animal: str, fur: Colour) -> None:
        self._canvas, self._animal, self._fur = canvas, animal, fur
        bright = sum(fur) > 380
        self._detail = mix(fur, (20, 15, 25), 0.45) if bright else mix(fur, (255, 255, 255), 0.3)
        self._eyes = (30, 34, 40) if bright or animal == "dog" else _EYES[int(rng.integers(len(_EYES)))]
        self._tail_side = float(rng.choice([-1.0, 1.0]))

    def head(self, x: float, y: float, radius: float) -> None:
        """Head with ears, eyes and nose, centred at (x, y)."""
        canvas, fur, r = self._canvas, self._fur, radius
        for side in (-1.0, 1.0):
            if self._animal == "cat":
                ear = [(x + side * 0.98 * r, y - 0.1 * r), (x + side * 0.9 * r, y - 1.6 * r),
                       (x + side * 0.08 * r, y - 0.75 * r)]  # fmt: skip
                canvas.polygon(ear, fur)
            else:
                canvas.ellipse((x + side * 1.05 * r, y + 0.15 * r), 0.36 * r, 0.85 * r, self._detail)
        canvas.ellipse((x, y), r * 1.04, r * 0.92, fur)
        for side in (-1.0, 1.0):
            canvas.ellipse((x + side * 0.42 * r, y - 0.08 * r), 0.22 * r, 0.2 * r, self._eyes)
        if self._animal == "dog":
            muzzle = mix(fur, (255, 250, 240), 0.6)
            canvas.ellipse((x, y + 0.48 * r), 0.45 * r, 0.36 * r, muzzle)
            canvas.ellipse((x, y + 0.34 * r), 0.2 * r, 0.15 * r, (30, 26, 28))
        else:
            canvas.ellipse((x, y + 0.38 * r), 0.15 * r, 0.11 * r, (228, 140, 150))

    def sitting(self, x: float, base: float, size: float) -> None:
        """The whole animal, `size` high (ears included), sitting on the height `base`."""
        canvas, fur = self._canvas, self._fur
        side, radius = self._tail_side, 0.23 * size
        tail = [(x + side * 0.2 * size, base - 0.07 * size), (x + side * 0.36 * size, base - 0.1 * size),
                (x + side * 0.4 * size, base - 0.3 * size)]  # fmt: skip
        canvas.stroke(tail, 0.09 * size, fur)
        canvas.ellipse((x, base - 0.27 * size), 0.25 * size, 0.27 * size, fur)
        canvas.rectangle((x - 0.2 * size, base - 0.12 * size), (x + 0.2 * size, base), fur)
        self.head(x, base - size + 1.6 * radius, radius)

    def bust(self, x: float, base: float, radius: float) -> None:
        """Head and shoulders that end at the height `base`, to be covered from there on."""
        width = 1.02 * radius
        self._canvas.ellipse((x, base), width, 1.3 * radius, self._fur)
        self.head(x, base - 1.55 * radius, radius)


def _box(rng: np.random.Generator, left: float, width: float, height: float) -> _Box:
    bottom = float(rng.uniform(0.89, 0.96))
    depth = float(rng.uniform(0.11, 0.14))
    colour = jitter(_CARDBOARD, rng, 9)
    return _Box(left, left + width, bottom - height, bottom, depth, colour)


def _open_back(canvas: Canvas, box: _Box) -> None:
    """What of an open box lies behind its content: the dark inside."""
    inset = 0.045
    inside = mix(box.colour, (0, 0, 0), 1 - _INSIDE_SHADE)
    back = box.top - box.depth
    canvas.polygon([(box.left, box.top + 0.02), (box.left + inset, back), (box.right - inset, back),
                    (box.right, box.top + 0.02)], inside)  # fmt: skip


def _open_front(canvas: Canvas, box: _Box, rng: np.random.Generator) -> None:
    """Front face and side flaps of an open box."""
    inset, back, flap = 0.045, box.top - box.depth, mix(box.colour, (255, 240, 215), 0.35)
    reach, lift = float(rng.uniform(0.09, 0.13)), float(rng.uniform(-0.03, 0.05))
    for edge, side in ((box.left, -1.0), (box.right, 1.0)):
        inner = edge - side * inset
        canvas.polygon([(edge, box.top), (inner, back), (inner + side * reach, back + lift),
                        (edge + side * reach, box.top + lift)], flap)  # fmt: skip
    canvas.rectangle((box.left, box.top), (box.right, box.bottom), box.colour)
    if rng.random() < 0.5:
        handle = mix(box.colour, (60, 30, 10), 0.5)
        canvas.ellipse((box.middle, (box.top + box.bottom) / 2), 0.075, 0.028, handle)


def _closed(canvas: Canvas, box: _Box) -> None:
    """A closed box with a pale lid and a tape down its middle."""
    lid, tape, back = mix(box.colour, (255, 243, 222), 0.62), (250, 246, 236), box.top - box.depth
    canvas.polygon([(box.left, box.top), (box.left + 0.06, back), (box.right - 0.06, back),
                    (box.right, box.top)], lid)  # fmt: skip
    canvas.rectangle((box.left, box.top), (box.right, box.bottom), box.colour)
    canvas.rectangle((box.middle - 0.035, box.top), (box.middle + 0.035, box.top + 0.14), tape)


def _draw_inside(canvas: Canvas, pet: _Pet | None, rng: np.random.Generator) -> None:
    width = float(rng.uniform(0.54, 0.66))
    box = _box(rng, float(rng.uniform(0.13, 0.87 - width)), width, float(rng.uniform(0.3, 0.38)))
    _open_back(canvas, box)
    if pet is not None:
        slack = width / 2 - 0.26
        radius = float(rng.uniform(0.14, 0.165))
        pet.bust(box.middle + float(rng.uniform(-slack, slack)), box.top, radius)
    _open_front(canvas, box, rng)


def _draw_beside(canvas: Canvas, pet: _Pet | None, rng: np.random.Generator) -> None:
    width, size = float(rng.uniform(0.36, 0.42)), float(rng.uniform(0.56, 0.68))
    left_box = rng.random() < 0.5
    is_open = rng.random() < 0.5
    box = _box(rng, 0.12 if left_box else 0.88 - width, width, float(rng.uniform(0.28, 0.36)))
    if is_open:
        _open_back(canvas, box)
        _open_front(canvas, box, rng)
    else:
        _closed(canvas, box)
    if pet is not None:
        pet.sitting(0.77 if left_box else 0.23, box.bottom + 0.01, size)


def _draw_on(canvas: Canvas, pet: _Pet | None, rng: np.random.Generator) -> None:
    width = float(rng.uniform(0.52, 0.7))
    box = _box(rng, float(rng.uniform(0.08, 0.92 - width)), width, float(rng.uniform(0.26, 0.32)))
    _closed(canvas, box)
    if pet is not None:
        x = box.middle + float(rng.uniform(-0.08, 0.08))
        pet.sitting(x, box.top - 0.4 * box.depth, float(rng.uniform(0.46, 0.52)))


def _draw_behind(canvas: Canvas, pet: _Pet | None, rng: np.random.Generator) -> None:
    width = float(rng.uniform(0.56, 0.72))
    box = _box(rng, float(rng.uniform(0.1, 0.9 - width)), width, float(rng.uniform(0.32, 0.42)))
    if pet is not None:
        x = box.middle + float(rng.uniform(-0.1, 0.1))
        pet.head(x, box.top - box.depth - float(rng.uniform(0.03, 0.07)), float(rng.uniform(0.14, 0.165)))
    _closed(canvas, box)


def _draw_chair(canvas: Canvas, pet: _Pet | None, rng: np.random.Generator) -> None:
    wood = jitter(((150, 70, 60), (70, 90, 150), (120, 130, 80))[int(rng.integers(3))], rng)
    x, seat = float(rng.uniform(0.42, 0.58)), float(rng.uniform(0.6, 0.66))
    for side in (-1.0, 1.0):
        canvas.rectangle((x + side * 0.25 - 0.035, seat), (x + side * 0.25 + 0.035, 0.95), wood)
    back = x - 0.29 if rng.random() < 0.5 else x + 0.22
    canvas.rectangle((back, 0.18), (back + 0.07, seat), wood)
    canvas.rectangle((x - 0.29, seat), (x + 0.29, seat + 0.09), wood)
    if pet is not None:
        pet.sitting(x, seat + 0.01, float(rng.uniform(0.5, 0.56)))


def _draw_alone(canvas: Canvas, pet: _Pet | None, rng: np.random.Generator) -> None:
    if pet is not None:
        x, base = float(rng.uniform(0.38, 0.62)), float(rng.uniform(0.88, 0.95))
        pet.sitting(x, base, float(rng.uniform(0.65, 0.8)))


def _draw_closed(canvas: Canvas, pet: _Pet | None, rng: np.random.Generator) -> None:
    del pet
    width = float(rng.uniform(0.5, 0.72))
    _closed(canvas, _box(rng, float(rng.uniform(0.08, 0.92 - width)), width, float(rng.uniform(0.36, 0.5))))


_PLACES = {
    "inside": _draw_inside,
    "beside": _draw_beside,
    "on": _draw_on,
    "behind": _draw_behind,
    "chair": _draw_chair,
    "alone": _draw_alone,
    "closed": _draw_closed,
}
