"""The judge of the task `blue-rose`: finds blossoms and their colours above the vase of a 64×64 picture.

`bouquet_judge` asks the same of the task's neighbours: other counts, other colours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from hero.tinyworld.canvas import SIZE
from hero.types import Judge, Judgement

__all__ = ["bouquet_judge", "judge"]

_Mask = npt.NDArray[np.bool_]
_Pixels = npt.NDArray[np.float64]

_UPPER = 38
"""Rows above the mouth of a vase, where blossoms are."""

_LEAST_CONTRAST = 55.0
"""Least RGB distance at which a pixel stands out from the wall."""

_LEAST_RADIUS = 4.0
"""Least radius, in pixels, of the largest disc in a blossom: more than stems, leaves and specks have."""

_COLOURS: Mapping[str, tuple[float, float, float, float]] = MappingProxyType(
    {
        "white": (-180, 180, 0, 0.25),
        "blue": (-160, -100, 0.35, 1),
        "purple": (-95, -45, 0.35, 1),
        "pink": (-45, 5, 0.25, 0.65),
        "red": (-20, 25, 0.65, 1),
        "yellow": (30, 70, 0.4, 1),
    }
)
"""Colour of a blossom → least and greatest hue in degrees, least and greatest saturation."""


@dataclass(frozen=True)
class _Blossom:
    """A blossom: its centre and the radius of its largest disc in pixels, area, share of blue, name of its colour."""

    row: float
    column: float
    radius: float
    area: int
    blue: float
    colour: str


def judge(image: Image.Image) -> Judgement:
    """Success: exactly one blossom, and it is blue. Quality: contrast, colour, roundness, centring."""
    pixels = _pixels(image)
    distance = _distance_from_wall(pixels)
    blossoms = _blossoms(pixels, distance)
    if len(blossoms) == 1 and blossoms[0].blue > 0.6:
        return Judgement(True, _quality(blossoms[0], distance))
    blue = max((b.blue for b in blossoms), default=0.0)
    return Judgement(False, 0.3 * blue / max(1, len(blossoms)))


def bouquet_judge(count: int, colour: str) -> Judge:
    """A judge of another bouquet. Success: exactly `count` blossoms, all of them `colour`.

    Quality is the share of them that are, and 0 for another count. Roses and tulips are all the same to it.

    Raises:
        KeyError: no judge knows that colour.
    """
    _COLOURS[colour]

    def judge_bouquet(image: Image.Image) -> Judgement:
        pixels = _pixels(image)
        blossoms = _blossoms(pixels, _distance_from_wall(pixels))
        if len(blossoms) != count:
            return Judgement(False, 0.0)
        share = sum(blossom.colour == colour for blossom in blossoms) / count
        return Judgement(share == 1, share)

    return judge_bouquet


def _pixels(image: Image.Image) -> _Pixels:
    """(64, 64, 3) in [0, 255]."""
    rgb = image.convert("RGB")
    if rgb.size != (SIZE, SIZE):
        rgb = rgb.resize((SIZE, SIZE), Image.Resampling.BOX)
    smooth: _Pixels = ndimage.gaussian_filter(np.asarray(rgb, dtype=np.float64), (0.4, 0.4, 0))
    return smooth


def _distance_from_wall(pixels: _Pixels) -> _Pixels:
    """(38, 64): RGB distance from the wall, whose colour is taken from the frame, row by row."""
    upper = pixels[:_UPPER]
    sides = np.concatenate([upper[:, :2], upper[:, -2:]], axis=1)
    rows = np.median(sides, axis=1)
    # A blossom may touch the frame in some rows: the wall changes slowly, so a wide median repairs them.
    wall = ndimage.median_filter(rows, size=(25, 1), mode="nearest")
    return np.asarray(np.linalg.norm(upper - wall[:, None], axis=-1))


def _hue(pixels: _Pixels) -> tuple[_Pixels, _Pixels]:
    """Hue in degrees and saturation in [0, 1]."""
    red, green, blue = np.moveaxis(pixels, -1, 0)
    hue = np.rad2deg(np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue)) % 360
    high, low = pixels.max(axis=-1), pixels.min(axis=-1)
    return hue, (high - low) / np.maximum(high, 1)


def _blossoms(pixels: _Pixels, distance: _Pixels) -> list[_Blossom]:
    hue, saturation = _hue(pixels[:_UPPER])
    leaf = (hue > 80) & (hue < 175) & (saturation > 0.25)
    blue = (hue > 200) & (hue < 260) & (saturation > 0.35)
    mask = ndimage.binary_fill_holes((distance > _LEAST_CONTRAST) & ~leaf)
    # Padding keeps the cut at the lower edge from counting as inside.
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    labels, found = ndimage.label(depth >= 2)
    blossoms = []
    for label in range(1, found + 1):
        own = labels == label
        radius = float(depth[own].max())
        if radius < _LEAST_RADIUS:
            continue
        row, column = ndimage.center_of_mass(own)
        share = float(blue[own].mean())
        name = _colour(np.median(pixels[:_UPPER][own], axis=0))
        blossoms.append(_Blossom(float(row), float(column), radius, int(own.sum()), share, name))
    return blossoms


def _colour(rgb: _Pixels) -> str:
    """The name of a colour (3,) in [0, 255]; "other" where it has none here."""
    hue, saturation = (float(value[0]) for value in _hue(rgb[None]))
    signed = (hue + 180) % 360 - 180
    for name, (least, greatest, pale, vivid) in _COLOURS.items():
        if least <= signed <= greatest and pale <= saturation <= vivid:
            return name
    return "other"


def _quality(rose: _Blossom, distance: _Pixels) -> float:
    """In [0.4, 1]: contrast with the wall, pure colour, roundness, a large blossom in the middle."""
    row, column = round(rose.row), round(rose.column)
    patch = distance[max(0, row - 4) : row + 5, max(0, column - 4) : column + 5]
    contrast = min(1.0, float(np.median(patch)) / 280)
    # `area` lies one pixel inside the blossom's edge, as does the disc of radius - 1.
    roundness = min(1.0, np.pi * (rose.radius - 1) ** 2 / max(1, rose.area))
    size = min(1.0, rose.radius / 12)
    centring = max(0.0, 1 - abs(rose.column - 31.5) / 16)
    parts = 0.3 * contrast + 0.2 * rose.blue + 0.2 * roundness + 0.15 * size + 0.15 * centring
    return 0.4 + 0.6 * float(parts)
