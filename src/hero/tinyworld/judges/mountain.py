"""Judge of `mountain`: mountains seen through a window, from within the train.

Asks whether a wall of one colour runs round the picture, and whether a skyline of peaks lies inside it.
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

_BORDER = 4
"""Width, in pixels, of the strip in which the wall must show."""
_NEAR = 45.0
"""Colour distance up to which a pixel belongs to the wall."""
_MIN_WALL = 0.8
_MIN_RELIEF = 6.8
"""Least height, in pixels, of the skyline from valley to peak; hills stay below."""
_SKY_SPREAD = 45.0
"""Colour distance up to which a pixel belongs to the sky."""


def judge(image: Image.Image) -> Judgement:
    """Whether `image` (any size, any mode) shows mountains framed by a window, and how clearly."""
    rgb = _pixels(image)
    wall, cover = _wall(rgb)
    view = rgb[14:46, 14:50]
    apart = float(np.mean(np.linalg.norm(view - wall, axis=2) > _NEAR))
    relief, contrast = _skyline(view)
    success = cover >= _MIN_WALL and apart > 0.7 and relief >= _MIN_RELIEF and contrast > 40
    if not success:
        return Judgement(False, float(np.clip(0.3 * cover * min(1.0, relief / 8), 0, 0.3)))
    parts = (
        (cover - _MIN_WALL) / (1 - _MIN_WALL),
        (apart - 0.7) / 0.3,
        min(1.0, relief / 16),
        float(np.clip(contrast / 180, 0, 1)),
    )
    return Judgement(True, float(np.clip(0.3 + 0.7 * np.mean(parts), 0, 1)))


def _pixels(image: Image.Image) -> _Floats:
    """(64, 64, 3) RGB, 0 to 255, lightly smoothed."""
    picture = image.convert("RGB")
    if picture.size != (SIZE, SIZE):
        picture = picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    smooth: _Floats = ndimage.gaussian_filter(np.asarray(picture, dtype=np.float64), (0.5, 0.5, 0))
    return smooth


def _wall(rgb: _Floats) -> tuple[_Floats, float]:
    """The wall's colour and the share of it on the worst side of the picture.

    A seat may hide the wall below and on the lower third of one side, so those count with the top only.
    """
    upper = slice(0, 2 * SIZE // 3)
    top, left, right = rgb[:_BORDER], rgb[upper, :_BORDER], rgb[upper, -_BORDER:]
    ring = np.concatenate([part.reshape(-1, 3) for part in (top, left, right)])
    wall: _Floats = np.median(ring, axis=0)
    shares = [float(np.mean(np.linalg.norm(part - wall, axis=2) < _NEAR)) for part in (top, left, right)]
    # Below, the half of the row without a seat decides.
    low = np.linalg.norm(rgb[-_BORDER:] - wall, axis=2) < _NEAR
    shares.append(float(max(low[:, : SIZE // 2].mean(), low[:, SIZE // 2 :].mean())))
    return wall, min(shares)


def _skyline(view: _Floats) -> tuple[float, float]:
    """Relief of the border between sky and ground, in pixels, and the colour distance of the two."""
    sky, ground = np.median(view[:3], axis=(0, 1)), np.median(view[-8:], axis=(0, 1))
    contrast = float(np.linalg.norm(ground - sky))
    is_ground = np.linalg.norm(view - sky, axis=2) > _SKY_SPREAD
    is_ground = ndimage.median_filter(is_ground.astype(np.uint8), size=3) > 0
    # From below, so that a sun or a cloud is not taken for a peak.
    unbroken = np.cumprod(is_ground[::-1], axis=0).sum(axis=0)
    return float(np.percentile(unbroken, 95) - np.percentile(unbroken, 5)), contrast
