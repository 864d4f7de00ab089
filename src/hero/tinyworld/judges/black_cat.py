"""Judge of `black-cat`: a black cat that sits inside an open cardboard box.

Finds the black animal, then looks below it (the box's front face) and beside its lower end (the dark inside).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from hero.tinyworld.canvas import SIZE
from hero.types import Judgement

__all__ = ["judge"]

_Floats = npt.NDArray[np.float64]
_Mask = npt.NDArray[np.bool_]

_BLACK = 76.0
"""Largest channel of a pixel that still counts as black fur."""
_MIN_AREA = 170
_LID = 186.0
"""Luma above which cardboard is a closed lid, not the front face."""


def judge(image: Image.Image) -> Judgement:
    """Whether `image` (any size, any mode) shows a black cat inside a box, and how clearly."""
    rgb = _pixels(image)
    cat = _largest(rgb.max(axis=2) < _BLACK)
    area = int(cat.sum())
    if area < _MIN_AREA:
        return Judgement(False, 0.1 * area / _MIN_AREA)
    front, inside = _around_the_base(rgb, cat)
    height = int(np.ptp(np.flatnonzero(cat.any(axis=1)))) + 1
    success = front > 0.6 and inside > 0.35 and height >= 13
    if not success:
        return Judgement(False, 0.3 * min(front, 1.0) * min(1.0, 0.3 + inside))
    return Judgement(True, _quality(rgb, cat, front, inside))


def _pixels(image: Image.Image) -> _Floats:
    """(64, 64, 3) RGB, 0 to 255, lightly smoothed."""
    picture = image.convert("RGB")
    if picture.size != (SIZE, SIZE):
        picture = picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    smooth: _Floats = ndimage.gaussian_filter(np.asarray(picture, dtype=np.float64), (0.5, 0.5, 0))
    return smooth


def _largest(mask: _Mask) -> _Mask:
    """The largest connected part of `mask`."""
    labels, count = ndimage.label(mask)
    if count == 0:
        return mask
    sizes = np.bincount(labels.ravel())[1:]
    part: _Mask = labels == 1 + int(sizes.argmax())
    return part


def _cardboard(rgb: _Floats) -> _Mask:
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    mask: _Mask = (red - blue > 30) & (green - blue > 9) & (red - green > 8)
    return mask


def _luma(rgb: _Floats) -> _Floats:
    luma: _Floats = rgb @ np.array([0.299, 0.587, 0.114])
    return luma


def _around_the_base(rgb: _Floats, cat: _Mask) -> tuple[float, float]:
    """Shares of front face below the cat, and of dark inside beside its lower end (mostly the worse side)."""
    rows = np.flatnonzero(cat.sum(axis=1) >= 5)
    if rows.size == 0:
        return 0.0, 0.0
    bottom = int(rows.max())
    columns = np.flatnonzero(cat[max(0, bottom - 2) : bottom + 1].any(axis=0))
    left, right = int(columns.min()), int(columns.max())
    board, luma = _cardboard(rgb), _luma(rgb)
    below = (slice(bottom + 3, min(SIZE, bottom + 9)), slice(left, right + 1))
    face = board[below] & (luma[below] > 110) & (luma[below] < _LID)
    if face.shape[0] < 4:
        return 0.0, 0.0
    front = float(face.mean())
    face_luma = float(np.median(luma[below]))
    dark = board & (luma < 0.8 * face_luma)
    strip = slice(max(0, bottom - 5), bottom)
    sides = [dark[strip, max(0, left - 5) : max(0, left - 1)], dark[strip, right + 2 : right + 6]]
    shares = [float(side.mean()) if side.size else 0.0 for side in sides]
    return front, 0.35 * max(shares) + 0.65 * min(shares)


def _quality(rgb: _Floats, cat: _Mask, front: float, inside: float) -> float:
    """Mean of: clean box, dark fur, bright eyes, symmetric outline, centred."""
    rows = np.flatnonzero(cat.any(axis=1))
    columns = np.flatnonzero(cat.any(axis=0))
    head = (slice(rows[0], rows[0] + 2 * rows.size // 3), slice(columns[0], columns[-1] + 1))
    eyes = ndimage.binary_fill_holes(cat)[head] & ~cat[head]
    mirrored = cat[:, columns[0] : columns[-1] + 1]
    symmetry = float((mirrored & mirrored[:, ::-1]).sum() / max(1, (mirrored | mirrored[:, ::-1]).sum()))
    darkness = float(np.clip(1.3 - rgb[cat].mean() / 60, 0, 1))
    gaze = min(1.0, float(eyes.sum()) / 16)
    centring = 1 - abs(float(columns.mean()) - (SIZE - 1) / 2) / 16
    parts = (min(front, inside), darkness, gaze, float(np.clip(3 * symmetry - 2, 0, 1)), max(0.0, centring))
    return float(np.clip(0.3 + 0.7 * np.mean(parts), 0, 1))
