"""Judge of `narcissus`: a narcissus above the waterline and its own mirrored, paler image below.

Finds the waterline, the flower head on either side of it, and compares their place, size and colour.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from hero.tinyworld.canvas import SIZE
from hero.types import Judgement

__all__ = ["judge"]

_Floats = npt.NDArray[np.float64]
_Mask = npt.NDArray[np.bool_]

_MIN_AREA = 70
_MAX_SHIFT = 6.5
"""Largest distance, in pixels, of the reflected head from the mirrored place."""
_MAX_TINT = 29.0
"""Largest distance of the reflected petals' colour from a mixture of petal and water."""
_FADING = (0.06, 0.66)
"""Least and largest share of water colour in the reflected petals."""


@dataclass(frozen=True)
class _Head:
    """A flower head: its pixels, centre (row, column), petal colour and the colour behind it."""

    mask: _Mask
    centre: tuple[float, float]
    petal: _Floats
    behind: _Floats


def judge(image: Image.Image) -> Judgement:
    """Whether `image` (any size, any mode) shows a narcissus with its reflection, and how clearly."""
    rgb = _pixels(image)
    line = _waterline(rgb)
    flower = _head(rgb, 0, line - 1, contrast=75.0)
    if flower is None or not _is_narcissus(rgb, flower):
        return Judgement(False, 0.05 if flower is None else 0.1)
    mirrored = _head(rgb, line + 1, SIZE, contrast=45.0)
    if mirrored is None:
        return Judgement(False, 0.15)
    shift = _shift(flower, mirrored, line)
    tint, fading = _tint(flower, mirrored)
    ratio = float(mirrored.mask.sum() / flower.mask.sum())
    paler = _FADING[0] <= fading <= _FADING[1]
    success = shift <= _MAX_SHIFT and tint <= _MAX_TINT and 0.35 <= ratio <= 2.7 and paler
    if not success:
        return Judgement(False, float(0.35 * np.exp(-shift / 10 - tint / 80)))
    likeness = _likeness(flower, mirrored)
    parts = (1 - shift / _MAX_SHIFT, 1 - tint / _MAX_TINT, likeness, min(ratio, 1 / ratio))
    return Judgement(True, float(np.clip(0.2 + 0.8 * np.mean(parts), 0, 1)))


def _pixels(image: Image.Image) -> _Floats:
    """(64, 64, 3) RGB, 0 to 255, lightly smoothed."""
    picture = image.convert("RGB")
    if picture.size != (SIZE, SIZE):
        picture = picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    smooth: _Floats = ndimage.gaussian_filter(np.asarray(picture, dtype=np.float64), (0.5, 0.5, 0))
    return smooth


def _waterline(rgb: _Floats) -> int:
    """First row of the water: where the rows' median colour jumps most, within the middle third."""
    rows = np.median(rgb, axis=1)
    candidates = range(SIZE // 3, 2 * SIZE // 3)
    jumps = [float(np.linalg.norm(rows[row + 1] - rows[row - 2])) for row in candidates]
    return candidates[int(np.argmax(jumps))]


def _head(rgb: _Floats, first: int, last: int, *, contrast: float) -> _Head | None:
    """The largest part of rows `first` to `last` that is neither background nor leaf; None if too small."""
    part = rgb[first:last]
    behind = np.median(part, axis=(0, 1))
    red, green, blue = part[..., 0], part[..., 1], part[..., 2]
    leaf = (green - red > 22) & (green - blue > 22)
    unlike = np.linalg.norm(part - np.median(part, axis=1, keepdims=True), axis=2) > contrast
    unlike &= np.linalg.norm(part - behind, axis=2) > contrast
    mask = ndimage.binary_opening(unlike & ~leaf, structure=np.ones((2, 2)))
    labels, count = ndimage.label(mask)
    if count == 0:
        return None
    sizes = np.bincount(labels.ravel())[1:]
    if sizes.max() < _MIN_AREA:
        return None
    whole = np.zeros((SIZE, SIZE), dtype=bool)
    whole[first:last] = labels == 1 + int(sizes.argmax())
    row, column = ndimage.center_of_mass(whole)
    rim = whole & ~_core(whole)
    return _Head(whole, (float(row), float(column)), np.median(rgb[rim], axis=0), behind)


def _core(mask: _Mask) -> _Mask:
    """The middle of a head, where a narcissus has its corona."""
    row, column = ndimage.center_of_mass(mask)
    radius = 0.45 * float(np.sqrt(mask.sum() / np.pi))
    rows, columns = np.ogrid[:SIZE, :SIZE]
    core: _Mask = mask & (np.hypot(rows - row, columns - column) <= max(radius, 1.5))
    return core


def _is_narcissus(rgb: _Floats, head: _Head) -> bool:
    """White or yellow petals around an orange corona."""
    red, green, _ = head.petal
    core = np.mean(rgb[_core(head.mask)], axis=0) if _core(head.mask).any() else head.petal
    orange = (core[0] - core[1]) - (red - green)
    return bool(red > 170 and green > 150 and orange > 28 and core[0] - core[2] > 60)


def _shift(flower: _Head, mirrored: _Head, line: int) -> float:
    """Distance, in pixels, between the reflected head and where a mirror would show it."""
    expected = 2 * line - 1 - flower.centre[0]
    return float(np.hypot(mirrored.centre[0] - expected, mirrored.centre[1] - flower.centre[1]))


def _tint(flower: _Head, mirrored: _Head) -> tuple[float, float]:
    """Distance of the reflected petals from the line petal → water, and their place on it (0: as bright)."""
    way = mirrored.behind - flower.petal
    offset = mirrored.petal - flower.petal
    share = float(np.clip(offset @ way / max(1.0, float(way @ way)), 0, 1))
    return float(np.linalg.norm(offset - share * way)), share


def _likeness(flower: _Head, mirrored: _Head) -> float:
    """Intersection over union of the flower's mirrored outline and the reflection's, centres aligned."""
    flipped = flower.mask[::-1]
    row, column = ndimage.center_of_mass(flipped)
    moved = ndimage.shift(flipped.astype(np.float64), (mirrored.centre[0] - row, mirrored.centre[1] - column), order=1)
    ours = moved > 0.5
    return float((ours & mirrored.mask).sum() / max(1, (ours | mirrored.mask).sum()))
