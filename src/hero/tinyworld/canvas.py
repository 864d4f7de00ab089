"""The drawing surface of the tiny world: 64×64 pictures, drawn four times larger and averaged down.

Coordinates are unit coordinates: (0, 0) is the upper left corner, (1, 1) the lower right one; lengths and
widths are shares of the picture's side. Colours are 8-bit RGB triples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

__all__ = ["SIZE", "Canvas", "Colour", "colour_distance", "jitter", "mix"]

SIZE = 64
"""Side of every picture of the tiny world, in pixels."""

_SUPERSAMPLING = 4

Colour = tuple[int, int, int]
Point = tuple[float, float]


class Canvas:
    """A picture being drawn; later strokes cover earlier ones."""

    def __init__(self, background: Colour) -> None:
        side = SIZE * _SUPERSAMPLING
        self._image = Image.new("RGB", (side, side), background)
        self._draw = ImageDraw.Draw(self._image)

    @staticmethod
    def _scale(points: Sequence[Point]) -> list[Point]:
        side = SIZE * _SUPERSAMPLING
        return [(x * side, y * side) for x, y in points]

    def polygon(self, points: Sequence[Point], fill: Colour) -> None:
        """Fills the polygon with corners `points`."""
        self._draw.polygon(self._scale(points), fill=fill)

    def ellipse(self, centre: Point, radius_x: float, radius_y: float, fill: Colour) -> None:
        """Fills an axis-parallel ellipse."""
        x, y = centre
        box = self._scale([(x - radius_x, y - radius_y), (x + radius_x, y + radius_y)])
        self._draw.ellipse([box[0], box[1]], fill=fill)

    def rectangle(self, upper_left: Point, lower_right: Point, fill: Colour) -> None:
        """Fills an axis-parallel rectangle."""
        box = self._scale([upper_left, lower_right])
        self._draw.rectangle([box[0], box[1]], fill=fill)

    def stroke(self, points: Sequence[Point], width: float, fill: Colour) -> None:
        """Draws a thick polyline with round ends and joints."""
        scaled = self._scale(points)
        pixels = max(1, round(width * SIZE * _SUPERSAMPLING))
        self._draw.line(scaled, fill=fill, width=pixels, joint="curve")
        radius = pixels / 2
        for x, y in (scaled[0], scaled[-1]):
            self._draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=fill)

    def gradient(self, upper_left: Point, lower_right: Point, top: Colour, bottom: Colour) -> None:
        """Fills an axis-parallel rectangle with a vertical blend from `top` to `bottom`, in 32 bands."""
        (left, upper), (right, lower) = upper_left, lower_right
        for band in range(32):
            y = upper + (lower - upper) * band / 32
            self.rectangle((left, y), (right, lower), mix(top, bottom, band / 31))

    def array(self) -> np.ndarray:
        """The finished picture: (64, 64, 3) uint8."""
        return np.asarray(self._image.resize((SIZE, SIZE), Image.Resampling.BOX), dtype=np.uint8)


def jitter(colour: Colour, rng: np.random.Generator, amount: int = 12) -> Colour:
    """`colour` with each channel moved by up to ± `amount` (of 255)."""
    moved = np.clip(np.asarray(colour) + rng.integers(-amount, amount + 1, 3), 0, 255)
    return int(moved[0]), int(moved[1]), int(moved[2])


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`a` moved towards `b`; `share` 0 gives `a`, 1 gives `b`."""
    moved = [round(x + (y - x) * share) for x, y in zip(a, b, strict=True)]
    return moved[0], moved[1], moved[2]


def colour_distance(a: Colour, b: Colour) -> float:
    """Euclidean distance of two RGB colours, 0 to 441."""
    return float(np.linalg.norm(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)))
