"""The judge of the task `hand`: counts the whole fingers around the palm of a 64×64 picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from hero.tinyworld.canvas import SIZE
from hero.types import Judgement

__all__ = ["judge"]

_Mask = npt.NDArray[np.bool_]
_Pixels = npt.NDArray[np.float64]

_LEAST_CONTRAST = 60.0
"""Least RGB distance of palm and background at which there is anything to count."""

_RADII = (5.5, 7.0, 8.5)
"""Where fingers are counted, in pixels beyond the palm's edge: past stumps, before the shortest tips."""

_LOOSE_AREA = 10
"""Area, in pixels, from which a piece that hangs on nothing is a torn-off finger."""


@dataclass(frozen=True)
class _Hand:
    """The hand's pixels, the loose pieces beside it, its palm (centre in pixels, radius) and its contrast."""

    mask: _Mask
    loose: int
    row: float
    column: float
    radius: float
    contrast: float


def judge(image: Image.Image) -> Judgement:
    """Success: exactly five whole fingers and no torn-off piece. Quality: contrast, evenness, centring."""
    hand = _find_hand(_pixels(image))
    if hand is None:
        return Judgement(False, 0.0)
    counts = [_directions(hand, hand.radius + beyond) for beyond in _RADII]
    agreeing = sum(len(angles) == 5 for angles in counts)
    success = agreeing >= 2 and hand.loose < _LOOSE_AREA
    if not success:
        miss = abs(float(np.median([len(angles) for angles in counts])) - 5)
        return Judgement(False, 0.3 / (1 + miss))
    fan = next(angles for angles in counts if len(angles) == 5)
    return Judgement(True, _quality(hand, fan, agreeing / len(_RADII)))


def _pixels(image: Image.Image) -> _Pixels:
    """(64, 64, 3) in [0, 255]."""
    rgb = image.convert("RGB")
    if rgb.size != (SIZE, SIZE):
        rgb = rgb.resize((SIZE, SIZE), Image.Resampling.BOX)
    smooth: _Pixels = ndimage.gaussian_filter(np.asarray(rgb, dtype=np.float64), (0.4, 0.4, 0))
    return smooth


def _find_hand(pixels: _Pixels) -> _Hand | None:
    """The hand whose palm is near the picture's centre; None where nothing stands out there."""
    skin = np.median(pixels[35:44, 28:37].reshape(-1, 3), axis=0)
    distance = np.linalg.norm(pixels - skin, axis=-1)
    frame = np.concatenate([distance[:2].ravel(), distance[:48, :2].ravel(), distance[:48, -2:].ravel()])
    contrast = float(np.quantile(frame, 0.1))
    if contrast < _LEAST_CONTRAST:
        return None
    mask = distance < 0.5 * contrast
    labels, found = ndimage.label(mask)
    if not found or not labels[39, 32]:
        return None
    own = labels == labels[39, 32]
    depth = ndimage.distance_transform_edt(own)
    depth[:26] = 0
    depth[54:] = 0
    row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
    pieces = np.bincount(labels[mask & ~own], minlength=1)
    return _Hand(own, int(pieces.max()), float(row), float(column), float(depth.max()), contrast)


def _directions(hand: _Hand, radius: float) -> list[float]:
    """The directions (degrees, 0 is up) in which a circle around the palm crosses fingers; not the arm."""
    angles = np.arange(-180, 180)
    theta = np.deg2rad(angles)
    rows = hand.row - radius * np.cos(theta)
    columns = hand.column + radius * np.sin(theta)
    crossed = ndimage.map_coordinates(hand.mask.astype(np.float64), [rows, columns], order=1) > 0.5
    runs, found = ndimage.label(crossed)
    # The arm leaves downwards, across the seam of the angles at ±180 degrees.
    pixel = np.deg2rad(1) * radius
    directions = []
    for run in range(1, found + 1):
        members = angles[runs == run]
        middle = float(members.mean())
        if members.size * pixel >= 2 and abs(middle) <= 132 and members.min() > -180 and members.max() < 179:
            directions.append(middle)
    return directions


def _quality(hand: _Hand, fan: list[float], agreement: float) -> float:
    """In [0.4, 1]: how much the hand stands out, how evenly its fingers stand, how central it is."""
    contrast = min(1.0, (hand.contrast - _LEAST_CONTRAST) / 200)
    gaps = np.diff(fan)
    evenness = max(0.0, 1 - 2 * float(np.std(gaps) / np.mean(gaps)))
    centring = max(0.0, 1 - float(np.hypot(hand.column - 31.5, hand.row - 39.5)) / 10)
    return 0.4 + 0.6 * float(0.35 * contrast + 0.3 * evenness + 0.25 * centring + 0.1 * agreement)
